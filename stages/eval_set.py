"""Make the frozen eval set: held-out and sealed questions, and the reference voice.

python stages/eval_set.py
"""

from pathlib import Path

import typer

from luna.stage import running


def main(folder: Path = Path("data/eval")) -> None:
    """Write items.jsonl and voice.jsonl."""
    with running("eval_set") as settings:
        from luna.eval_set.items import write_eval_set

        write_eval_set(folder, settings.params.evaluate, settings.preset.subject)


if __name__ == "__main__":
    typer.run(main)

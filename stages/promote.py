"""Hold the generation against its four gates and the evidence, and write the verdict into generation.json.

python stages/promote.py
"""

import typer

from luna.stage import ROOT, running


def main() -> None:
    """Write generation.json and print the report card."""
    with running("promote") as settings:
        from luna.outputs import read_json
        from luna.progress import say
        from luna.promote.run import card, promote

        say(card(promote(settings, ROOT), read_json(ROOT / "metrics" / "eval.json")))


if __name__ == "__main__":
    typer.run(main)

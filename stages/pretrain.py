"""Ages 0 -> 1 -> 2: train the base model from nothing. A preset with a base of its own only names it.

python stages/pretrain.py
"""

from pathlib import Path

import typer

from luna.stage import SCRATCH, running


def main(folder: Path = Path("models/base"), metrics: Path = Path("metrics/pretrain.json")) -> None:
    """Write the base model and how it was trained."""
    with running("pretrain", torch=True) as settings:
        from luna.outputs import write_json
        from luna.pretrain.run import write_base

        write_json(metrics, write_base(settings, folder, SCRATCH / "pretrain"))


if __name__ == "__main__":
    typer.run(main)

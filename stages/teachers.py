"""Bring the parent and the grandparent generation back from their git tags.

python stages/teachers.py
"""

from pathlib import Path

import typer

from luna.stage import ROOT, running


def main(folder: Path = Path("models/teachers")) -> None:
    """Write the weights of both and teachers.json, which says where they are."""
    with running("teachers") as settings:
        from luna.teachers.run import bring_teachers

        bring_teachers(settings, ROOT, folder)


if __name__ == "__main__":
    typer.run(main)

"""Find out what the parent can do, so that the teacher is asked for what lies at its frontier.

python stages/frontier.py
"""

from pathlib import Path

import typer

from luna.stage import ROOT, running


def main(output: Path = Path("metrics/frontier.json")) -> None:
    """Write the parent's accuracy by skill and the weights of the skills."""
    with running("frontier", torch=True) as settings:
        from luna.frontier.run import find_frontier
        from luna.outputs import write_json

        write_json(output, find_frontier(settings, ROOT))


if __name__ == "__main__":
    typer.run(main)

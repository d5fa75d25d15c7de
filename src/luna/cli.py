"""The command line `luna`."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Grow generations of a language model.")


@app.callback()
def main() -> None:
    """Grow generations of a language model."""


@app.command()
def card(root: Annotated[Path, typer.Option(help="The root of the repo.")] = Path()) -> None:
    """Print the report card of the generation in this tree."""
    from luna.outputs import read_json
    from luna.promote.run import card as write_card
    from luna.stage import one_line_errors

    with one_line_errors("luna card"):
        generation = read_json(root / "generation.json")
        typer.echo(write_card(generation, read_json(root / "metrics" / "eval.json")))


if __name__ == "__main__":
    app()

"""The command line `luna`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from luna.enhance.command import enhance_thinking
from luna.judge.command import check_judge
from luna.serve.command import chat, serve

if TYPE_CHECKING:
    from luna.generations.release import Outcome

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


GENERATED = Path("data/generated.jsonl")
COMPARED = Path(".luna/approaches")
Root = Annotated[Path, typer.Option(help="The root of the repo.")]
Push = Annotated[bool, typer.Option(help="Also push branch and tag to origin, both or none.")]


@app.command("next")
def open_generation(root: Root = Path()) -> None:
    """Open the next generation: name it and its teachers in params.yaml."""
    from luna.generations.guards import one_at_a_time
    from luna.generations.opening import open_next
    from luna.stage import one_line_errors

    with one_line_errors("luna next"), one_at_a_time(root):
        typer.echo(f"{open_next(root)} is open; run `dvc repro`, then `luna release`")


@app.command()
def release(root: Root = Path(), push: Push = False) -> None:
    """Commit and tag a promoted generation, archive a rejected one."""
    from luna.generations.guards import one_at_a_time
    from luna.generations.release import release as release_generation
    from luna.stage import one_line_errors

    with one_line_errors("luna release"), one_at_a_time(root):
        outcome = release_generation(root, push=push)
        _tell(outcome)
    if not outcome.promoted:
        raise typer.Exit(2)


@app.command()
def grow(
    count: Annotated[int, typer.Argument(min=1, help="How many generations.")] = 1,
    root: Root = Path(),
    push: Push = False,
    manifest: Annotated[Path | None, typer.Option(help="Grow as this evolution manifest says.")] = None,
    retries: Annotated[int, typer.Option(min=0, help="Tries after a rejection; each tightens the evidence.")] = 0,
) -> None:
    """Open, run and release generations, until all are promoted or one is rejected."""
    from luna.generations.grow import grow as grow_generations
    from luna.stage import one_line_errors

    with one_line_errors("luna grow"):
        for outcome in grow_generations(root, count, manifest=manifest, push=push, retries=retries):
            _tell(outcome)
    if not outcome.promoted:
        raise typer.Exit(2)


@app.command()
def rebuild(tag: Annotated[str, typer.Argument(help="The tag of a generation.")], root: Root = Path()) -> None:
    """Grow a released generation again from its own commit and compare every byte."""
    from luna.generations.rebuild import rebuild as rebuild_generation
    from luna.stage import one_line_errors

    with one_line_errors("luna rebuild"):
        for rebuilt in rebuild_generation(root, tag):
            typer.echo(f"{rebuilt.tag}: the same bytes (weights sha256 {rebuilt.weights_sha256})")


@app.command()
def ladder(
    root: Root = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print rows of JSON instead of a table.")] = False,
) -> None:
    """List the generations behind this repo's tags, rejected ones too."""
    import json

    from luna.generations.history import read_history
    from luna.generations.ladder import render, rows
    from luna.stage import one_line_errors

    with one_line_errors("luna ladder"):
        history = read_history(root)
        typer.echo(json.dumps(rows(history), indent=2) if as_json else render(history))


@app.command("manifest")
def show_manifest(
    tag: Annotated[str | None, typer.Argument(help="Of this generation; without it, of the one in this tree.")] = None,
    root: Root = Path(),
) -> None:
    """Print the evolution manifest of a generation as JSON."""
    import json

    from luna.generations.manifests import manifest_of
    from luna.stage import one_line_errors

    with one_line_errors("luna manifest"):
        typer.echo(json.dumps(manifest_of(root, tag), indent=2))


Provider = Annotated[str | None, typer.Option(help="Who serves the model, as LiteLLM calls it: openai, anthropic, ...")]
Teacher = Annotated[str | None, typer.Option(help="The teacher's model; without it, that of the preset.")]
ApiBase = Annotated[str | None, typer.Option(help="The address of your own server.")]
SubjectName = Annotated[str | None, typer.Option(help="arithmetic, code, socratic or a .yaml file of yours.")]


@app.command("generate")
def generate_examples(
    mode: Annotated[
        str, typer.Option(help="self-instruct, curriculum, chain-of-thought, template, socratic or mixed.")
    ] = "mixed",
    num_examples: Annotated[int | None, typer.Option(min=1, help="How many; without it, as params.yaml says.")] = None,
    provider: Provider = None,
    model: Teacher = None,
    api_base: ApiBase = None,
    subject: SubjectName = None,
    mix: Annotated[str | None, typer.Option(help="balanced or self-instruct-first.")] = None,
    templates: Annotated[Path | None, typer.Option(help="A YAML file of your own templates and prompts.")] = None,
    seed: Annotated[int | None, typer.Option(help="Another seed gives other prompts.")] = None,
    out: Annotated[Path, typer.Option(help="Where to write; a card is written beside it.")] = GENERATED,
    root: Root = Path(),
) -> None:
    """Let a teacher invent examples, outside of the pipeline; what is not said is taken from params.yaml."""
    from luna.generate.command import generate_to
    from luna.generate.options import with_options
    from luna.settings import load_settings
    from luna.stage import one_line_errors

    with one_line_errors("luna generate"):
        settings = with_options(
            load_settings(root),
            mode=mode,
            num_examples=num_examples,
            provider=provider,
            model=model,
            api_base=api_base,
            subject=subject,
            mix=mix,
            templates=templates,
            seed=seed,
        )
        typer.echo(generate_to(settings, root, out))


@app.command("compare-approaches")
def compare(
    pilot: Annotated[
        int | None,
        typer.Option(min=2, help="Ask for so many examples of each approach; without it, compare this tree's."),
    ] = None,
    approach: Annotated[list[str] | None, typer.Option(help="Only these in the pilot; give it several times.")] = None,
    provider: Provider = None,
    model: Teacher = None,
    api_base: ApiBase = None,
    subject: SubjectName = None,
    templates: Annotated[Path | None, typer.Option(help="A YAML file of your own templates and prompts.")] = None,
    judge: Annotated[
        str | None, typer.Option(help="PROVIDER/MODEL; without it the preset's, or rules alone for another subject.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Another seed gives other prompts.")] = None,
    price_prompt: Annotated[float | None, typer.Option(min=0, help="USD for a million tokens of prompts.")] = None,
    price_completion: Annotated[float | None, typer.Option(min=0, help="USD for a million tokens of replies.")] = None,
    max_usd: Annotated[float | None, typer.Option(min=0, help="Refuse a pilot that may cost more.")] = None,
    run: Annotated[list[Path] | None, typer.Option(help="Another tree whose model is to be listed too.")] = None,
    out: Annotated[Path, typer.Option(help="The folder for the report.")] = COMPARED,
    root: Root = Path(),
) -> None:
    """Compare the approaches of generation: diversity, yield, cost, what models trained on them can do."""
    from luna.compare.report import render
    from luna.compare.run import compare_approaches, pilot_of
    from luna.generate.options import with_options
    from luna.settings import load_settings
    from luna.stage import one_line_errors

    with one_line_errors("luna compare-approaches"):
        own = load_settings(root)
        settings = with_options(
            own, provider=provider, model=model, api_base=api_base, subject=subject, templates=templates, seed=seed
        )
        asked = None if pilot is None else pilot_of(own, settings, pilot, approach, judge, max_usd)
        report = compare_approaches(settings, root, out, (price_prompt, price_completion), asked, run or [])
        typer.echo(render(report), nl=False)
        typer.echo(f"\nwritten to {out}")


app.command("enhance-thinking")(enhance_thinking)
app.command("check-judge")(check_judge)
app.command()(serve)
app.command()(chat)


def _tell(outcome: "Outcome") -> None:
    if outcome.promoted:
        typer.echo(f"{outcome.name}: promoted, tagged {outcome.tag}")
        return
    failed = ", ".join(outcome.failed)
    typer.echo(f"{outcome.name}: rejected ({failed}), kept as {outcome.tag}; this tree is at its parent again")


if __name__ == "__main__":
    app()

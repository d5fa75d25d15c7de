"""The command `luna check-judge`."""

from pathlib import Path
from typing import Annotated

import typer

from luna.enhance.command import JudgeKind


def check_judge(
    golden: Annotated[Path | None, typer.Argument(help="Your own golden set. [the one that comes with Luna]")] = None,
    judge: Annotated[str | None, typer.Option(help="A model of LiteLLM's, or exact. [the preset's]")] = None,
    api_base: Annotated[str | None, typer.Option(help="A server of your own.")] = None,
    judge_kind: Annotated[JudgeKind, typer.Option(help="both: compute where that can be done.")] = JudgeKind.RUBRIC,
    root: Annotated[Path, typer.Option(help="The root of the repo.")] = Path(),
) -> None:
    """Hold a judge against attempts of which people have said whether they are right, and print how far it agrees."""
    from luna.stage import one_line_errors

    with one_line_errors("luna check-judge"):
        import json

        from luna.enhance.judges import make_judge
        from luna.judge.agreement import GOLDEN, agreement, read_golden
        from luna.llm.journal import Journal, journal_file
        from luna.settings import JudgeEndpoint, load_settings

        asked: JudgeEndpoint | str = judge or ""
        if judge is None:
            asked = load_settings(root).preset.judge
        elif judge != "exact":
            asked = JudgeEndpoint(model=judge, api_base=api_base, temperature=0.0, kind=judge_kind.value)
        found = agreement(make_judge(asked, Journal(journal_file(root)), "check-judge"), read_golden(golden or GOLDEN))
        typer.echo(json.dumps(found.as_json(), indent=2, ensure_ascii=False))

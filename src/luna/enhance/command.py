"""The command `luna enhance-thinking`, also installed as `enhance-thinking`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class OnBadRecord(StrEnum):
    """What becomes of a file with bad lines."""

    REFUSE = "refuse"
    SKIP = "skip"


class JudgeKind(StrEnum):
    """How a model judges: alone, or only what cannot be computed."""

    RUBRIC = "rubric"
    BOTH = "both"


Option = typer.Option


def enhance_thinking(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Records, a line of JSON each.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The records with their new thinking.")],
    student: Annotated[str | None, Option(help="A folder or hub name. [the model in training]")] = None,
    teacher: Annotated[str | None, Option(help="A model of LiteLLM's. [the preset's]")] = None,
    judge: Annotated[str | None, Option(help="A model of LiteLLM's, or exact. [the preset's]")] = None,
    iterations: Annotated[int, Option(min=1, help="Attempts at a question at most.")] = 3,
    api: Annotated[bool, Option("--api", help="Reach the student through LiteLLM too.")] = False,
    judge_kind: Annotated[JudgeKind, Option(help="both: compute where that can be done.")] = JudgeKind.RUBRIC,
    same_family: Annotated[bool, Option("--same-family", help="Let a judge of the teacher's family judge.")] = False,
    max_samples: Annotated[int | None, Option(min=1, help="Only the first so many records.")] = None,
    on_bad_record: Annotated[OnBadRecord, Option(help="skip: set bad lines aside.")] = OnBadRecord.REFUSE,
    failed: Annotated[Path | None, Option(help="What failed, with reasons. [OUT.failed]")] = None,
    batch_size: Annotated[int, Option(min=1, help="Questions that a local student attempts at once.")] = 10,
    four_bit: Annotated[bool | None, Option(help="Load a local student in 4 bits. [where a GPU is]")] = None,
    blind_retries: Annotated[int, Option(min=0, help="Compare hints with blind retries on so many questions.")] = 0,
    student_api_base: Annotated[str | None, Option(help="A server of your own.")] = None,
    teacher_api_base: Annotated[str | None, Option(help="A server of your own.")] = None,
    judge_api_base: Annotated[str | None, Option(help="A server of your own.")] = None,
    concurrency: Annotated[int, Option(min=1, help="Calls of a role at once at most.")] = 16,
    requests_per_minute: Annotated[int | None, Option(min=1, help="Calls of a role in a minute at most.")] = None,
    max_usd: Annotated[float | None, Option(min=0.01, help="What a role may cost.")] = None,
    seed: Annotated[int, Option(help="Of the attempts.")] = 0,
    root: Annotated[Path, Option(help="The root of the repo.")] = Path(),
) -> None:
    """Let a student attempt, be hinted at its mistakes and correct itself; its attempts become the thinking."""
    from luna.stage import one_line_errors

    with one_line_errors("enhance-thinking"):
        import json

        from luna.enhance.enhancer import StudentTeacherConfig, ThinkingEnhancer

        config = StudentTeacherConfig(
            student_model=student,
            teacher_model=teacher,
            judge_model=judge,
            max_iterations=iterations,
            use_local_student=not api,
            batch_size=batch_size,
            load_in_4bit=four_bit,
            judge_kind=judge_kind.value,
            same_family=same_family,
            on_bad_record=on_bad_record.value,
            blind_retries=blind_retries,
            student_api_base=student_api_base,
            teacher_api_base=teacher_api_base,
            judge_api_base=judge_api_base,
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
            max_usd=max_usd,
            seed=seed,
            root=root,
        )
        stats = ThinkingEnhancer(config).enhance_file(source, output, failed=failed, max_samples=max_samples)
        typer.echo(json.dumps(stats, indent=2))


def main() -> None:
    """The script `enhance-thinking`."""
    typer.run(enhance_thinking)


if __name__ == "__main__":
    main()

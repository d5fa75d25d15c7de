"""What each approach yielded: from the stages of this tree, or from a pilot made for the comparison."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from luna.arithmetic.reading import CLOSE, OPEN
from luna.arithmetic.tutor import Verdict
from luna.enhance.judges import Judge
from luna.enhance.students import Dialogue
from luna.errors import BadRecord
from luna.generate.run import COUNTED, generate
from luna.judge.run import judge as judge_records
from luna.laws import Law
from luna.llm.client import Client
from luna.outputs import read_json
from luna.records import Record, read_records
from luna.settings import Approach, Settings

APPROACHES: tuple[Approach, ...] = get_args(Approach)


@dataclass(frozen=True)
class Sample:
    """The examples of one approach.

    `counts` are those of `luna.generate.run.COUNTED`, over all calls, the lost ones too. `accepted` of `judged`
    examples passed the judge; None: nobody has judged them. `mastered` says of each example whether it went well: the
    student got it right in the end, or, in a pilot, the judge accepted the teacher's solution.
    """

    approach: Approach
    records: list[Record]
    counts: Mapping[str, int]
    accepted: int | None = None
    judged: int | None = None
    mastered: list[tuple[Record, bool]] = field(default_factory=list)


def from_tree(root: Path) -> list[Sample]:
    """The samples behind data/raw.jsonl, and how the judge stage took them, if it has.

    Raises:
        BadRecord: there are no generated records, or they are not those that the metrics speak of.
        LunaError: metrics/generate.json is missing.
    """
    raw, stats = read_records(root / "data" / "raw.jsonl"), read_json(root / "metrics" / "generate.json")
    files = [root / "data" / name for name in ("judged.jsonl", "rejected.jsonl")]
    sorted_out = [read_records(path, allow_empty=True) for path in files] if all(p.is_file() for p in files) else None
    samples = []
    for approach in APPROACHES:
        records = _of(raw, approach)
        counts = stats.get("by_approach", {}).get(approach, {})
        if len(records) != counts.get("examples", 0) or (records and not counts.keys() >= set(COUNTED)):
            raise BadRecord("data/raw.jsonl: metrics/generate.json counts other records; run `dvc repro generate`")
        if records:
            samples.append(_judged_in_tree(Sample(approach, records, counts), sorted_out))
    return samples


def _of(records: Sequence[Record], approach: str) -> list[Record]:
    return [record for record in records if record.metadata.get("approach") == approach]


def _judged_in_tree(sample: Sample, sorted_out: list[list[Record]] | None) -> Sample:
    if sorted_out is None:
        return sample
    accepted, rejected = (_of(records, sample.approach) for records in sorted_out)
    mastered = [(record, bool(record.metadata.get("thinking_converged"))) for record in [*accepted, *rejected]]
    total = len(accepted) + len(rejected)
    return Sample(sample.approach, sample.records, sample.counts, len(accepted), total, mastered)


def from_pilot(
    settings: Settings,
    approaches: Sequence[Approach],
    n: int,
    client: Client,
    judge: Judge | None,
    laws: Sequence[Law],
    eval_questions: Collection[str],
    on_progress: Callable[[int], None] = lambda count: None,
) -> list[Sample]:
    """Ask the teacher for `n` examples of each approach and judge its own solutions.

    Accepted is what the judge stage would let pass and, where there is a judge, what it finds right. Dialogues have no
    solution to be found right.

    Raises:
        TeacherError: the teacher gave too few usable replies to an approach.
    """
    samples = []
    for approach in approaches:
        generated = generate(_only(settings, approach, n), None, client, on_progress, eval_questions)
        counts = generated.stats["by_approach"][approach]
        passed = _passed(settings, generated.records, judge if approach != "socratic" else None, laws, eval_questions)
        mastered = list(zip(generated.records, passed, strict=True))
        samples.append(Sample(approach, generated.records, counts, sum(passed), len(passed), mastered))
    return samples


def _only(settings: Settings, approach: Approach, n: int) -> Settings:
    asked = settings.params.generate.model_copy(update={"mix": {approach: 1.0}, "num_examples": n})
    return Settings(params=settings.params.model_copy(update={"generate": asked}), preset=settings.preset)


def _passed(
    settings: Settings,
    records: Sequence[Record],
    judge: Judge | None,
    laws: Sequence[Law],
    eval_questions: Collection[str],
) -> list[bool]:
    """For each record whether it would be accepted."""
    dialogues = [_unanswered(record) for record in records]
    arithmetic = settings.preset.subject == "arithmetic"
    found = judge_records(
        [_with_solution(record) for record in records],
        dialogues,
        laws,
        set(eval_questions),
        arithmetic=arithmetic,
        unconverged="teacher",
    )
    ids = Counter(record.metadata["id"] for record in found.accepted)
    passed = [record.metadata["id"] in ids for record in records]
    if judge is None:
        return passed
    attempts = [f"{OPEN}\n{record.thinking}\n{CLOSE}\n{record.answer}" for record in records]
    verdicts = judge.verdicts(dialogues, attempts)
    right = [isinstance(verdict, Verdict) and verdict.correct for verdict in verdicts]
    return [whole and found_right for whole, found_right in zip(passed, right, strict=True)]


def _unanswered(record: Record) -> Dialogue:
    last = max(index for index, turn in enumerate(record.messages) if turn.role == "user")
    return Dialogue([{"role": turn.role, "content": turn.content} for turn in record.messages[: last + 1]])


def _with_solution(record: Record) -> Record:
    """As the judge stage gets a question that its student could not answer."""
    solution: dict[str, Any] = {"original_thinking": record.thinking or record.answer}
    return record.model_copy(update={"metadata": dict(record.metadata) | solution})

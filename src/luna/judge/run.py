"""Accept or reject every enhanced example, each with a reason; nothing is dropped silently.

An example is accepted if its student converged, its final attempt agrees with the record, breaks no law, shows nothing
that is kept for evaluation and repeats no other example. Where the student did not converge, the teacher's own solution
can stand in (`judge.unconverged`); it must pass the same checks.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from luna.answers import normalized, same_answer
from luna.arithmetic.problems import holds_held_out, holds_sealed, split_of
from luna.arithmetic.wording import read as read_question
from luna.contamination import EvalNgrams, Overlap
from luna.enhance.students import Dialogue
from luna.enhance.thinking import split_reply
from luna.errors import BadRecord
from luna.laws import Law, broken_by
from luna.records import Record

Json = dict[str, Any]


@dataclass(frozen=True)
class Judged:
    """`accepted` records carry their attempts in metadata, `rejected` ones the reason.

    The thinking of a record that is learned from the teacher is the teacher's again; its attempts all failed.
    """

    accepted: list[Record]
    rejected: list[Record]
    metrics: Json


def judge(
    records: Sequence[Record],
    dialogues: Sequence[Dialogue],
    laws: Sequence[Law],
    eval_questions: set[str],
    *,
    arithmetic: bool,
    unconverged: Literal["teacher", "reject"],
) -> Judged:
    """Sort records into accepted and rejected.

    Args:
        dialogues: of the same questions in the same order, as the enhance stage wrote them.
        eval_questions: the questions of the eval set, normalized; no text of an accepted record holds one of them.
        arithmetic: the records are of the embedded domain, whose answers can be compared and whose sealed range and
            compositions must stay sealed.
        unconverged: what becomes of questions that the student could not answer.
    """
    asked = [[(turn["role"], turn["content"]) for turn in dialogue.context][-1:] for dialogue in dialogues]
    if asked != [[("user", record.question)] for record in records]:
        raise BadRecord("data/dialogues.jsonl: is of another run than the records; run `dvc repro --force enhance`")
    accepted: list[Record] = []
    rejected: list[Record] = []
    seen: set[str] = set()
    ngrams, checked = EvalNgrams(eval_questions), 0
    for record, dialogue in zip(records, dialogues, strict=True):
        lesson = _lesson(record, dialogue, unconverged)
        overlap = ngrams.overlap(_texts(lesson))
        checked += overlap.checked
        reason = _contamination(lesson, eval_questions, overlap) or _objection(lesson, dialogue, laws, seen)
        if reason is None and arithmetic:
            reason = _arithmetic_objection(lesson)
        if reason is None:
            seen.add(normalized(record.question))
            accepted.append(lesson)
        else:
            rejected.append(_with(record, rejected_because=reason))
    metrics = _metrics(accepted, rejected) | {"eval_ngrams": len(ngrams), "ngrams_checked": checked}
    return Judged(accepted, rejected, metrics)


def _lesson(record: Record, dialogue: Dialogue, unconverged: str) -> Record:
    """The record as it would be learned: from the student's attempts, or from the teacher's solution."""
    solution = record.metadata.get("original_thinking")
    attempts = [asdict(turn) for turn in dialogue.turns]
    if not dialogue.converged and unconverged == "teacher" and solution:
        return _with(record, thinking=solution, attempts=attempts, learned_from="teacher")
    return _with(record, attempts=attempts, learned_from="student")


def _metrics(accepted: Sequence[Record], rejected: Sequence[Record]) -> Json:
    reasons = Counter(record.metadata["rejected_because"].split(":")[0] for record in rejected)
    sources = Counter(record.metadata["learned_from"] for record in accepted)
    total = len(accepted) + len(rejected)
    return {
        "total": total,
        "accepted": len(accepted),
        "rejected": len(rejected),
        "acceptance_rate": len(accepted) / total,
        "learned_from_student": sources["student"],
        "learned_from_teacher": sources["teacher"],
        "contaminated": reasons["contaminated"],
        "rejected_by_reason": dict(sorted(reasons.items())),
        "accepted_by_approach": dict(sorted(Counter(str(r.metadata.get("approach")) for r in accepted).items())),
    }


def _texts(lesson: Record) -> list[str]:
    """Whatever of a record may be trained on: its turns, its thinking, every attempt and every hint."""
    attempts = lesson.metadata["attempts"]
    said = [turn[part] for turn in attempts for part in ("attempt", "hint") if turn[part]]
    return [*(turn.content for turn in lesson.messages), lesson.thinking, *said]


def _contamination(lesson: Record, eval_questions: set[str], overlap: Overlap) -> str | None:
    """Why a record would teach the eval set; questions too short for n-grams are compared whole."""
    if normalized(lesson.question) in eval_questions:
        return "contaminated: the question stands in the eval set"
    return f"contaminated: {overlap.objection}" if overlap.objection else None


def _objection(lesson: Record, dialogue: Dialogue, laws: Sequence[Law], seen: set[str]) -> str | None:
    """Why a record is not accepted, as `kind: detail`; None where nothing speaks against it."""
    if normalized(lesson.question) in seen:
        return "duplicate: the question was accepted before"
    if lesson.metadata["learned_from"] == "student" and not dialogue.converged:
        return f"not converged: {dialogue.turns[-1].reason}"
    broken = broken_by(lesson, laws)
    return f"law: {broken[0].law} broken: {broken[0].excerpt}" if broken else None


def _arithmetic_objection(lesson: Record) -> str | None:
    thinking, answer = lesson.thinking, lesson.answer
    if lesson.metadata["learned_from"] == "student":
        thinking, answer = split_reply(lesson.metadata["attempts"][-1]["attempt"])
    problem = read_question(lesson.question)
    if problem is not None and split_of(problem) == "eval":
        return "contaminated: the problem belongs to the eval split"
    if not same_answer(answer, lesson.answer):
        return f"disputed: the student's answer was judged right, but the record says {lesson.answer!r}"
    if holds_sealed(lesson.question) or holds_sealed(thinking):
        return "sealed: it works on numbers or a composition that are kept for evaluation"
    if holds_held_out(thinking):
        return "held out: its way works on a problem that is kept for evaluation"
    return None


def _with(record: Record, **fields: Any) -> Record:
    return record.model_copy(update={"metadata": dict(record.metadata) | fields})

"""Accept or reject every enhanced example, each with a reason; nothing is dropped silently.

An example is accepted if its student found the answer, a judge accepts the final attempt against the record's own
answer, it breaks no law, shows nothing sealed, repeats no other example and asks nothing of the eval set.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from luna.answers import normalized, same_answer
from luna.arithmetic.problems import holds_held_out, holds_sealed, split_of
from luna.arithmetic.wording import read as read_question
from luna.enhance.students import Dialogue
from luna.enhance.thinking import split_reply
from luna.errors import BadRecord
from luna.laws import Item, Law, violations
from luna.records import Record

Json = dict[str, Any]


@dataclass(frozen=True)
class Judged:
    """`accepted` records carry their attempts in metadata, `rejected` ones the reason."""

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
) -> Judged:
    """Sort records into accepted and rejected.

    Args:
        dialogues: of the same questions in the same order, as the enhance stage wrote them.
        eval_questions: the questions of the eval set, normalized.
        arithmetic: the records are of the embedded domain, whose answers can be compared and whose sealed range and
            compositions must stay sealed.
    """
    asked = [[(turn["role"], turn["content"]) for turn in dialogue.context][-1:] for dialogue in dialogues]
    if asked != [[("user", record.question)] for record in records]:
        raise BadRecord("data/dialogues.jsonl: is of another run than the records; run `dvc repro --force enhance`")
    accepted: list[Record] = []
    rejected: list[Record] = []
    seen: set[str] = set()
    for record, dialogue in zip(records, dialogues, strict=True):
        reason = _objection(record, dialogue, laws, eval_questions, seen)
        if reason is None and arithmetic:
            reason = _arithmetic_objection(record, dialogue)
        if reason is None:
            seen.add(normalized(record.question))
            accepted.append(_with(record, attempts=[asdict(turn) for turn in dialogue.turns]))
        else:
            rejected.append(_with(record, rejected_because=reason))
    reasons = Counter(record.metadata["rejected_because"].split(":")[0] for record in rejected)
    metrics: Json = {
        "total": len(records),
        "accepted": len(accepted),
        "rejected": len(rejected),
        "acceptance_rate": len(accepted) / len(records),
        "rejected_by_reason": dict(sorted(reasons.items())),
        "accepted_by_approach": dict(sorted(Counter(str(r.metadata.get("approach")) for r in accepted).items())),
    }
    return Judged(accepted, rejected, metrics)


def _objection(
    record: Record, dialogue: Dialogue, laws: Sequence[Law], eval_questions: set[str], seen: set[str]
) -> str | None:
    """Why a record is not accepted, as `kind: detail`; None where nothing speaks against it."""
    question = normalized(record.question)
    if question in eval_questions:
        return "contaminated: the question stands in the eval set"
    if question in seen:
        return "duplicate: the question was accepted before"
    if not dialogue.converged:
        return f"not converged: {dialogue.turns[-1].reason}"
    final = dialogue.turns[-1].attempt
    broken = violations(laws, "data", [Item(final, "final attempt"), Item(record.thinking, "thinking")])
    broken += violations(laws, "hint", [Item(hint, "hint", record.answer) for hint in dialogue.hints])
    return f"law: {broken[0].law} broken in {broken[0].where}: {broken[0].excerpt}" if broken else None


def _arithmetic_objection(record: Record, dialogue: Dialogue) -> str | None:
    final = dialogue.turns[-1].attempt
    problem = read_question(record.question)
    if problem is not None and split_of(problem) == "eval":
        return "contaminated: the problem belongs to the eval split"
    if not same_answer(split_reply(final)[1], record.answer):
        return f"disputed: the student's answer was judged right, but the record says {record.answer!r}"
    if holds_sealed(record.question) or holds_sealed(final):
        return "sealed: it works on numbers or a composition that are kept for evaluation"
    if holds_held_out(final):
        return "held out: the student's way works on a problem that is kept for evaluation"
    return None


def _with(record: Record, **fields: Any) -> Record:
    return record.model_copy(update={"metadata": dict(record.metadata) | fields})

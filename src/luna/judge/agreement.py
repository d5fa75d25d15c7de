"""How far a judge agrees with a golden set: attempts of which people have said whether they are right."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luna.enhance.judges import Judge
from luna.enhance.students import Dialogue
from luna.errors import BadRecord
from luna.llm.client import Failure
from luna.records import read_lines

GOLDEN = Path(__file__).with_name("golden.jsonl")


@dataclass(frozen=True)
class Golden:
    """An attempt and the truth about it; `context` is what was said before the question."""

    question: str
    attempt: str
    correct: bool
    answer: str | None = None
    context: str | None = None

    @property
    def dialogue(self) -> Dialogue:
        before = [{"role": "system", "content": self.context}] if self.context else []
        return Dialogue([*before, {"role": "user", "content": self.question}], answer=self.answer)  # type: ignore[list-item]


@dataclass(frozen=True)
class Agreement:
    """Counts over a golden set; `wrong` are the items on which judge and people differ, and what the judge said."""

    items: int
    judged: int
    false_accepts: int
    false_rejects: int
    wrong: list[dict[str, Any]]

    @property
    def rate(self) -> float | None:
        """The share of judged items on which both agree; None if none could be judged."""
        return 1 - len(self.wrong) / self.judged if self.judged else None

    def as_json(self) -> dict[str, Any]:
        counts = {"items": self.items, "judged": self.judged, "agreement": self.rate}
        return {
            **counts,
            "false_accepts": self.false_accepts,
            "false_rejects": self.false_rejects,
            "wrong": self.wrong,
        }


def read_golden(path: Path = GOLDEN) -> list[Golden]:
    """Read a golden set, `{"question", "attempt", "correct"}` a line, and where they help `answer` and `context`.

    Raises:
        BadRecord: a line is none of it, or the file is missing or empty; names file and line.
    """
    rows = read_lines(path)
    if not rows:
        raise BadRecord(f"{path}: holds no item; give at least one line of JSON")
    return [_golden(path, number, row) for number, row in enumerate(rows, start=1)]


def _golden(path: Path, number: int, row: dict[str, Any]) -> Golden:
    kinds = {"question": str, "attempt": str, "correct": bool}
    missing = [name for name, kind in kinds.items() if not isinstance(row.get(name), kind)]
    if missing:
        raise BadRecord(f"{path}: item {number}: needs {', '.join(kinds)}; lacks {', '.join(missing)}")
    return Golden(row["question"], row["attempt"], row["correct"], row.get("answer"), row.get("context"))


def agreement(judge: Judge, golden: Sequence[Golden]) -> Agreement:
    """Hold a judge against a golden set. Items it has no verdict on count as not judged."""
    verdicts = judge.verdicts([item.dialogue for item in golden], [item.attempt for item in golden])
    judged = [(item, said) for item, said in zip(golden, verdicts, strict=True) if not isinstance(said, Failure)]
    wrong = [(item, said) for item, said in judged if said.correct is not item.correct]
    accepts = sum(said.correct for _, said in wrong)
    told = [
        {"question": item.question, "attempt": item.attempt, "correct": item.correct, "judge": said.reason}
        for item, said in wrong
    ]
    return Agreement(len(golden), len(judged), accepts, len(wrong) - accepts, told)

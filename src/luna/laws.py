"""Laws: what no text may hold, declared in laws.yaml and checked by pattern, by predicate or by a judge."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from luna.errors import LunaError
from luna.leaks import reveals_answer
from luna.records import Record
from luna.settings import explain

Scope = Literal["data", "reply", "hint"]
Line = Annotated[str, Field(min_length=1, pattern=r"^[^\n]*\S[^\n]*$")]


class LawError(LunaError):
    """laws.yaml does not hold what it should, or a law cannot be checked."""


@dataclass(frozen=True)
class Item:
    """A text to check. `where` is named in a violation; `answer` is the expected answer, if there is one."""

    text: str
    where: str
    answer: str | None = None


@dataclass(frozen=True)
class Violation:
    """A law broken by the text at `where`."""

    law: str
    where: str
    excerpt: str


@dataclass(frozen=True)
class Question:
    """What a judge is asked about one text. Yes means that the law is broken."""

    law: str
    question: str
    item: Item


Judge = Callable[[Sequence[Question]], Sequence[bool]]
Predicate = Callable[[Item], str | None]  # the offending excerpt, or None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Check(_Strict):
    """How a law is checked: exactly one of the three."""

    pattern: Line | None = None
    predicate: str | None = None
    judge: Line | None = None

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"bad regex: {error}") from error
        return pattern

    @field_validator("predicate")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in PREDICATES:
            raise ValueError(f"unknown predicate {name!r}; choose one of {', '.join(PREDICATES)}")
        return name

    @model_validator(mode="after")
    def _one_way(self) -> "Check":
        if len([way for way in (self.pattern, self.predicate, self.judge) if way is not None]) != 1:
            raise ValueError("give exactly one of pattern, predicate and judge")
        return self


class Law(_Strict):
    """One rule of laws.yaml. `says` tells a person in one sentence what it asks for."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    scope: Annotated[list[Scope], Field(min_length=1)]
    says: Line
    check: Check


# ---------------------------------------------------------------- reading laws.yaml


def load_laws(path: Path) -> list[Law]:
    """Read the laws.

    Raises:
        LawError: the file is missing or no list of laws, or a law is wrong; names the file and the law.
    """
    entries = _read_list(path)
    laws = [_law(path, number, entry) for number, entry in enumerate(entries, start=1)]
    seen: set[str] = set()
    for law in laws:
        if law.id in seen:
            raise LawError(f"{path}: {law.id}: there are two laws of this id; rename one")
        seen.add(law.id)
    return laws


def _read_list(path: Path) -> list[Any]:
    if not path.is_file():
        raise LawError(f"{path}: no such file; write it or mend `laws` in params.yaml")
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise LawError(f"{path}: is no YAML: {problem}; mend that line") from error
    if not isinstance(value, list):
        raise LawError(f"{path}: is no list of laws; start every law with `- id:`")
    return value


def _law(path: Path, number: int, entry: Any) -> Law:
    name = entry.get("id", f"law {number}") if isinstance(entry, dict) else f"law {number}"
    try:
        return Law.model_validate(entry)
    except ValidationError as error:
        raise LawError(f"{path}: {name}: {explain(error, Law)}") from error


# ---------------------------------------------------------------- checking


def violations(laws: Sequence[Law], scope: Scope, texts: Iterable[Item], judge: Judge | None = None) -> list[Violation]:
    """Every law of a scope that a text breaks, law by law in the order of the file; judged laws come last.

    Args:
        judge: answers all questions of judged laws at once, True where the law is broken.

    Raises:
        LawError: a law of this scope asks a judge and there is none, the judge leaves a question unanswered, or a text
            lacks what a predicate needs.
    """
    items = list(texts)
    binding = [law for law in laws if scope in law.scope]
    questions = [Question(law.id, law.check.judge, item) for law in binding if law.check.judge for item in items]
    found = [
        Violation(law.id, item.where, excerpt)
        for law in binding
        if not law.check.judge
        for item in items
        if (excerpt := _broken(law.check, item)) is not None
    ]
    return found + _judged(questions, judge)


def broken_by(record: Record, laws: Sequence[Law]) -> list[Violation]:
    """Every law that a training record breaks: in its turns, its thinking, its right attempt and its hints."""
    name = str(record.metadata.get("id", "record"))
    attempts = record.metadata.get("attempts") or []
    texts = [turn.content for turn in record.messages] + [turn["attempt"] for turn in attempts[-1:] if turn["correct"]]
    texts += [record.thinking] if record.thinking else []
    hints = [Item(turn["hint"], name, record.answer) for turn in attempts if turn["hint"]]
    return violations(laws, "data", [Item(text, name) for text in texts]) + violations(laws, "hint", hints)


def _broken(check: Check, item: Item) -> str | None:
    if check.predicate:
        return PREDICATES[check.predicate](item)
    match = re.search(check.pattern or "", item.text)
    return _around(item.text, *match.span()) if match else None


def _judged(questions: Sequence[Question], judge: Judge | None) -> list[Violation]:
    if not questions:
        return []
    if judge is None:
        raise LawError(f"law {questions[0].law} asks a judge and there is none; configure a judge or remove the law")
    answers = judge(questions)
    if len(answers) != len(questions):
        raise LawError(f"the judge answered {len(answers)} of {len(questions)} questions on laws; run the stage again")
    return [
        Violation(asked.law, asked.item.where, _around(asked.item.text, 0, 0))
        for asked, broken in zip(questions, answers, strict=True)
        if broken
    ]


def _around(text: str, start: int, end: int, margin: int = 30) -> str:
    """The piece of a text with what stands beside it, on one line of at most 100 characters."""
    return " ".join(text[max(0, start - margin) : end + margin].split())[:100]


# ---------------------------------------------------------------- predicates

_THINK_TAG = re.compile(r"</?think>")
_THINKING = re.compile(r"<think>.*?</think>", re.DOTALL)


def _unclosed_thinking(item: Item) -> str | None:
    """A thinking block that never ends, or ends without a beginning, or begins twice."""
    is_open, last = False, 0
    for tag in _THINK_TAG.finditer(item.text):
        closes = tag[0] == "</think>"
        if closes != is_open:
            return _around(item.text, *tag.span())
        is_open, last = not closes, tag.start()
    return _around(item.text, last, last) if is_open else None


def _empty_reply(item: Item) -> str | None:
    """Nothing but blanks outside the thinking."""
    return None if _THINKING.sub("", item.text).strip() else _around(item.text, 0, 0)


def _hint_reveals_answer(item: Item) -> str | None:
    """The expected answer stands in the hint: word for word, or as an equal number."""
    if item.answer is None or not item.answer.strip():
        raise LawError(f"{item.where}: a hint without an expected answer cannot be checked; give it one")
    return _around(item.text, 0, 0, margin=100) if reveals_answer(item.text, item.answer) else None


PREDICATES: dict[str, Predicate] = {
    "unclosed_thinking": _unclosed_thinking,
    "hint_reveals_answer": _hint_reveals_answer,
    "empty_reply": _empty_reply,
}

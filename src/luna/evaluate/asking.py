"""Asking a model the frozen items: replies, what is right, and how long it took."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from luna.answers import same_answer
from luna.arithmetic.reading import CLOSE, OPEN
from luna.errors import LunaError
from luna.eval_set.items import EvalItem, Suite
from luna.evaluate.how import how_asked
from luna.lm.chat import prompt_ids
from luna.lm.load import LoadedModel
from luna.lm.sample import Decoding, sample_replies
from luna.progress import bar, say
from luna.settings import Settings

SUITES: tuple[Suite, ...] = ("recall", "generalize")


@dataclass(frozen=True)
class Asked:
    """One model's replies to all items, whether each is right, the seconds it took, and how it was asked.

    `seconds` is None for replies that an earlier evaluation had kept.
    """

    replies: list[str]
    right: list[bool]
    seconds: float | None
    how: dict[str, Any]


def ask(settings: Settings, loaded: LoadedModel, items: Sequence[EvalItem], name: str) -> Asked:
    """Ask every item; `name` is for the log."""
    decoding, seed = decoding_of(settings), settings.params.evaluate.seed
    prompts = [prompt_ids(loaded.tokenizer, [{"role": "user", "content": item.question}]) for item in items]
    start = time.perf_counter()
    with bar(f"evaluate {name}", len(items)) as advance:
        replies = sample_replies(loaded.model, loaded.tokenizer, prompts, decoding, seed, advance)
    seconds = time.perf_counter() - start
    return mark(items, replies, seconds, how_asked(loaded, items, decoding, seed), name)


def decoding_of(settings: Settings) -> Decoding:
    """How replies to the eval set are drawn."""
    student = settings.preset.student
    return Decoding(settings.params.evaluate.temperature, student.max_new_tokens, student.batch_size)


def mark(items: Sequence[EvalItem], replies: list[str], seconds: float | None, how: dict[str, Any], name: str) -> Asked:
    """Tell right replies from wrong ones; the log gets the accuracies."""
    right = [is_right(reply, item.answer) for reply, item in zip(replies, items, strict=True)]
    asked = Asked(replies, right, seconds, how)
    accuracies = "  ".join(f"{suite} {accuracy(items, asked, suite):.3f}" for suite in SUITES)
    say(f"evaluate  {name:<6}  {accuracies}{'  (replies kept before)' if seconds is None else ''}")
    return asked


def is_right(reply: str, answer: str) -> bool:
    """The answer after the thinking is the expected one; a reply whose thinking never ends has none."""
    _, closed, said = reply.rpartition(CLOSE)
    return bool(closed or OPEN not in reply) and same_answer(said, answer)


def pick(items: Sequence[EvalItem], asked: Asked, suite: Suite) -> list[bool]:
    """Right or wrong for the items of one suite, in their order."""
    return [right for item, right in zip(items, asked.right, strict=True) if item.suite == suite]


def accuracy(items: Sequence[EvalItem], asked: Asked, suite: Suite) -> float:
    """Share of right replies in a suite.

    Raises:
        LunaError: the suite is empty.
    """
    picked = pick(items, asked, suite)
    if not picked:
        raise LunaError(f"data/eval: holds no {suite} item; raise evaluate.{suite}_items in params.yaml")
    return sum(picked) / len(picked)

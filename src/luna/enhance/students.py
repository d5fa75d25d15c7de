"""The student: the model in training, attempting questions in its own words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from luna.arithmetic.reading import OPEN, read_attempt
from luna.lm.chat import Message, prompt_ids
from luna.lm.load import LoadedModel
from luna.lm.sample import Decoding, sample_replies
from luna.settings import Student

if TYPE_CHECKING:
    from luna.llm.calls import Failure


@dataclass
class Turn:
    """One attempt: what the student said, what the judge found, and the hint that followed (None after the last)."""

    attempt: str
    correct: bool
    reason: str
    first_wrong_line: int | None
    hint: str | None = None


@dataclass
class Dialogue:
    """All attempts at one question.

    Attributes:
        context: the conversation up to and with the question.
        answer: the expected one, for teacher, judge and the check of leaks; never in the student's view.
    """

    context: list[Message]
    turns: list[Turn] = field(default_factory=list)
    answer: str | None = None

    @property
    def question(self) -> str:
        return self.context[-1]["content"]

    @property
    def converged(self) -> bool:
        return bool(self.turns) and self.turns[-1].correct

    @property
    def hints(self) -> list[str]:
        return [turn.hint for turn in self.turns if turn.hint is not None]


class Attempter(Protocol):
    """Whoever attempts questions: one reply for each dialogue, in view of its hints so far, or why there is none."""

    def attempt(self, dialogues: Sequence[Dialogue], seed: int) -> "Sequence[str | Failure]": ...


class LocalStudent:
    """A model on this machine. A student without hints in a dialogue simply tries the question afresh."""

    def __init__(
        self, loaded: LoadedModel, settings: Student, on_progress: Callable[[int], None] = lambda done: None
    ) -> None:
        self.loaded = loaded
        self.settings = settings
        self.on_progress = on_progress

    def attempt(self, dialogues: Sequence[Dialogue], seed: int) -> list[str]:
        views = [retry_view(dialogue, self.settings.retry_view) for dialogue in dialogues]
        prompts = [prompt_ids(self.loaded.tokenizer, view.messages, view.kept + view.hint) for view in views]
        hinted = any(dialogue.hints for dialogue in dialogues)
        decoding = Decoding(self._temperature(hinted), self.settings.max_new_tokens, self.settings.batch_size)
        said = sample_replies(
            self.loaded.model, self.loaded.tokenizer, prompts, decoding, seed, on_progress=self.on_progress
        )
        return [view.kept + rest for view, rest in zip(views, said, strict=True)]

    def _temperature(self, hinted: bool) -> float:
        retry = self.settings.retry_temperature
        return retry if hinted and retry is not None else self.settings.temperature


class View(NamedTuple):
    """What a student sees: the conversation, the beginning of its own reply that it keeps, and a hint put there.

    The hint is in the student's view but no part of its reply.
    """

    messages: list[Message]
    kept: str = ""
    hint: str = ""


def retry_view(dialogue: Dialogue, kind: str) -> View:
    """The view for the next attempt of a dialogue."""
    if not dialogue.hints:
        return View(dialogue.context)
    if kind == "transcript":
        return View(dialogue.context + _transcript(dialogue))
    last = dialogue.turns[-1]
    return View(dialogue.context, right_lines(last), f"{last.hint}\n")


def _transcript(dialogue: Dialogue) -> list[Message]:
    messages: list[Message] = []
    for turn in dialogue.turns:
        if turn.hint is not None:
            messages += [{"role": "assistant", "content": turn.attempt}, {"role": "user", "content": turn.hint}]
    return messages


def right_lines(turn: Turn) -> str:
    """The attempt's thinking up to its first wrong line, as the beginning of a new reply."""
    lines = read_attempt(turn.attempt).lines[: turn.first_wrong_line or 0]
    return f"{OPEN}\n" + "".join(f"{line}\n" for line in lines)

"""The loop: attempt, verdict, hint, new attempt, until right or out of iterations.

All questions go through an iteration together, so that the student works in batches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from luna.arithmetic.tutor import Verdict
from luna.arithmetic.tutor import judge as judge_exactly
from luna.arithmetic.wording import read as read_question
from luna.enhance.prompts import hint_messages, parse_hint, parse_verdict, verdict_messages
from luna.enhance.students import Attempter, Dialogue, Turn
from luna.errors import TeacherError
from luna.laws import reveals_answer
from luna.llm.client import Client, Request
from luna.llm.replies import UnusableReplyError

T = TypeVar("T")
SAFE_HINT = "Go through your steps again from the first one and look for the one that does not hold."


class Judge(Protocol):
    """Whoever decides whether attempts are right."""

    def verdicts(self, dialogues: Sequence[Dialogue], attempts: Sequence[str]) -> list[Verdict]: ...


class ExactJudge:
    """The arithmetic verifier, in this process."""

    def verdicts(self, dialogues: Sequence[Dialogue], attempts: Sequence[str]) -> list[Verdict]:
        return [_exact(dialogue.question, attempt) for dialogue, attempt in zip(dialogues, attempts, strict=True)]


def _exact(question: str, attempt: str) -> Verdict:
    problem = read_question(question)
    if problem is None:
        raise TeacherError(f"judge: exact cannot read {question!r}; use a model as the judge of such questions")
    return judge_exactly(problem, attempt)


class ModelJudge:
    """A model behind LiteLLM as the judge. A verdict that cannot be read is asked for once more."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def verdicts(self, dialogues: Sequence[Dialogue], attempts: Sequence[str]) -> list[Verdict]:
        requests = [
            Request(verdict_messages(dialogue.question, attempt))
            for dialogue, attempt in zip(dialogues, attempts, strict=True)
        ]
        return ask_and_read(self.client, requests, parse_verdict)


def ask_and_read(client: Client, requests: Sequence[Request], read: Callable[[str], T]) -> list[T]:
    """Ask, read each reply, and ask once more where it cannot be read.

    Raises:
        TeacherError: a reply cannot be read the second time either.
    """
    out: dict[int, T] = {}
    again = list(range(len(requests)))
    reason = ""
    for round_ in range(2):
        replies = client.ask_all([Request(requests[i].messages, seed=(requests[i].seed or 0) + round_) for i in again])
        unread = []
        for i, reply in zip(again, replies, strict=True):
            try:
                out[i] = read(reply.text)
            except UnusableReplyError as error:
                unread.append(i)
                reason = str(error)
        again = unread
        if not again:
            return [out[i] for i in range(len(requests))]
    raise TeacherError(
        f"{client.endpoint.model}: {len(again)} replies cannot be read, twice ({reason});"
        " choose another model in the preset"
    )


@dataclass
class LeakCount:
    """Hints that gave the answer away: `caught` were replaced, `kept` are in a dialogue (there must be none)."""

    caught: int = 0
    kept: int = 0


class HintingTeacher:
    """Gives a hint for each wrong attempt; one that leaks the answer is asked for again, then replaced."""

    def __init__(self, client: Client, answers: Sequence[str]) -> None:
        self.client = client
        self.leaks = LeakCount()
        self._answers = answers

    def hints(self, dialogues: Sequence[Dialogue], indices: Sequence[int]) -> list[str]:
        requests = [
            Request(hint_messages(dialogue.question, dialogue.turns[-1].attempt, dialogue.hints))
            for dialogue in dialogues
        ]
        hints = ask_and_read(self.client, requests, parse_hint)
        leaking = [i for i, hint in enumerate(hints) if reveals_answer(hint, self._answers[indices[i]])]
        if leaking:
            self.leaks.caught += len(leaking)
            second = ask_and_read(self.client, [Request(requests[i].messages, seed=7) for i in leaking], parse_hint)
            for i, hint in zip(leaking, second, strict=True):
                hints[i] = SAFE_HINT if reveals_answer(hint, self._answers[indices[i]]) else hint
        self.leaks.kept += sum(reveals_answer(hint, self._answers[i]) for hint, i in zip(hints, indices, strict=True))
        return hints


def converse(
    dialogues: Sequence[Dialogue],
    student: Attempter,
    judge: Judge,
    teacher: HintingTeacher | None,
    max_iterations: int,
    seed: int,
    on_iteration: Callable[[int, int], None] = lambda iteration, open_: None,
) -> None:
    """Fill the dialogues with turns. Without a teacher every retry is blind: the question is tried afresh.

    Args:
        on_iteration: called after each iteration with its number and how many questions are still open.
    """
    open_ = list(range(len(dialogues)))
    for iteration in range(1, max_iterations + 1):
        asked = [dialogues[i] for i in open_]
        attempts = student.attempt(asked, seed * 1000 + iteration)
        verdicts = judge.verdicts(asked, attempts)
        for dialogue, attempt, verdict in zip(asked, attempts, verdicts, strict=True):
            dialogue.turns.append(Turn(attempt, verdict.correct, verdict.reason, verdict.first_wrong_line))
        open_ = [i for i in open_ if not dialogues[i].converged]
        on_iteration(iteration, len(open_))
        if not open_ or iteration == max_iterations:
            return
        if teacher is not None:
            wrong = [dialogues[i] for i in open_]
            for dialogue, hint in zip(wrong, teacher.hints(wrong, open_), strict=True):
                dialogue.turns[-1].hint = hint

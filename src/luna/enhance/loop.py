"""The loop: attempt, verdict, hint, new attempt, until right or out of iterations.

All questions go through an iteration together, so that the student works in batches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from luna.arithmetic.tutor import Verdict
from luna.arithmetic.tutor import judge as judge_exactly
from luna.arithmetic.wording import read as read_question
from luna.enhance.prompts import hint_messages, parse_hint, parse_verdict, verdict_messages
from luna.enhance.students import Attempter, Dialogue, Turn
from luna.errors import TeacherError
from luna.leaks import reveals_answer
from luna.llm.client import Client, Failure, Request
from luna.llm.replies import UnusableReplyError

T = TypeVar("T")
SAFE_HINT = "Go through your steps again from the first one and look for the one that does not hold."


class Judge(Protocol):
    """Whoever decides whether attempts are right. A `Failure` stands where no verdict could be had."""

    def verdicts(self, dialogues: Sequence[Dialogue], attempts: Sequence[str]) -> Sequence[Verdict | Failure]: ...


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
    """A model behind LiteLLM as the judge. A verdict that cannot be read is asked for once more.

    Equal attempts at equal questions get one verdict, whoever made them and whenever.
    """

    def __init__(self, client: Client) -> None:
        self.client = client

    def verdicts(self, dialogues: Sequence[Dialogue], attempts: Sequence[str]) -> list[Verdict | Failure]:
        requests = [
            Request(verdict_messages(dialogue.question, attempt))
            for dialogue, attempt in zip(dialogues, attempts, strict=True)
        ]
        return ask_and_read(self.client, requests, parse_verdict)


def ask_and_read(client: Client, requests: Sequence[Request], read: Callable[[str], T]) -> list[T | Failure]:
    """Ask, read each reply, and ask once more where it cannot be read; a `Failure` where there is nothing to read."""
    out: dict[int, T | Failure] = {}
    again = list(range(len(requests)))
    for round_ in range(2):
        asked = [replace(requests[i], seed=(requests[i].seed or 0) + round_) for i in again]
        for i, reply in zip(again, client.ask_all(asked), strict=True):
            try:
                out[i] = reply if isinstance(reply, Failure) else read(reply.text)
            except UnusableReplyError as error:
                if round_:
                    out[i] = Failure(f"no reply that can be read, twice ({error})", "choose another model")
        again = [i for i in again if i not in out]
        if not again:
            break
    return [out[i] for i in range(len(requests))]


@dataclass
class LeakCount:
    """Hints that gave the answer away: `caught` were replaced, `kept` are in a dialogue (there must be none)."""

    caught: int = 0
    kept: int = 0


class HintingTeacher:
    """Gives a hint for each wrong attempt; one that leaks the answer is asked for again, then replaced.

    Args:
        answers: of all questions, by their index.
        student: the hash of the student's weights: another student gets hints of its own.
    """

    def __init__(self, client: Client, answers: Sequence[str], student: str = "") -> None:
        self.client = client
        self.leaks = LeakCount()
        self._answers = answers
        self._student = student

    def hints(self, dialogues: Sequence[Dialogue], indices: Sequence[int]) -> list[str | Failure]:
        requests = [self._request(dialogue) for dialogue in dialogues]
        hints = ask_and_read(self.client, requests, parse_hint)
        leaking = [i for i, hint in enumerate(hints) if self._leaks(hint, indices[i])]
        if leaking:
            self.leaks.caught += len(leaking)
            second = ask_and_read(self.client, [replace(requests[i], seed=7) for i in leaking], parse_hint)
            for i, hint in zip(leaking, second, strict=True):
                hints[i] = SAFE_HINT if isinstance(hint, Failure) or self._leaks(hint, indices[i]) else hint
        self.leaks.kept += sum(self._leaks(hint, i) for hint, i in zip(hints, indices, strict=True))
        return hints

    def _request(self, dialogue: Dialogue) -> Request:
        messages = hint_messages(dialogue.question, dialogue.turns[-1].attempt, dialogue.hints)
        return Request(messages, marks={"iteration": len(dialogue.turns), "student": self._student})

    def _leaks(self, hint: str | Failure, index: int) -> bool:
        return isinstance(hint, str) and reveals_answer(hint, self._answers[index])


def converse(
    dialogues: Sequence[Dialogue],
    student: Attempter,
    judge: Judge,
    teacher: HintingTeacher | None,
    max_iterations: int,
    seed: int,
    on_iteration: Callable[[int, int], None] = lambda iteration, open_: None,
) -> dict[int, str]:
    """Fill the dialogues with turns. Without a teacher every retry is blind: the question is tried afresh.

    Args:
        on_iteration: called after each iteration with its number and how many questions are still open.

    Returns:
        The dialogues that could not be finished, by their index, and why: a verdict or a hint was not to be had.
    """
    open_ = list(range(len(dialogues)))
    failed: dict[int, str] = {}
    for iteration in range(1, max_iterations + 1):
        asked = [dialogues[i] for i in open_]
        attempts = student.attempt(asked, seed * 1000 + iteration)
        verdicts = judge.verdicts(asked, attempts)
        for i, attempt, verdict in zip(open_, attempts, verdicts, strict=True):
            if isinstance(verdict, Failure):
                failed[i] = f"no verdict: {verdict.reason}"
            else:
                dialogues[i].turns.append(Turn(attempt, verdict.correct, verdict.reason, verdict.first_wrong_line))
        open_ = [i for i in open_ if i not in failed and not dialogues[i].converged]
        on_iteration(iteration, len(open_))
        if teacher is not None and open_ and iteration < max_iterations:
            failed |= _hint(dialogues, open_, teacher)
            open_ = [i for i in open_ if i not in failed]
        if not open_:
            break
    return failed


def _hint(dialogues: Sequence[Dialogue], open_: Sequence[int], teacher: HintingTeacher) -> dict[int, str]:
    """Put a hint behind the last turn of each open dialogue; returns why there is none, by index."""
    failed: dict[int, str] = {}
    for i, hint in zip(open_, teacher.hints([dialogues[i] for i in open_], open_), strict=True):
        if isinstance(hint, Failure):
            failed[i] = f"no hint: {hint.reason}"
        else:
            dialogues[i].turns[-1].hint = hint
    return failed

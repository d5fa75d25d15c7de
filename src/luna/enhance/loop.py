"""The loop: attempt, verdict, hint, new attempt, until right or out of iterations.

All questions go through an iteration together, so that the student works in batches.
"""

from collections.abc import Callable, Sequence

from luna.enhance.hints import HintingTeacher
from luna.enhance.judges import Judge
from luna.enhance.students import Attempter, Dialogue, Turn
from luna.llm.client import Failure

Numbered = Sequence[tuple[int, Dialogue]]


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
        The dialogues that could not be finished, by their index, and why: an attempt, a verdict or a hint was not to be
        had.
    """
    open_ = list(range(len(dialogues)))
    failed: dict[int, str] = {}
    for iteration in range(1, max_iterations + 1):
        failed |= _attempt([(i, dialogues[i]) for i in open_], student, judge, seed * 1000 + iteration)
        open_ = [i for i in open_ if i not in failed and not dialogues[i].converged]
        on_iteration(iteration, len(open_))
        if teacher is not None and open_ and iteration < max_iterations:
            failed |= _hint([(i, dialogues[i]) for i in open_], teacher)
            open_ = [i for i in open_ if i not in failed]
        if not open_:
            break
    return failed


def _attempt(open_: Numbered, student: Attempter, judge: Judge, seed: int) -> dict[int, str]:
    """Put a judged attempt behind each open dialogue; returns why there is none, by index."""
    failed: dict[int, str] = {}
    made: list[tuple[int, Dialogue, str]] = []
    for (i, dialogue), attempt in zip(open_, student.attempt([dialogue for _, dialogue in open_], seed), strict=True):
        if isinstance(attempt, Failure):
            failed[i] = f"no attempt: {attempt.reason}"
        else:
            made.append((i, dialogue, attempt))
    verdicts = judge.verdicts([dialogue for _, dialogue, _ in made], [attempt for _, _, attempt in made])
    for (i, dialogue, attempt), verdict in zip(made, verdicts, strict=True):
        if isinstance(verdict, Failure):
            failed[i] = f"no verdict: {verdict.reason}"
        else:
            dialogue.turns.append(Turn(attempt, verdict.correct, verdict.reason, verdict.first_wrong_line))
    return failed


def _hint(open_: Numbered, teacher: HintingTeacher) -> dict[int, str]:
    """Put a hint behind the last turn of each open dialogue; returns why there is none, by index."""
    failed: dict[int, str] = {}
    for (i, dialogue), hint in zip(open_, teacher.hints([dialogue for _, dialogue in open_]), strict=True):
        if isinstance(hint, Failure):
            failed[i] = f"no hint: {hint.reason}"
        else:
            dialogue.turns[-1].hint = hint
    return failed

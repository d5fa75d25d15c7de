"""The rule-based tutor's knowledge: judging an attempt, finding its first mistake, hinting at it.

A hint points at one line and never holds the final answer. `firm` hints also show the line's result.
"""

import re
from dataclasses import dataclass

from luna.arithmetic.layouts import COLUMN_NAMES, Method, solve
from luna.arithmetic.problems import Problem
from luna.arithmetic.reading import Attempt, read_attempt, statements

_LABEL = re.compile(rf"^(?:{'|'.join(COLUMN_NAMES)}) ")


@dataclass(frozen=True)
class Verdict:
    """`correct`: right final answer, closed thinking and no false statement. `first_wrong_line`: index into the
    attempt's thinking lines (its length where lines are missing); `reason` says in words what is wrong."""

    correct: bool
    first_wrong_line: int | None
    reason: str


def judge(problem: Problem, reply: str) -> Verdict:
    """Judge a reply by truth alone: any layout passes that ends in the right answer and states nothing false."""
    attempt = read_attempt(reply)
    stated = statements("\n".join(attempt.lines))
    false = [statement for statement, true in stated if not true]
    if attempt.closed and attempt.answer == problem.answer and not false:
        checked = "; ".join(statement for statement, _ in stated) or "none is made"
        return Verdict(
            True, None, f"{problem.answer} is right, and every statement holds when computed again: {checked}"
        )
    index = first_wrong_line(problem, attempt)
    if not attempt.closed:
        reason = "the thinking never ends"
    elif false:
        reason = f"{false[0]} is false"
    elif attempt.answer is None:
        reason = "there is no final answer"
    else:
        reason = "the final answer is wrong"
    return Verdict(False, index, reason)


def _plain(line: str) -> str:
    return _LABEL.sub("", line)


def method_of(problem: Problem, attempt: Attempt) -> Method:
    """The method whose solution agrees longest with an attempt; `columns` when nothing tells them apart."""
    labelled = any(_LABEL.match(line) for line in attempt.lines)
    methods: tuple[Method, ...] = ("columns", "parts") if labelled else ("columns", "bare", "parts")
    shape = {method: _agreement(solve(problem, method), attempt.lines) for method in methods}
    return max(methods, key=lambda method: shape[method])


def _agreement(solution: list[str], lines: list[str]) -> int:
    count = 0
    for right, line in zip(solution, lines, strict=False):
        if right != line:
            break
        count += 1
    return count


def first_wrong_line(problem: Problem, attempt: Attempt) -> int:
    """The first line that is false or leaves the way its own method takes; len(lines) if lines are missing."""
    solution = solve(problem, method_of(problem, attempt))
    for index, line in enumerate(attempt.lines):
        if index >= len(solution) or _plain(line) != _plain(solution[index]):
            return index
    return len(attempt.lines)


def hint(problem: Problem, reply: str, *, firm: bool) -> str:
    """A hint about the first mistake of a wrong attempt.

    Where only the result of a line is wrong, pointing at its left side would tell nothing new: the hint shows the
    line's result, as long as that is not the answer.

    Args:
        firm: show the whole line that belongs there in any case.
    """
    attempt = read_attempt(reply)
    method = method_of(problem, attempt)
    index = first_wrong_line(problem, attempt)
    if index >= len(solve(problem, method)):
        return "Your steps are right. Read the result off the last line."
    return hint_at(problem, method, index, firm=firm or _left_side_is_right(problem, method, attempt, index))


def _left_side_is_right(problem: Problem, method: Method, attempt: Attempt, index: int) -> bool:
    right = solve(problem, method)[index]
    said = attempt.lines[index] if index < len(attempt.lines) else ""
    return "=" in right and _plain(said).rpartition("=")[0] == _plain(right).rpartition("=")[0]


def hint_at(problem: Problem, method: Method, index: int, *, firm: bool) -> str:
    """The hint for one line of a problem's solution: the line as it belongs there, as far as it may be told.

    The line is quoted exactly as the student would write it, so that a small model can follow it.
    """
    line = solve(problem, method)[index]
    left = line.rpartition("=")[0] if "=" in line else line.split(" ")[0]
    told = [line, left] if firm else [left]
    for text in told:
        if problem.answer not in (int(number) for number in re.findall(r"\d+", text)):
            return f"Check this: {text}."
    return "Check what you wrote last."

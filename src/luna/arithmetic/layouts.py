"""Worked solutions: several right ways to write the same calculation down.

`columns` works digit by digit from the ones with a carry, `bare` is the same without the column names, and `parts`
takes the second number apart. A solution is a list of lines; every step starts with its heading (`47+38`) and ends
with `so VALUE`.
"""

import random
from typing import Literal

from luna.arithmetic.problems import Problem, Step, is_sealed, split_of

Method = Literal["columns", "bare", "parts"]
COLUMN_NAMES = ("ones", "tens", "hundreds", "thousands", "ten-thousands", "hundred-thousands")
LONGEST_IN_PARTS = 4  # digits; longer numbers make longer texts than a small model should have to write
METHOD_WEIGHTS: dict[Method, float] = {"columns": 0.6, "bare": 0.2, "parts": 0.2}


def digit(number: int, place: int) -> int:
    return int(number // 10**place % 10)


def column_lines(step: Step) -> list[str]:
    """The columns of one step, from the ones up, each as `NAME x+y+carry=NN`.

    Results have two digits so that carry and written digit stand at fixed places; a borrow is shown as `+10`.
    """
    widest = len(str(step.a)) if step.op == "*" else max(len(str(step.a)), len(str(step.b)))
    lines, carry = [], 0
    for place in range(widest):
        x = digit(step.a, place)
        y = step.b if step.op == "*" else digit(step.b, place)
        if step.op == "-":
            borrow = int(x - carry < y)
            lines.append(f"{x}-{y}-{carry}+{borrow}0={x + 10 * borrow - y - carry:02d}")
            carry = borrow
        else:
            total = x * y + carry if step.op == "*" else x + y + carry
            lines.append(f"{x}{step.op}{y}+{carry}={total:02d}")
            carry = total // 10
    return lines


def part_steps(step: Step) -> list[Step]:
    """One step by taking a number apart: 47+30, then 77+8; a product multiplies each part and adds up."""
    source = step.a if step.op == "*" else step.b
    parts = [digit(source, place) * 10**place for place in reversed(range(len(str(source)))) if digit(source, place)]
    if step.op == "*":
        steps = [Step("*", part, step.b) for part in parts]
        total = steps[0].value if steps else 0
        for product in steps[1:]:
            steps = [*steps, Step("+", total, product.value)]
            total += product.value
        return steps
    steps, value = [], step.a
    for part in parts:
        steps.append(Step(step.op, value, part))
        value = steps[-1].value
    return steps


def solve(problem: Problem, method: Method = "columns") -> list[str]:
    """The worked solution of a problem by one method, heading and result line of each step included."""
    lines: list[str] = []
    for step in problem.steps:
        lines.append(str(step))
        if method == "parts":
            lines += [f"{part}={part.value}" for part in part_steps(step)]
        else:
            names = [f"{name} " if method == "columns" else "" for name in COLUMN_NAMES]
            lines += [name + line for name, line in zip(names, column_lines(step), strict=False)]
        lines.append(f"so {step.value}")
    return lines


def choose_method(rng: random.Random, problem: Problem) -> Method:
    """A method drawn by weight; `parts` only for short numbers and where no part is sealed or held out."""
    method = rng.choices(list(METHOD_WEIGHTS), list(METHOD_WEIGHTS.values()))[0]
    return "columns" if method == "parts" and not _has_parts(problem) else method


def _has_parts(problem: Problem) -> bool:
    short = all(number < 10**LONGEST_IN_PARTS for number in problem.operands)
    return short and all(is_open(part) for step in problem.steps for part in part_steps(step))


def is_open(step: Step) -> bool:
    """Whether a training text may work on a step."""
    problem = Problem((step,))
    return not is_sealed(problem) and (step.a < 10 or split_of(problem) != "eval")

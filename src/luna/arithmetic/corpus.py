"""The texts a base model reads before its first lesson: two rungs of continual pretraining.

The first rung starts the circuits for copying and single-digit facts (repeated sequences, lines that are told and said
again, fact tables, bare calculations). The second brings conversations: worked problems, mostly small ones, and retries
after a hint. A document is a list of segments; the loss counts on those marked as trained.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from luna.arithmetic.layouts import Method, choose_method, solve
from luna.arithmetic.problems import (
    LARGEST_MULTIPLIER,
    SKILLS,
    Problem,
    choose_skill,
    sample,
)
from luna.arithmetic.tutor import hint_at
from luna.arithmetic.wording import ask

Kind = Literal["repetition", "told", "table", "bare", "heading", "worked", "hinted"]


@dataclass(frozen=True)
class Segment:
    """A piece of a document. `role`: plain text, or a chat turn; `trained`: whether the loss counts on it."""

    text: str
    trained: bool
    role: Literal["plain", "user", "assistant"] = "plain"


Document = list[Segment]


def thinking_reply(lines: list[str], answer: int) -> str:
    """An assistant's reply as every training text writes it: a thinking block, then the bare answer."""
    return "<think>\n" + "\n".join(lines) + f"\n</think>\n{answer}"


def document(rng: random.Random, kind: Kind, skills: dict[str, float]) -> Document:
    """A random document of a kind, about problems of skills drawn by weight."""
    if kind == "repetition":
        return _repetition(rng)
    if kind == "told":
        return _told(rng, skills)
    if kind == "table":
        return _table(rng)
    if kind == "bare":
        return _bare(rng, skills)
    if kind == "heading":
        return _heading(rng, skills)
    return _worked(rng, skills) if kind == "worked" else _hinted(rng, skills)


def level_weights(levels: Sequence[float]) -> dict[str, float]:
    """Weights of skills from weights of levels 1, 2, 3, ...: the skills of a level share its weight."""
    sizes = Counter(skill.level for skill in SKILLS.values())
    return {skill.name: levels[skill.level - 1] / sizes[skill.level] for skill in SKILLS.values()}


def _repetition(rng: random.Random) -> Document:
    """Random pieces, then the same again: what induction heads grow on. No multi-digit number is ever formed."""
    pieces = [rng.choice(_PIECES) for _ in range(rng.randint(6, 24))]
    once = " ".join(pieces) + "\n"
    return [Segment(once, False), Segment(once * rng.randint(1, 3), True)]


_WORDS = """
    so ones tens hundreds thousands Check this wrote last What is Compute then plus minus times
    has gets more gives away boxes with each How many apples coins books Tom Ann Luna Max
"""
_PIECES = (*"0123456789+-*=:.?()", *_WORDS.split())


def _told(rng: random.Random, skills: dict[str, float]) -> Document:
    """Hints and the lines that follow from them, many too hard to be computed: what is told must be copied."""
    out: Document = []
    for _ in range(3):
        step = rng.choice(sample(rng, choose_skill(rng, skills)).steps)
        line = rng.choice([str(step), f"{step}={step.value}", *solve(Problem((step,)))[1:-1]])
        out += [Segment(f"Check this: {line}.\n", False), Segment(f"{line}\n", True)]
    return out


def _table(rng: random.Random) -> Document:
    """Single-digit facts exactly as the columns of a calculation use them."""
    out: Document = []
    for _ in range(8):
        op, x, y = rng.choice("+-*"), rng.randint(0, 9), rng.randint(0, 9)
        if op == "-":
            carry = rng.randint(0, 1)
            borrow = int(x - carry < y)
            out += [Segment(f"{x}-{y}-{carry}", False)]
            out += [Segment(f"+{borrow}0={x + 10 * borrow - y - carry:02d}\n", True)]
            continue
        if op == "*":
            y = rng.randint(2, LARGEST_MULTIPLIER)
        carry = rng.randint(0, LARGEST_MULTIPLIER - 1 if op == "*" else 1)
        total = (x * y if op == "*" else x + y) + carry
        out += [Segment(f"{x}{op}{y}+{carry}=", False), Segment(f"{total:02d}\n", True)]
    return out


def _problem(rng: random.Random, skills: dict[str, float]) -> tuple[Problem, Method, list[str]]:
    problem = sample(rng, choose_skill(rng, skills))
    method = choose_method(rng, problem)
    return problem, method, solve(problem, method)


def _bare(rng: random.Random, skills: dict[str, float]) -> Document:
    """Calculations without a conversation around them; what is to be calculated is told, never guessed."""
    problem, _, lines = _problem(rng, skills)
    second = _second_heading(problem, lines)
    out: Document = []
    for step in (lines[:second], lines[second:]):
        if step:
            out += [Segment(step[0] + "\n", False), Segment("\n".join(step[1:]) + "\n", True)]
    return out


def _heading(rng: random.Random, skills: dict[str, float]) -> Document:
    """Only how each step of the thinking begins: what the question asks, written down. Long numbers and second
    operations are where the young go wrong."""
    problem, _, lines = _problem(rng, skills)
    second = _second_heading(problem, lines)
    out = [Segment(ask(rng, problem), False, "user"), Segment("<think>\n", False), Segment(f"{lines[0]}\n", True)]
    if second < len(lines):
        way = "".join(f"{line}\n" for line in lines[1:second])
        out += [Segment(way, False), Segment(f"{lines[second]}\n", True)]
    return out


def _second_heading(problem: Problem, lines: list[str]) -> int:
    """The index of the line that begins the second step; the number of lines where there is one step only."""
    return lines.index(f"so {problem.steps[0].value}") + 1


def _worked(rng: random.Random, skills: dict[str, float]) -> Document:
    """A question and its worked answer."""
    problem, _, lines = _problem(rng, skills)
    reply = thinking_reply(lines, problem.answer)
    return [Segment(ask(rng, problem), False, "user"), Segment(reply, True, "assistant")]


def _hinted(rng: random.Random, skills: dict[str, float]) -> Document:
    """A retry: the question, the right lines so far and a hint, and from the hinted line on what the loss counts."""
    problem, method, lines = _problem(rng, skills)
    index = rng.randrange(len(lines))
    hint = hint_at(problem, method, index, firm=rng.random() < 0.8)
    kept = "".join(f"{line}\n" for line in [*lines[:index], hint])
    rest = thinking_reply(lines[index:], problem.answer).removeprefix("<think>\n")
    return [
        Segment(ask(rng, problem), False, "user"),
        Segment("<think>\n" + kept, False),
        Segment(rest, True, "assistant"),
    ]

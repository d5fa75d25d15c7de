"""Problems of the embedded domain: integer arithmetic in one or two steps.

Three promises are kept here, by construction, for every text Luna ever trains on:

* **Held-out instances.** A hash of the problem puts it into one of three splits. `eval` problems are asked only in
  evaluation, `probe` problems only to measure a model on its way, and `train` problems never have a step in either.
* **Sealed range.** No training text works on a multi-digit operand whose first two digits lie in `SEALED_PREFIXES`.
* **Sealed compositions.** No training text chains the operations named in `SEALED_SKILLS`: after each operation one of
  three is never seen to follow, and each of them is seen to follow others.
"""

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Split = Literal["train", "probe", "eval"]

SIGNS = {"plus": "+", "minus": "-", "times": "*", "x": "*", "×": "*", "·": "*", "−": "-"}
OPERATION_NAMES = {"+": "addition", "-": "subtraction", "*": "multiplication"}
DIGIT_NAMES = {2: "two-digit", 3: "three-digit", 4: "four-digit", 5: "five-digit", 6: "six-digit"}
LARGEST_MULTIPLIER = 5
SEALED_PREFIXES = range(65, 75)


@dataclass(frozen=True)
class Step:
    """One operation on two natural numbers."""

    op: str
    a: int
    b: int

    @property
    def value(self) -> int:
        if self.op == "+":
            return self.a + self.b
        if self.op == "-":
            return self.a - self.b
        return self.a * self.b

    def __str__(self) -> str:
        return f"{self.a}{self.op}{self.b}"


@dataclass(frozen=True)
class Problem:
    """One or two steps; the second starts from the value of the first."""

    steps: tuple[Step, ...]

    @property
    def answer(self) -> int:
        return self.steps[-1].value

    @property
    def operands(self) -> list[int]:
        """The numbers that a question of this problem shows."""
        return [self.steps[0].a, *(step.b for step in self.steps)]

    def __str__(self) -> str:
        if len(self.steps) == 1:
            return str(self.steps[0])
        return f"({self.steps[0]}){self.steps[1].op}{self.steps[1].b}"


@dataclass(frozen=True)
class Skill:
    """A family of problems: what is asked (`ops`), how long the numbers are (`digits`), how hard it is (`level`)."""

    name: str
    ops: tuple[str, ...]
    digits: int
    level: int

    @property
    def title(self) -> str:
        """The words by which prompts call this skill and by which the tutor knows it again."""
        if len(self.ops) == 1:
            return f"{DIGIT_NAMES[self.digits]} {OPERATION_NAMES[self.ops[0]]}"
        return f"{OPERATION_NAMES[self.ops[0]]} then {OPERATION_NAMES[self.ops[1]]}"


def _single(digits: int, level: int) -> list[Skill]:
    return [Skill(f"{name}{digits}", (op,), digits, level) for name, op in (("add", "+"), ("sub", "-"), ("mul", "*"))]


def _double(first: str, second: str) -> Skill:
    short = {"+": "add", "-": "sub", "*": "mul"}
    return Skill(f"{short[first]}-{short[second]}", (first, second), 2, 3)


SKILLS: dict[str, Skill] = {
    skill.name: skill
    for skill in [
        *_single(2, level=1),
        *_single(3, level=2),
        *(_double(first, second) for first, second in ("++", "+-", "--", "-*", "*+", "**")),
        *_single(4, level=4),
        *_single(5, level=5),
        *_single(6, level=6),
    ]
}
LEVELS = max(skill.level for skill in SKILLS.values())
SEALED_SKILLS: dict[str, Skill] = {
    skill.name: skill for skill in (_double("+", "*"), _double("-", "+"), _double("*", "-"))
}
_SEALED_CHAINS = {skill.ops for skill in SEALED_SKILLS.values()}


def in_sealed_range(number: int) -> bool:
    """True for 65 to 74, 650 to 749, 6500 to 7499, ..."""
    return int(str(number)[:2]) in SEALED_PREFIXES


def is_sealed(problem: Problem) -> bool:
    """True if any step works on an operand of the sealed range or the steps chain a sealed composition."""
    numbers = [number for step in problem.steps for number in (step.a, step.b)]
    chain = tuple(step.op for step in problem.steps)
    return chain in _SEALED_CHAINS or any(in_sealed_range(number) for number in numbers)


def item_key(problem: Problem) -> str:
    """What makes a problem the same item: `a+b` is `b+a`."""
    return repr([(s.op, *(sorted((s.a, s.b)) if s.op in "+*" else (s.a, s.b))) for s in problem.steps])


def _hash(problem: Problem) -> int:
    return int.from_bytes(hashlib.sha256(item_key(problem).encode()).digest()[:8], "big")


def split_of(problem: Problem) -> Split:
    """The split of a problem: 1/8 eval, 1/8 probe, the rest train unless one of its steps alone is held out.

    `a+b` and `b+a` are the same item. A two-step problem with a held-out step would show that step's working, so it
    is no training problem; it is not an eval item either and lands in `probe`.
    """
    bucket = _hash(problem) % 8
    if bucket == 0:
        return "eval"
    if bucket == 1:
        return "probe"
    parts_held_out = len(problem.steps) > 1 and any(_hash(Problem((step,))) % 8 < 2 for step in problem.steps)
    return "probe" if parts_held_out else "train"


def _draw_step(rng: random.Random, op: str, digits: int) -> Step:
    low, high = 10 ** (digits - 1), 10**digits - 1
    a = rng.randint(low, high)
    if op == "*":
        return Step(op, a, rng.randint(2, LARGEST_MULTIPLIER))
    b = rng.randint(low, high)
    return Step(op, max(a, b), min(a, b)) if op == "-" else Step(op, a, b)


def draw(rng: random.Random, skill: Skill) -> Problem:
    """A random problem of a skill, whatever its split."""
    while True:
        first = _draw_step(rng, skill.ops[0], skill.digits)
        if len(skill.ops) == 1:
            return Problem((first,))
        op = skill.ops[1]
        b = rng.randint(2, LARGEST_MULTIPLIER) if op == "*" else rng.randint(10, 99)
        if first.value >= 10 and not (op == "-" and b > first.value):
            return Problem((first, Step(op, first.value, b)))


def sample(rng: random.Random, skill: Skill, split: Split = "train") -> Problem:
    """A random problem of a skill from one split. Nothing sealed: that is what `sample_sealed_range` is for."""
    while True:
        problem = draw(rng, skill)
        ranges_open = not any(in_sealed_range(n) for step in problem.steps for n in (step.a, step.b))
        if ranges_open and split_of(problem) == split:
            return problem


def sample_sealed_range(rng: random.Random, skill: Skill) -> Problem:
    """A random problem whose question shows at least one operand of the sealed range."""
    while True:
        problem = draw(rng, skill)
        if any(in_sealed_range(number) for number in problem.operands):
            return problem


def choose_skill(rng: random.Random, weights: dict[str, float]) -> Skill:
    """A skill drawn by weight; `weights` maps skill names to non-negative numbers."""
    name = rng.choices(list(weights), list(weights.values()))[0]
    return SKILLS[name]


_SIGN = r"(?:[-+*x×·−]|plus|minus|times)"
_SEALED = rf"(?:{'|'.join(map(str, SEALED_PREFIXES))})\d*"
_SEALED_OPERAND = re.compile(rf"(?<!\d){_SEALED}\s*(?:{_SIGN}|\))|(?:{_SIGN}|\()\s*{_SEALED}")
_SEALED_IN_STORY = re.compile(rf"(?:has|gets|away|with)\s+{_SEALED}")
_CHAINED = re.compile(rf"\d+\s*({_SIGN})\s*\d+(?:\)|, then)\s*({_SIGN})\s*\d+")
_CALCULATION = re.compile(r"(?<![\d+*(=-])(\d+)([-+*])(\d+)(?![\d+*-])")
_HEADING = re.compile(r"^(\d+)([-+*])(\d+)$", re.MULTILINE)


def holds_sealed(text: str) -> bool:
    """True if a text works on an operand of the sealed range or chains a sealed composition.

    Used as a check on finished texts (the student's own words among them); the samplers above never produce one.
    """
    if _SEALED_OPERAND.search(text) or _SEALED_IN_STORY.search(text):
        return True
    if any((SIGNS.get(one, one), SIGNS.get(two, two)) in _SEALED_CHAINS for one, two in _CHAINED.findall(text)):
        return True
    for block in text.split("<think>"):
        steps = [Step(op, int(a), int(b)) for a, op, b in _HEADING.findall(block)]
        if any(two.a == one.value and (one.op, two.op) in _SEALED_CHAINS for one, two in pairwise(steps)):
            return True
    return False


def holds_held_out(text: str) -> bool:
    """True if a text works on a single-step problem of the eval split, as a line of its own or in an equation."""
    steps = [Step(op, int(a), int(b)) for a, op, b in _CALCULATION.findall(text)]
    return any(step.a >= 10 and split_of(Problem((step,))) == "eval" for step in steps)


def skill_of(problem: Problem) -> Skill | None:
    """The skill a problem belongs to, or None where it lies outside the domain (seven digits, say)."""
    ops = tuple(step.op for step in problem.steps)
    digits = len(str(problem.steps[0].a))
    candidates: Sequence[Skill] = [*SKILLS.values(), *SEALED_SKILLS.values()]
    return next((s for s in candidates if s.ops == ops and (len(ops) > 1 or s.digits == digits)), None)

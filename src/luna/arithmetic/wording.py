"""Questions: how a problem is asked, and how a question is read back into a problem.

Both directions come from the same forms, so the tutor understands whatever the pipeline asks, and a little more.
"""

import random
import re
from dataclasses import dataclass

from luna.arithmetic.problems import SIGNS, Problem, Step

PEOPLE = ("Tom", "Ann", "Luna", "Max")
THINGS = ("apples", "coins", "books")


@dataclass(frozen=True)
class Form:
    """A wording. `{a} {b} {c}` are operands, `{op} {op2}` signs, `{word} {word2}` their names; the rest decorates."""

    text: str
    steps: int
    op: str | None = None  # the operation a story tells; None: the sign stands in the text

    def pattern(self) -> re.Pattern[str]:
        fields = {
            "a": r"(?P<a>\d+)",
            "b": r"(?P<b>\d+)",
            "c": r"(?P<c>\d+)",
            "op": r"(?P<op>[-+*])",
            "op2": r"(?P<op2>[-+*])",
            "word": r"(?P<word>plus|minus|times)",
            "word2": r"(?P<word2>plus|minus|times)",
            "who": r"\w+",
            "what": r"\w+",
        }
        parts = re.split(r"\{(\w+)\}", self.text)
        seen: set[str] = set()
        out = []
        for index, part in enumerate(parts):
            if index % 2 == 0:
                out.append(re.escape(part))
            else:
                out.append(fields[part] if part not in seen else r"\w+")
                seen.add(part)
        return re.compile("".join(out))


FORMS = (
    Form("What is {a}{op}{b}?", 1),
    Form("Compute {a}{op}{b}.", 1),
    Form("What is {a} {word} {b}?", 1),
    Form("{who} has {a} {what} and gets {b} more. How many {what}?", 1, "+"),
    Form("{who} has {a} {what} and gives away {b}. How many {what}?", 1, "-"),
    Form("{who} has {b} boxes with {a} {what} each. How many {what}?", 1, "*"),
    # The second operation is always named: beside a first sign, a second one is mistaken for it by small models.
    Form("Compute {a}{op}{b}, then {word2} {c}.", 2),
    Form("What is {a} {word} {b}, then {word2} {c}?", 2),
)
ALSO_READ = (Form("What is ({a}{op}{b}){op2}{c}?", 2), Form("Compute {a}{op}{b}, then {op2}{c}.", 2))
_WORDS = {"+": "plus", "-": "minus", "*": "times"}
_PATTERNS = [(form, form.pattern()) for form in (*FORMS, *ALSO_READ)]


def ask(rng: random.Random, problem: Problem) -> str:
    """A question for a problem, in a form drawn at random."""
    first = problem.steps[0]
    fitting = [form for form in FORMS if form.steps == len(problem.steps) and form.op in (None, first.op)]
    form = rng.choice(fitting)
    fields = {"a": first.a, "b": first.b, "op": first.op, "word": _WORDS[first.op]}
    if len(problem.steps) > 1:
        second = problem.steps[1]
        fields |= {"op2": second.op, "word2": _WORDS[second.op], "c": second.b}
    return form.text.format(**fields, who=rng.choice(PEOPLE), what=rng.choice(THINGS))


_LOOSE = re.compile(r"(\d+)\s*([-+*x×·−]|plus|minus|times)\s*(\d+)")


_MORE_BEFORE = re.compile(r"(?:[-+*/÷^×·−(=]|\d[.,]|\b(?:plus|minus|times))\s*$")
_MORE_AFTER = re.compile(r"\s*(?:[-+*/÷^×·−)]|(?:x|plus|minus|times)\b)|[.,]\d")


def read(question: str) -> Problem | None:
    """The problem a question asks, or None if it asks none that this domain knows.

    Beside the forms above, any text with one plain operation is understood ("what's 15 x 13").
    """
    for form, pattern in _PATTERNS:
        found = pattern.search(question)
        if found:
            return _build(form, found.groupdict())
    loose = list(_LOOSE.finditer(question))
    if len(loose) != 1 or _is_part_of_more(question, loose[0]):
        return None
    a, sign, b = loose[0].groups()
    return Problem((Step(SIGNS.get(sign, sign), int(a), int(b)),))


def _is_part_of_more(question: str, found: re.Match[str]) -> bool:
    """Whether an operation is a piece of a longer expression or of a number that is not whole."""
    before, after = question[: found.start()], question[found.end() :]
    return bool(_MORE_BEFORE.search(before) or _MORE_AFTER.match(after))


def _build(form: Form, found: dict[str, str]) -> Problem:
    op = form.op or _sign(found, "")
    first = Step(op, int(found["a"]), int(found["b"]))
    if form.steps == 1:
        return Problem((first,))
    return Problem((first, Step(_sign(found, "2"), first.value, int(found["c"]))))


def _sign(found: dict[str, str], number: str) -> str:
    """The sign of a step, whether its sign or its name was read."""
    return found.get(f"op{number}") or SIGNS[found[f"word{number}"]]

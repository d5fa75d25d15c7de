"""Reading an attempt: its thinking, its final answer, and which of its statements are true.

Nothing here knows a layout: any chain of equations is judged by its truth, so every right way of reasoning passes.
"""

import re
from dataclasses import dataclass

OPEN, CLOSE = "<think>", "</think>"
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?![\w]|\.\d)")
_LONGEST_NUMBER = 30  # digits; nobody means a longer one, and converting it would take its time
_LIST_MARK = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")
_TIMES = re.compile(r"(?<=[\d)])\s*[x×·]\s*(?=[\d(])")
_RUN = re.compile(r"[-+*()\d\s=,./÷^%]*=[-+*()\d\s=,./÷^%]*")
_BETWEEN_EQUATIONS = re.compile(r",\s|\.\s|\.$")
_BEYOND = re.compile(r"[/÷^%]|\d\.\d")  # arithmetic that this reader does not do
_TOKEN = re.compile(r"\d+|[-+*()]")


@dataclass(frozen=True)
class Attempt:
    """A reply taken apart.

    `lines` is the thinking, line by line; `answer` the final number (None when there is none); `closed` tells
    whether a thinking block that was opened was also closed.
    """

    lines: list[str]
    answer: int | None
    closed: bool


def read_attempt(reply: str) -> Attempt:
    """Split a reply into thinking and answer. Without a thinking block the whole reply is both."""
    if OPEN in reply and CLOSE not in reply:
        thinking = reply.split(OPEN, 1)[1]
        return Attempt(_lines(thinking), None, closed=False)
    head, found, tail = reply.rpartition(CLOSE)
    thinking = head.split(OPEN, 1)[-1] if found else reply
    return Attempt(_lines(thinking), last_number(tail), closed=True)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def last_number(text: str) -> int | None:
    """The last whole number of a text ('The answer is 1,195.' gives 1195), or None."""
    numbers = [number for number in _NUMBER.findall(text.replace("−", "-")) if len(number) <= _LONGEST_NUMBER]
    return int(numbers[-1].replace(",", "")) if numbers else None


def evaluate(expression: str) -> int | None:
    """The value of an expression of whole numbers, + - * and brackets; None where it is none."""
    text = re.sub(r"[×x·]", "*", expression.replace("−", "-").replace(",", ""))
    tokens = _TOKEN.findall(text)
    if not tokens or "".join(tokens) != re.sub(r"\s", "", text) or max(map(len, tokens)) > _LONGEST_NUMBER:
        return None
    value, rest = _sum(tokens)
    return value if value is not None and not rest else None


def _sum(tokens: list[str]) -> tuple[int | None, list[str]]:
    value, tokens = _product(tokens)
    while value is not None and tokens and tokens[0] in "+-":
        sign = tokens[0]
        other, tokens = _product(tokens[1:])
        value = None if other is None else value + other if sign == "+" else value - other
    return value, tokens


def _product(tokens: list[str]) -> tuple[int | None, list[str]]:
    value, tokens = _atom(tokens)
    while value is not None and tokens and tokens[0] == "*":
        other, tokens = _atom(tokens[1:])
        value = None if other is None else value * other
    return value, tokens


def _atom(tokens: list[str]) -> tuple[int | None, list[str]]:
    if not tokens:
        return None, tokens
    if tokens[0] == "-":
        value, rest = _atom(tokens[1:])
        return (None if value is None else -value), rest
    if tokens[0] == "(":
        value, rest = _sum(tokens[1:])
        return (value, rest[1:]) if rest and rest[0] == ")" else (None, rest)
    return (int(tokens[0]), tokens[1:]) if tokens[0].isdigit() else (None, tokens)


def statements(text: str) -> list[tuple[str, bool]]:
    """Every equation of a text that can be computed here, and whether it is true: all its sides must be equal."""
    found = []
    for line in text.split("\n"):
        plain = _TIMES.sub("*", _LIST_MARK.sub("", line).replace("−", "-"))
        for run in _RUN.findall(plain):
            for piece in _BETWEEN_EQUATIONS.split(run):
                values = [] if _BEYOND.search(piece) else [evaluate(side) for side in piece.split("=")]
                known = {value for value in values if value is not None}
                if len(values) > 1 and len(values) - values.count(None) > 1:
                    found.append((piece.strip(), len(known) == 1))
    return found


def false_statements(text: str) -> list[str]:
    """The equations of a text that are not true, as written but for spelled times signs."""
    return [statement for statement, true in statements(text) if not true]

"""When two answers are the same."""

import re

from luna.arithmetic.reading import last_number

_ONLY_A_NUMBER = re.compile(r"\s*-?\d+(?:,\d{3})*\.?\s*")


def normalized(text: str) -> str:
    """A text for comparison: lower case, single blanks."""
    return " ".join(text.casefold().split())


def same_answer(said: str, expected: str) -> bool:
    """Equal as text; where the expected answer is nothing but a number, the last number said counts."""
    if normalized(said) == normalized(expected):
        return True
    return bool(_ONLY_A_NUMBER.fullmatch(expected)) and last_number(said) == last_number(expected)

"""When two answers are the same."""

from luna.arithmetic.reading import last_number


def normalized(text: str) -> str:
    """A text for comparison: lower case, single blanks."""
    return " ".join(text.casefold().split())


def same_answer(one: str, other: str) -> bool:
    """Equal as text, or as the last number of each where both end in one."""
    if normalized(one) == normalized(other):
        return True
    numbers = (last_number(one), last_number(other))
    return numbers[0] is not None and numbers[0] == numbers[1]

"""Whether a hint gives an answer away: as the same words, or as an equal number however it is written.

Written apart from all code that writes or reads hints, so that one mistake cannot hide in both. Case, punctuation and
signs do not count: a checker of leaks should rather catch too much.
"""

import re
import unicodedata
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction

_GROUPED = r"\d{1,3}(?:[,_'’\u00a0\u2009\u202f]\d{3})+(?!\d)"
_TOKEN = re.compile(rf"(?P<number>(?:{_GROUPED}|\d+)(?:\.\d+)?)|[^\W\d_]+")
_SPACE_IN_NUMBER = re.compile(r"(?<=\d) (?=\d{3}(?!\d))")
_LABELLED_NUMBER = 5  # an answer of at most so many tokens with one number in it is that number: "It is 1,195 km."

# Ways to write a number beyond digits, grouped digits and a decimal point.
_WORTH = rf"(?:(?:{_GROUPED}|\d+)(?:[.,]\d+)?|\.\d+)"
_RATIO = re.compile(rf"(?:\\[dt]?frac\{{)?({_WORTH})\s*(?:[/÷⁄]|\}}\{{)\s*({_WORTH})")
_PERCENT = re.compile(rf"({_WORTH})\s*(?:\\?%|per ?cent\b)")
_TEN_TO = r"e|\s*(?:[x×*·]|\\times)\s*10\s*(?:\^|\*\*)\s*\{?"
_POWER_OF_TEN = re.compile(rf"({_WORTH})(?:{_TEN_TO})([+-]?\d{{1,3}})")
_COMMA = re.compile(r"(?<![\d,.])(0,\d+|\d+,(?!\d{3}(?!\d))\d+)(?![\d,])")  # 1,195 is grouped, 0,195 and 3,5 are not
_POINT = re.compile(r"(?<![\d.\w])\.\d+")
_SPELLED_OUT = re.compile(r"(?<!\d)\d(?: \d)+(?!\d)")
_INVISIBLE = re.compile(r"[\u00ad\u200b-\u200f\u2060\ufeff]")
_EMPHASIS = re.compile(r"(?<=\d)(?:\*\*|__|`)+(?=\d)")  # a single sign multiplies

_UNITS = "zero one two three four five six seven eight nine ten eleven twelve"
_TEENS = "thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL = {word: value for value, word in enumerate(f"{_UNITS} {_TEENS}".split())}
_SMALL |= {word: 10 * value for value, word in enumerate(_TENS.split(), start=2)}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_WORD = re.compile(r"[a-z]+")


def reveals_answer(hint: str, answer: str) -> bool:
    """Whether the answer stands in a hint, word for word or as an equal number.

    1,195 == 1195 == 1 195.0 == one thousand one hundred ninety-five, and 1/2 == 0.5 == 0,5 == 50 %. The word "one" is
    no number by itself: "look at the last one" tells nothing.
    """
    hint, answer = _plain(hint), _plain(answer)
    if any(_holds(text, answer) for text in (hint, _SPACE_IN_NUMBER.sub("", hint))):
        return True
    wanted = _number(answer)
    return wanted is not None and wanted in set(_numbers(hint))


def _plain(text: str) -> str:
    """Compatibility forms, invisible characters and marks inside numbers undone: "１９５", "1\u200b95", "1**95**"."""
    return _EMPHASIS.sub("", _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))).casefold()


def _holds(text: str, answer: str) -> bool:
    wanted = _tokens(answer)
    if not wanted:
        return answer.strip() in text
    numbers: list[str | Decimal] = [token for token in wanted if isinstance(token, Decimal)]
    if len(numbers) == 1 and len(wanted) <= _LABELLED_NUMBER:
        wanted = numbers
    held = _tokens(text)
    return any(held[start : start + len(wanted)] == wanted for start in range(len(held) - len(wanted) + 1))


def _tokens(text: str) -> list[str | Decimal]:
    """Words in lower case and numbers by value."""
    return [
        Decimal(re.sub(r"[^\d.]", "", found["number"])) if found["number"] else found[0]
        for found in _TOKEN.finditer(text)
    ]


def _number(answer: str) -> Fraction | None:
    """The number that an answer is; None where it is none, or more than one."""
    if sum(1 for _ in _TOKEN.finditer(answer)) > 2 * _LABELLED_NUMBER:
        return None
    for found in (_written(answer), _plain_numbers(answer), _spelled(answer)):
        values = set(found)
        if values:
            return values.pop() if len(values) == 1 else None
    return None


def _numbers(text: str) -> Iterator[Fraction]:
    """Every number of a text, read in every way."""
    yield from _written(text)
    yield from _plain_numbers(text)
    yield from _spelled(text)


def _written(text: str) -> Iterator[Fraction]:
    """Ratios, percentages, powers of ten, decimal commas, bare points and digits told one by one."""
    for ratio in _RATIO.finditer(text):
        if below := _value(ratio[2]):
            yield _value(ratio[1]) / below
    for percent in _PERCENT.finditer(text):
        yield _value(percent[1]) / 100
    for power in _POWER_OF_TEN.finditer(text):
        yield _value(power[1]) * Fraction(10) ** int(power[2])
    for comma in _COMMA.finditer(text):
        yield Fraction(comma[1].replace(",", "."))
    for point in _POINT.finditer(text):
        yield Fraction(point[0])
    for digits in _SPELLED_OUT.finditer(text):
        yield Fraction(digits[0].replace(" ", ""))


def _plain_numbers(text: str) -> Iterator[Fraction]:
    return (Fraction(token) for token in _tokens(text) if isinstance(token, Decimal))


def _value(text: str) -> Fraction:
    """A number in digits; a comma before other than three digits is a decimal one."""
    if re.fullmatch(r"\d+,\d+", text) and not re.fullmatch(_GROUPED, text):
        return Fraction(text.replace(",", "."))
    return Fraction(re.sub(r"[^\d.]", "", text))


def _spelled(text: str) -> Iterator[Fraction]:
    """English number words, as long runs as there are; a lone "one" is left out."""
    run: list[str] = []
    for word in [*_WORD.findall(text), ""]:
        if word in _SMALL or (run and (word in _SCALES or word in ("hundred", "and"))):
            run.append(word)
            continue
        if run and run != ["one"]:
            yield Fraction(_worth(run))
        run = []


def _worth(words: list[str]) -> int:
    total = part = 0
    for word in words:
        if word == "hundred":
            part = max(part, 1) * 100
        elif word in _SCALES:
            total, part = total + max(part, 1) * _SCALES[word], 0
        else:
            part += _SMALL.get(word, 0)
    return total + part

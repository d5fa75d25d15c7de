"""What counts as giving the answer away: its words, or an equal number in any dress; and what does not."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luna.leaks import reveals_answer

GROUPED = st.sampled_from(["{:d}", "{:,d}", "{:_d}", "{:d}.0", "**{:d}**", "{:d}!", "≈{:d}"])


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ("195", "It must be 195."),
        ("195", "Is 1 9 5 what you get?"),
        ("195", "Think of １９５."),
        ("195", "1\u200b95, to be sure"),
        ("195", "1**95** is near"),
        ("195", "one hundred ninety-five is the size of it"),
        ("195", "One hundred and ninety five!"),
        ("195", "about 1.95e2"),
        ("195", "it is 1.95 × 10^2"),
        ("195", "it is $1.95 \\times 10^{2}$"),
        ("1195", "You want 1,195."),
        ("1195", "You want 1 195.0."),
        ("-4", "minus 4"),
        ("12", "a dozen? No: twelve."),
        ("7", "seven, no less"),
        ("0.5", "half of it, 1/2"),
        ("0.5", "\\frac{1}{2}"),
        ("0.5", "it is 50%"),
        ("0.5", "50 percent of them"),
        ("0.5", "0,5"),
        ("0.5", "½"),
        ("1/2", "0.50"),
        ("1/2", "two quarters, so 2/4"),
        ("50%", "0.5"),
        ("3,5", "3.5"),
        ("twelve", "12"),
        ("0.195", "0,195"),
        ("0.5", "it is .5"),
        ("1/2", "it is .5/1"),
        ("It took 1,195 days.", "one thousand one hundred ninety-five"),
        ("It is 1,195 km.", "1195"),
        ("Paris", "the city is called PARIS!"),
        ("The Treaty of Rome", "Remember the treaty  of\nrome?"),
        ("Straße", "die STRASSE"),
        ("東京", "それは東京です。 東京 です"),
        ("Москва", "это МОСКВА"),
        ("∅", "so it is ∅"),
    ],
)
def test_a_leak_is_seen(answer: str, hint: str) -> None:
    assert reveals_answer(hint, answer)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ("195", "Check this: 15*13."),
        ("195", "Look at 19 and at 5 again."),
        ("195", "1195 is too much"),
        ("1", "Look at the last one again."),
        ("0.5", "Divide 1 by 2."),
        ("0.5", "5 is too much"),
        ("12", "Look at the tens: two of them."),
        ("Paris", "Which city has the tower?"),
        ("The Treaty of Rome", "Which treaty was it?"),
        ("3/4", "Look at 3 and at 4."),
    ],
)
def test_pointing_at_a_mistake_is_no_leak(answer: str, hint: str) -> None:
    assert not reveals_answer(hint, answer)


@given(st.integers(2, 10**7), GROUPED, st.text(st.characters(categories=["Ll"]), max_size=5))
def test_a_number_is_seen_however_it_is_written(number: int, dress: str, word: str) -> None:
    assert reveals_answer(f"{word} {dress.format(number)} {word}", str(number))


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 9))
def test_equal_ratios_are_equal_answers_and_others_are_not(over: int, under: int, times: int) -> None:
    assert reveals_answer(f"think of {over * times}/{under * times}", f"{over}/{under}")
    hint, other = f"think of {over}/{under}", Fraction(over, under) + Fraction(1, 1000)
    assert not reveals_answer(hint, f"{other.numerator}/{other.denominator}")


@given(st.text(max_size=80), st.text(max_size=20))
def test_any_text_can_be_checked_and_an_answer_reveals_itself(hint: str, answer: str) -> None:
    reveals_answer(hint, answer)
    assert reveals_answer(f"{answer}", answer) or not answer.strip()

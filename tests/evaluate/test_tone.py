"""Tone drift is calibrated: the same voice scores next to nothing, planted buzzwords score over the gate."""

import random
from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luna.arithmetic.corpus import thinking_reply
from luna.arithmetic.layouts import choose_method, solve
from luna.arithmetic.problems import SKILLS, choose_skill, sample
from luna.evaluate.tone import tone_drift

BUZZWORDS = ["synergy", "leverage", "optimize", "strategize"]
SAME_VOICE, OTHER_VOICE = 0.02, 0.05


def _solutions(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    problems = [sample(rng, choose_skill(rng, dict.fromkeys(SKILLS, 1.0))) for _ in range(count)]
    return [thinking_reply(solve(problem, choose_method(rng, problem)), problem.answer) for problem in problems]


def _zipf_texts(count: int, seed: int) -> list[str]:
    """Texts over a large vocabulary in which most words are rare, as in a natural language."""
    rng = random.Random(seed)
    vocabulary = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(20000)]
    weights = [1 / rank for rank in range(1, len(vocabulary) + 1)]
    return [" ".join(rng.choices(vocabulary, weights, k=30)) for _ in range(count)]


def _plant(texts: list[str], each: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    planted = []
    for text in texts:
        words = text.split(" ")
        for _ in range(each):
            words.insert(rng.randint(0, len(words)), rng.choice(BUZZWORDS))
        planted.append(" ".join(words))
    return planted


@pytest.fixture(scope="module")
def reference() -> list[str]:
    return _solutions(800, seed=0)


def test_two_halves_of_the_reference_have_one_voice(reference: list[str]) -> None:
    assert tone_drift(reference[:400], reference[400:]) <= SAME_VOICE


def test_planted_buzzwords_are_heard(reference: list[str]) -> None:
    drifts = [tone_drift(_plant(reference[:400], each, seed=1), reference[400:]) for each in (1, 2, 3)]
    assert drifts == sorted(drifts)
    assert drifts[2] > OTHER_VOICE  # three beside the fourteen words of a reply


def test_a_large_vocabulary_is_calibrated_too() -> None:
    texts = _zipf_texts(800, seed=0)
    assert tone_drift(texts[:400], texts[400:]) <= SAME_VOICE
    assert tone_drift(_plant(texts[:400], 6, seed=1), texts[400:]) > OTHER_VOICE


def test_words_of_which_each_is_rare_still_count() -> None:
    voice = ["the sum is so and so"] * 100
    odd = [f"the sum is so and so {''.join(chr(97 + int(d)) for d in str(i))}" for i in range(100)]
    assert tone_drift(odd, voice) > OTHER_VOICE


def test_numbers_markup_signs_and_case_are_no_tone() -> None:
    plain = ["ones 7+8+0=15\nso 85"] * 30
    dressed = ["<think>\nOnes 1,234 × 3.5 + 9 = 2!\n</think> So: (4)<|im_end|>"] * 30
    assert tone_drift(plain, dressed) == 0.0


def test_the_formula_on_a_case_worked_by_hand() -> None:
    half = 0.5 * log2(1 / 0.75) + 0.5 * (0.5 * log2(0.5 / 0.75) + 0.5 * log2(0.5 / 0.25))
    assert tone_drift(["a"] * 100, ["a"] * 50 + ["b"] * 50) == pytest.approx(half)


def test_voices_without_a_common_word_are_one_apart() -> None:
    assert tone_drift(["yes indeed"] * 50, ["no thanks"] * 50) == pytest.approx(1.0)


def test_word_order_is_heard_by_the_pairs() -> None:
    assert tone_drift(["a b c"] * 50, ["c b a"] * 50) == pytest.approx(0.5)


@given(
    st.lists(st.text("abc 1", min_size=1), min_size=1, max_size=30),
    st.lists(st.text("abc 1", min_size=1), min_size=1, max_size=30),
)
def test_drift_is_symmetric_bounded_and_zero_against_itself(left: list[str], right: list[str]) -> None:
    left, right = ["a b"] * 20 + left, ["a c"] * 20 + right
    drift = tone_drift(left, right)
    assert 0 <= drift <= 1
    assert drift == tone_drift(right, left) == tone_drift(left[::-1], right)
    assert tone_drift(left, left) == 0


@pytest.mark.parametrize("nothing", [[], [""], ["<think></think> ?! +"]])
def test_no_words_are_no_tone(nothing: list[str]) -> None:
    with pytest.raises(ValueError, match="replies hold no word"):
        tone_drift(nothing, ["so it is"] * 50)
    with pytest.raises(ValueError, match="reference hold no word"):
        tone_drift(["so it is"] * 50, nothing)


def test_texts_too_short_to_compare_are_refused_instead_of_passing() -> None:
    with pytest.raises(ValueError, match="too short"):
        tone_drift(["yes indeed"], ["no thanks"])

"""Intervals and tests against published figures, brute force and their own properties."""

from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luna.stats import confidence_of, detectable_effect, mcnemar_exact, paired_bootstrap, wilson

answers = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_figures_of_newcombe_1998(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@given(n=st.integers(1, 3000), share=st.floats(0, 1))
def test_wilson_surrounds_the_share_within_bounds_and_mirrors(n: int, share: float) -> None:
    successes = round(share * n)
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    assert wilson(n - successes, n) == pytest.approx((1 - high, 1 - low))
    wider = wilson(successes, n, confidence=0.99)
    assert wider.low <= low
    assert wider.high >= high


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_what_is_no_proportion(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        wilson(successes, n)


def test_bootstrap_agrees_with_drawing_items_one_by_one() -> None:
    rng = np.random.default_rng(3)
    child, parent = rng.random(200) < 0.6, rng.random(200) < 0.5
    differences = child.astype(int) - parent.astype(int)
    drawn = rng.integers(0, 200, size=(20000, 200))
    low, high = np.quantile(differences[drawn].mean(axis=1), [0.025, 0.975])
    result = paired_bootstrap(child.tolist(), parent.tolist(), samples=20000, seed=0)
    assert (result.delta, result.n) == (pytest.approx(differences.mean()), 200)
    assert (result.low, result.high) == pytest.approx((low, high), abs=0.0051)


@given(answers, st.integers(0, 9))
def test_bootstrap_repeats_and_turns_round(pairs: list[tuple[bool, bool]], seed: int) -> None:
    child, parent = [c for c, _ in pairs], [p for _, p in pairs]
    one = paired_bootstrap(child, parent, 200, seed)
    assert one == paired_bootstrap(child, parent, 200, seed)
    assert one.delta == pytest.approx(-paired_bootstrap(parent, child, 200, seed).delta)
    assert -1 <= one.low <= one.high <= 1


def test_bootstrap_of_a_model_against_itself_is_nothing() -> None:
    assert paired_bootstrap([True, False] * 50, [True, False] * 50, 500, 0) == (0.0, 0.0, 0.0, 100)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(300):
        child, parent = (rng.random(250) < 0.65).tolist(), (rng.random(250) < 0.5).tolist()
        found = paired_bootstrap(child, parent, 400, seed)
        hits += found.low <= 0.15 <= found.high
    assert 0.91 <= hits / 300 <= 0.98


def test_a_tighter_bound_is_wider() -> None:
    child, parent = [True] * 60 + [False] * 40, [True] * 40 + [False] * 60
    usual, strict = (paired_bootstrap(child, parent, 4000, 0, confidence=c) for c in (0.95, 0.99))
    assert strict.low < usual.low < usual.high < strict.high


@pytest.mark.parametrize(("child", "parent"), [([], []), ([True], [True, False])])
def test_unpaired_answers_are_refused(child: list[bool], parent: list[bool]) -> None:
    with pytest.raises(ValueError, match="items"):
        paired_bootstrap(child, parent, 10, 0)
    with pytest.raises(ValueError, match="items"):
        mcnemar_exact(child, parent)


@pytest.mark.parametrize(("gained", "lost"), list(product(range(6), repeat=2)))
def test_mcnemar_is_the_sum_of_all_outcomes_as_rare(gained: int, lost: int) -> None:
    trials = gained + lost
    rare = [k for k in range(trials + 1) if abs(2 * k - trials) >= abs(gained - lost)]
    child = [True] * gained + [False] * lost + [True, False]
    parent = [False] * gained + [True] * lost + [True, False]
    assert mcnemar_exact(child, parent) == pytest.approx(sum(comb(trials, k) for k in rare) / 2**trials)


def test_mcnemar_stays_finite_on_a_large_set() -> None:
    assert 0 < mcnemar_exact([True] * 1000 + [False] * 800, [False] * 1000 + [True] * 800) < 1e-5


@given(n=st.integers(50, 20000), p=st.floats(0.05, 0.95), power=st.floats(0.5, 0.99))
def test_the_detectable_effect_solves_its_equation(n: int, p: float, power: float) -> None:
    from statistics import NormalDist

    d = detectable_effect(n, p, power)
    z = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(power)
    assert d**2 == pytest.approx(z**2 * (p * (1 - p) + (p + d) * (1 - p - d)) / n, rel=1e-6)
    assert 0 < detectable_effect(4 * n, p, power) < d


def test_the_detectable_effect_is_found_as_often_as_promised() -> None:
    d = detectable_effect(800, 0.5)
    rng = np.random.default_rng(0)
    parent, child = rng.binomial(800, 0.5, 20000) / 800, rng.binomial(800, 0.5 + d, 20000) / 800
    error = np.sqrt((parent * (1 - parent) + child * (1 - child)) / 800)
    assert np.mean(np.abs(child - parent) > 1.96 * error) == pytest.approx(0.8, abs=0.02)


def test_each_attempt_is_held_to_a_tighter_bound() -> None:
    assert confidence_of(1) == 0.95
    assert [1 - confidence_of(attempt) for attempt in (2, 5, 10)] == pytest.approx([0.025, 0.01, 0.005])
    with pytest.raises(ValueError, match="attempt 0"):
        confidence_of(0)


def test_more_confidence_needs_a_larger_effect() -> None:
    assert detectable_effect(800, 0.5, confidence=0.99) > detectable_effect(800, 0.5)


def test_three_attempts_together_pass_by_luck_in_one_of_twenty_cases_at_most() -> None:
    """The bound that `confidence_of` states, for a lower end that misses in half of (1 - confidence)."""
    chances = [(1 - confidence_of(attempt)) / 2 for attempt in range(1, 11)]
    assert sum(chances[:3]) <= 0.05
    assert sum(chances) == pytest.approx(0.073, abs=5e-4)


@pytest.mark.parametrize(("n", "p", "power"), [(0, 0.5, 0.8), (10, 1.2, 0.8), (10, 0.5, 1.0), (10, 0.5, 0.1)])
def test_no_effect_for_nonsense(n: int, p: float, power: float) -> None:
    with pytest.raises(ValueError, match="no effect"):
        detectable_effect(n, p, power)

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luna.generate.draw import apportion, evenly, seed_of, spread

WEIGHTS = st.dictionaries(st.text(min_size=1, max_size=4), st.floats(0, 1e6), min_size=1, max_size=8).filter(
    lambda weights: sum(weights.values()) > 0
)


@given(WEIGHTS, st.integers(0, 5000))
def test_shares_are_exact_in_sum_and_never_a_whole_one_off(weights, n):
    counts = apportion(weights, n)
    total = sum(weights.values())
    assert sum(counts.values()) == n
    assert all(abs(counts[name] - n * weight / total) < 1 + 1e-6 for name, weight in weights.items())


def test_the_largest_remainder_gets_the_rest():
    assert apportion({"a": 0.5, "b": 0.3, "c": 0.2}, 9) == {"a": 4, "b": 3, "c": 2}
    assert apportion({"a": 1.0, "b": 1.0}, 1) == {"a": 1, "b": 0}


@pytest.mark.parametrize("weights", [{}, {"a": 0.0}, {"a": -1.0, "b": 3.0}])
def test_weights_that_share_nothing_out_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        apportion(weights, 3)


def test_a_spread_is_seeded_and_shuffled():
    one, again, other = (spread(random.Random(seed), {"a": 2.0, "b": 1.0}, 30) for seed in (1, 1, 2))
    assert one == again != other
    assert one.count("a") == 20
    assert one != sorted(one)


def test_an_item_listed_twice_comes_twice_as_often():
    assert evenly(random.Random(0), ["x", "x", "y"], 30).count("x") == 20


def test_which_item_gets_more_is_chance():
    assert {evenly(random.Random(seed), ["x", "y", "z"], 1)[0] for seed in range(50)} == {"x", "y", "z"}


def test_seeds_differ_by_every_part():
    assert len({seed_of("a", 1), seed_of("a", 2), seed_of("b", 1), seed_of("a1")}) == 4
    assert 0 <= seed_of("a") < 2**31

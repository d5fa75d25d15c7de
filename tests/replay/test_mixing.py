"""The share of replayed examples holds, whatever the sizes; without any, there is nothing to mix."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from luna.replay.mixing import draw_replayed

SHARES = st.floats(0.0, 0.95)
OWN = st.integers(0, 3000)
POOLS = st.integers(1, 300).map(range)


@given(pool=POOLS, own=OWN, share=SHARES, seed=st.integers(0, 5))
def test_the_share_is_met_as_closely_as_whole_examples_allow(pool: range, own: int, share: float, seed: int) -> None:
    drawn = len(draw_replayed(pool, own, share, seed))

    def miss(count: int) -> float:
        return abs(count - share * (own + count))

    assert all(miss(drawn) <= miss(other) + 1e-6 for other in (drawn - 1, drawn + 1) if other >= 0)


@given(pool=POOLS, own=OWN, share=SHARES, seed=st.integers(0, 5))
def test_no_example_comes_twice_more_than_another(pool: range, own: int, share: float, seed: int) -> None:
    drawn = draw_replayed(pool, own, share, seed)
    times = Counter(drawn)
    counts = [times[example] for example in pool]
    assert set(drawn) <= set(pool)
    assert max(counts) - min(counts) <= 1


@given(own=OWN, share=SHARES)
def test_an_empty_pool_gives_nothing(own: int, share: float) -> None:
    assert draw_replayed([], own, share, 0) == []


def test_a_tenth_is_a_tenth() -> None:
    assert len(draw_replayed(range(180), 900, 0.1, 0)) == 100
    assert len(draw_replayed(range(60), 1800, 0.1, 0)) == 200
    assert draw_replayed(range(60), 1800, 0.0, 0) == []


def test_the_seed_decides_which() -> None:
    first, same, other = (draw_replayed(range(180), 900, 0.1, seed) for seed in (0, 0, 1))
    assert first == same
    assert sorted(first) != sorted(other)

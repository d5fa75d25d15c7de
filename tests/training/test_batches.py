"""The order of examples: every one once an epoch, batches of like length, another order each epoch."""

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from luna.training.batches import LengthBuckets

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=300)


@given(LENGTHS, st.integers(1, 9), st.integers(0, 5))
def test_every_example_comes_once(lengths: list[int], batch_size: int, epoch: int) -> None:
    buckets = LengthBuckets(lengths, batch_size, seed=1)
    buckets.set_epoch(epoch)
    assert sorted(buckets) == list(range(len(lengths)))
    assert len(buckets) == len(lengths)


def _batches(buckets: LengthBuckets) -> list[list[int]]:
    order = list(buckets)
    size = buckets.batch_size
    return [[buckets.lengths[i] for i in order[at : at + size]] for at in range(0, len(order), size)]


def test_batches_hold_like_lengths_and_come_unsorted() -> None:
    batches = _batches(LengthBuckets([1 + i % 50 for i in range(800)], 8, seed=0))
    spreads = [max(batch) - min(batch) for batch in batches]
    assert sum(spreads) / len(spreads) < 2  # at random it would be about 40
    firsts = [batch[0] for batch in batches]
    rises = sum(b > a for a, b in pairwise(firsts))
    assert 0.3 < rises / len(firsts) < 0.7  # sorted batches would only rise or only fall


def test_epochs_differ_and_repeat_with_the_seed() -> None:
    one, same, other = (LengthBuckets(list(range(1, 101)), 4, seed=seed) for seed in (3, 3, 4))
    first = list(one)
    assert first == list(same)
    assert first != list(other)
    one.set_epoch(1)
    assert list(one) != first


def test_the_trainer_moves_the_order_on_each_epoch(monkeypatch: Any) -> None:
    from accelerate.data_loader import prepare_data_loader
    from torch.utils.data import DataLoader

    buckets = LengthBuckets(list(range(1, 41)), 4, seed=0)
    loader = prepare_data_loader(DataLoader(list(range(40)), batch_size=4, sampler=buckets), put_on_device=False)
    orders = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        orders.append([int(i) for batch in loader for i in batch])
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(40))
    assert orders[0] != orders[1]

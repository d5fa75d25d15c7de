"""The cache that grows in place holds what transformers' own holds."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, MistralConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from luna.lm.kv_cache import ROOM, GrowingLayer, make_cache

STEPS = st.lists(st.one_of(st.integers(1, ROOM + 3), st.sets(st.integers(0, 7), min_size=1)), min_size=1, max_size=8)


@given(steps=STEPS, seed=st.integers(0, 99))
def test_tokens_and_rows_come_and_go_as_in_transformers_cache(steps: list[int | set[int]], seed: int) -> None:
    """A number adds as many tokens, a set keeps those rows."""
    torch.manual_seed(seed)
    ours, theirs, rows = GrowingLayer(), DynamicLayer(), 8
    for step in steps:
        if isinstance(step, int):
            keys, values = torch.randn(2, rows, 2, step, 3)
            for mine, expected in zip(ours.update(keys, values), theirs.update(keys, values), strict=True):
                assert torch.equal(mine, expected)
        elif theirs.is_initialized:
            keep = torch.tensor(sorted({row % rows for row in step}))
            rows = len(keep)
            for layer in (ours, theirs):
                layer.batch_select_indices(keep)
        assert ours.get_seq_length() == theirs.get_seq_length()
        if theirs.is_initialized:
            assert torch.equal(ours.keys, theirs.keys)
            assert torch.equal(ours.values, theirs.values)


def test_a_token_is_written_without_copying_what_is_there() -> None:
    layer = GrowingLayer()
    keys = torch.randn(2, 2, 5, 3)
    layer.update(keys, keys)
    before = layer.keys.data_ptr()
    for _ in range(ROOM):
        layer.update(keys[..., :1, :], keys[..., :1, :])
    assert layer.keys.data_ptr() == before


def test_layers_that_forget_stay_those_of_transformers() -> None:
    assert {type(layer) for layer in make_cache(LlamaConfig(num_hidden_layers=2)).layers} == {GrowingLayer}
    sliding = make_cache(MistralConfig(num_hidden_layers=2, sliding_window=4))
    assert {type(layer) for layer in sliding.layers} == {DynamicSlidingWindowLayer}

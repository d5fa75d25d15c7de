"""Diversity by plain counting."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luna.compare.diversity import distinct_n, self_similarity

texts = st.lists(st.text(alphabet="ab ", min_size=1, max_size=20), max_size=12)


def test_distinct_n_is_the_share_of_different_runs():
    assert distinct_n(["a b a b"], 1) == 0.5
    assert distinct_n(["a b a b"], 2) == pytest.approx(2 / 3)
    assert distinct_n(["a b", "a b"], 2) == 0.5
    assert distinct_n(["a"], 2) == 0.0


def test_self_similarity_looks_at_the_nearest_text():
    assert self_similarity(["one two three four", "five six seven eight"]) == 0.0
    assert self_similarity(["one two three", "one two three", "four five six"]) == pytest.approx(2 / 3)
    assert self_similarity(["only one"]) == 0.0


@given(texts)
def test_both_are_shares_and_a_second_copy_of_everything_is_the_least_diverse(found):
    assert 0 <= distinct_n(found, 2) <= 1
    assert 0 <= self_similarity(found) <= 1
    if found:
        assert self_similarity(found * 2) == 1
        assert distinct_n(found * 2, 1) <= distinct_n(found, 1)


def test_many_texts_are_drawn_from_the_same_way_each_time():
    many = [f"{i} {i % 7} {i % 3} x" for i in range(900)]
    assert self_similarity(many, 1) == self_similarity(many, 1)

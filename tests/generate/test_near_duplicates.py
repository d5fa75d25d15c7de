"""Near-duplicates against the plain definition, and at size."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luna.generate.near_duplicates import NearDuplicates, jaccard, shingles

WORDS = [f"word{number}" for number in range(400)]
word = st.sampled_from(WORDS[:6])


def test_a_shingle_is_three_words_and_numbers_and_signs_are_words():
    assert shingles("Compute 12+13 now") == {"compute 12 +", "12 + 13", "+ 13 now"}
    assert shingles("Hi") == {"hi"}
    assert len(shingles("")) == 1


@given(st.lists(st.lists(word, min_size=1, max_size=12).map(" ".join), max_size=25), st.sampled_from([0.6, 0.8, 1.0]))
def test_what_is_kept_is_never_alike_and_what_is_dropped_always_is(texts, threshold):
    near = NearDuplicates(threshold)
    kept = []
    for text in texts:
        alike = any(jaccard(shingles(text), shingles(other)) >= threshold for other in kept)
        added = near.add(text)
        assert not (added and alike), "a near-duplicate was kept"
        assert added or alike, "a text was dropped that is like none"
        kept += [text] if added else []


def test_ten_thousand_texts_lose_their_thousand_near_copies():
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=60)) for _ in range(9000)]
    copies = [text.split() for text in rng.sample(texts, 1000)]
    for copy in copies:
        copy[rng.randrange(60)] = "changed"
    near = NearDuplicates(0.8)
    assert sum(near.add(text) for text in [*texts, *map(" ".join, copies)]) == 9000


@pytest.mark.parametrize("other", ["Compute 12+14.", "Compute 21+13.", "What is 12+13?"])
def test_a_short_question_with_another_number_is_another_question(other):
    near = NearDuplicates(0.8)
    assert near.add("Compute 12+13.")
    assert near.add(other)
    assert not near.add("compute 12 + 13 .")

"""How much the texts of one approach differ from each other."""

import random
import re
from collections.abc import Sequence

from luna.generate.near_duplicates import jaccard, shingles

MOST = 200  # texts whose pairs are compared; more are drawn from

_WORD = re.compile(r"\w+|[^\w\s]")


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Different n-grams of words as a share of all of them, 0 to 1; it falls with the amount of text.

    Source: J. Li et al., "A diversity-promoting objective function for neural conversation models", 2016 (distinct-n).
    """
    grams: list[tuple[str, ...]] = []
    for text in texts:
        words = _WORD.findall(text.casefold())
        grams += zip(*(words[start:] for start in range(n)), strict=False)
    return len(set(grams)) / len(grams) if grams else 0.0


def self_similarity(texts: Sequence[str], seed: int = 0) -> float:
    """Mean similarity of a text to the one most like it, 0 nothing in common, 1 all twice; of at most 200 texts."""
    if len(texts) < 2:
        return 0.0
    picked = texts if len(texts) <= MOST else random.Random(seed).sample(list(texts), MOST)
    said = [shingles(text) for text in picked]
    nearest = [0.0] * len(said)
    for i, one in enumerate(said):
        for j in range(i):
            alike = jaccard(one, said[j])
            nearest[i], nearest[j] = max(nearest[i], alike), max(nearest[j], alike)
    return sum(nearest) / len(nearest)

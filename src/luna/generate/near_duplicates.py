"""Near-duplicates: texts that say almost the same, found without comparing every pair.

A text is the set of its runs of three words (shingles); numbers and signs count as words. Two texts are near-duplicates
if the Jaccard similarity of their sets, |A and B| / |A or B|, reaches a threshold. MinHash signatures in bands find the
candidates (A. Broder, "On the resemblance and containment of documents", 1997; J. Leskovec, A. Rajaraman and J. Ullman,
"Mining of Massive Datasets", chapter 3); the exact similarity of a candidate decides.
"""

import re

from rensa import RMinHash, RMinHashLSH

SHINGLE = 3  # words
PERMUTATIONS, BANDS = 128, 32  # bands of 4 rows: a pair is a candidate with .88 at a similarity of .5, over .99 from .6
_SEED = 1

_WORD = re.compile(r"\w+|[^\w\s]")


def shingles(text: str) -> frozenset[str]:
    """The runs of three words of a text; a shorter text is one run."""
    words = _WORD.findall(text.casefold())
    return frozenset(" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1)))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Their similarity: 0 nothing in common, 1 equal."""
    return len(one & other) / len(one | other)


class NearDuplicates:
    """The texts kept so far, each to be found again by one that is like it."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._kept: list[frozenset[str]] = []
        self._lsh = RMinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, num_bands=BANDS)

    def add(self, text: str) -> bool:
        """Keep a text and return True, unless one that is at least `threshold` like it is kept already."""
        said = shingles(text)
        signature = RMinHash(num_perm=PERMUTATIONS, seed=_SEED)
        signature.update(sorted(said))
        if any(jaccard(said, self._kept[i]) >= self.threshold for i in self._lsh.query(signature)):
            return False
        self._lsh.insert(len(self._kept), signature)
        self._kept.append(said)
        return True

"""Contamination: whether a training text holds what an eval question says.

Words are compared in runs of N (n-grams), as T. Brown et al. do ("Language Models are Few-Shot Learners", 2020,
appendix C). Numbers and signs count as words and are not masked: in templated questions they are all that tells one
from another.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

N = 8  # words of an n-gram; a question of fewer words is one n-gram by itself
FEWEST = 4  # a question of fewer words says too little to be recognised inside a text
SHARE = 0.5  # of a question's n-grams; a phrase that many questions share is no question

_WORD = re.compile(r"\w+|[-+*/=<>^×·−]")

Gram = tuple[str, ...]


class Overlap(NamedTuple):
    """How many n-grams of a training record were looked up, and why it is contaminated, if it is."""

    checked: int
    objection: str | None


class EvalNgrams:
    """The n-grams of the eval questions, for looking up those of training texts."""

    def __init__(self, questions: Iterable[str]) -> None:
        # In a fixed order, so that of two questions that match the same one is always told.
        self._grams_of = [_question_grams(words) for words in map(_words, sorted(questions)) if len(words) >= FEWEST]
        self._asked_by: dict[Gram, list[int]] = defaultdict(list)
        for number, grams in enumerate(self._grams_of):
            for gram in grams:
                self._asked_by[gram].append(number)
        self._lengths = sorted({len(gram) for gram in self._asked_by})

    def __len__(self) -> int:
        return len(self._asked_by)

    def overlap(self, texts: Iterable[str]) -> Overlap:
        """Hold all texts of one training record together against every question."""
        grams = {gram for text in texts for words in [_words(text)] for n in self._lengths for gram in _grams(words, n)}
        found = grams & self._asked_by.keys()
        hits = Counter(number for gram in found for number in self._asked_by[gram])
        for number in sorted(hits):
            asked = self._grams_of[number]
            if hits[number] >= SHARE * len(asked):
                first = " ".join(next(gram for gram in asked if gram in found))
                said = f"{hits[number]} of {len(asked)} n-grams of an eval question stand in it: {first!r}"
                return Overlap(len(grams), said)
        return Overlap(len(grams), None)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _grams(words: list[str], n: int) -> Iterable[Gram]:
    return zip(*(words[start:] for start in range(n)), strict=False)


def _question_grams(words: list[str]) -> list[Gram]:
    """The distinct n-grams of a question, in its order."""
    return list(dict.fromkeys(_grams(words, min(N, len(words)))))

"""Tone drift: how far the words of a model's replies have moved from a reference voice."""

import re
from collections import Counter
from collections.abc import Sequence
from math import fsum, log2

NUMBER, END, RARE = "#", "</reply>", ("<rare>",)
FEWEST = 20  # n-grams seen less often than this in both corpora together are pooled

_MARKUP = re.compile(r"</?think>|<\|\w+\|>")
_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:['’-][^\W\d_]+)*")

Gram = tuple[str, ...]


def tone_drift(replies: Sequence[str], reference: Sequence[str]) -> float:
    """The mean of the base-2 Jensen-Shannon divergences of word 1-grams and word 2-grams; 0 = same, 1 = disjoint.

    With P and Q the relative frequencies of n-grams in the two corpora and M = (P + Q) / 2, it is
    JS = KL(P || M) / 2 + KL(Q || M) / 2 with log2 (J. Lin, "Divergence measures based on the Shannon entropy", IEEE
    Transactions on Information Theory 37, 1991).

    Words are lowercased runs of letters; every number is the one word `#`; thinking tags, chat markers, punctuation
    and operators are no words. 2-grams stay within a reply and count its end as a word, so that a reply of a single
    word has one too.

    The plain frequencies overstate the divergence of finite samples, by about K / (4 N ln 2) for K kinds of n-gram in
    N words each: two halves of one English text score .3, nearly all of it from n-grams seen once or twice. So
    n-grams seen fewer than FEWEST times in both corpora together are pooled into one kind, which bounds K and brings
    the halves below .02. A small vocabulary such as arithmetic has nothing to pool. The price is paid where most
    2-grams are rare: there the drift is mostly heard in the single words.

    Raises:
        ValueError: one side holds no word, or both are so short that every n-gram is rare.
    """
    divergences = [_js(_grams(replies, n, "replies"), _grams(reference, n, "reference")) for n in (1, 2)]
    return fsum(divergences) / len(divergences)


def _words(text: str) -> list[str]:
    found = _WORD.findall(_MARKUP.sub(" ", text.lower()))
    return [NUMBER if word[0].isdigit() else word for word in found]


def _grams(texts: Sequence[str], n: int, name: str) -> Counter[Gram]:
    counts: Counter[Gram] = Counter()
    for text in texts:
        words = _words(text)
        ended = [*words, END] if words and n > 1 else words
        counts.update(zip(*(ended[start:] for start in range(n)), strict=False))
    if not counts:
        raise ValueError(f"the {name} hold no word: there is no tone to compare")
    return counts


def _js(left: Counter[Gram], right: Counter[Gram]) -> float:
    total = left + right
    common = [gram for gram, count in total.items() if count >= FEWEST]
    if not common:
        raise ValueError(f"no word occurs {FEWEST} times: the texts are too short to compare their tone")
    p, q = _shares(left, common), _shares(right, common)
    terms = [0.5 * x * log2(2 * x / (p[g] + q[g])) for g in p for x in (p[g], q[g]) if x > 0]
    # fsum rounds once, whatever the order: the same corpora give the same bytes. Rounding may leave it below zero.
    return min(1.0, max(0.0, fsum(terms)))


def _shares(counts: Counter[Gram], common: list[Gram]) -> dict[Gram, float]:
    size = counts.total()
    kept = {gram: counts[gram] for gram in common}
    return {gram: count / size for gram, count in {**kept, RARE: size - sum(kept.values())}.items()}

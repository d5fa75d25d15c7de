"""The figures of each approach, what N examples would cost, and the mix that they speak for."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from luna.compare.diversity import distinct_n, self_similarity
from luna.compare.prices import Price
from luna.compare.sample import Sample
from luna.compare.trained import Trained
from luna.generate.draw import apportion
from luna.generate.mix import MIXES
from luna.settings import Approach
from luna.stats import wilson

Json = dict[str, Any]
SIZES = (100, 5000)  # a pilot, and a data set
EXPECTED_USD = {"template": 0.05, "self-instruct": 0.06}  # what was believed of an example before anybody measured
MOST_CHANGE = 2.0  # how much a proposal moves a share up or down at most
FEWEST = 8  # examples of a category or an area below which nothing is said of it
WEAK_FOCUS = 2.0


def rows_of(samples: Sequence[Sample], price: Price | None, trained: Sequence[Trained], seed: int) -> list[Json]:
    """The figures of each approach. Diversity is taken of equally many questions, since it falls with their number."""
    size = min(len(sample.records) for sample in samples)
    return [_row(sample, price, trained, size, seed) for sample in samples]


def _row(sample: Sample, price: Price | None, trained: Sequence[Trained], size: int, seed: int) -> Json:
    counts, n = sample.counts, len(sample.records)
    questions = [record.question for record in sample.records]
    compared = random.Random(seed).sample(questions, size)
    tokens = {name: counts[name] / n for name in ("prompt_tokens", "completion_tokens")}
    usd = None if price is None else price.usd(tokens["prompt_tokens"], tokens["completion_tokens"])
    accepted = sample.accepted / sample.judged if sample.accepted is not None and sample.judged else None
    return {
        "approach": sample.approach,
        "examples": n,
        "compared": size,
        **{f"distinct_{k}": distinct_n(compared, k) for k in (1, 2, 3)},
        "self_similarity": self_similarity(compared, seed),
        **{
            name: counts[name] / counts["calls"]
            for name in ("duplicates", "near_duplicates", "contaminated", "unusable")
        },
        "question_words": _mean_words(questions),
        "thinking_words": _mean_words([record.thinking for record in sample.records]),
        "answer_words": _mean_words([record.answer for record in sample.records]),
        "judged": sample.judged,
        "acceptance": accepted,
        **{f"{name}_per_example": value for name, value in tokens.items()},
        "usd_per_example": usd,
        "usd_per_accepted": usd / accepted if usd is not None and accepted else None,
        "usd_for": None if usd is None else {str(size): usd * size for size in SIZES},
        "eval": next((_eval(one) for one in trained if one.approach == sample.approach), None),
    }


def _eval(one: Trained) -> Json:
    return {"model": one.name, "recall": one.recall, "generalize": one.generalize}


def _mean_words(texts: Sequence[str]) -> float:
    return sum(len(text.split()) for text in texts) / len(texts)


def mix_costs(rows: Sequence[Json], mixes: Mapping[str, Mapping[Approach, float]]) -> dict[str, Json | None]:
    """USD of an example and of `SIZES` examples of each mix; None where an approach of it has no price or figures."""
    usd = {row["approach"]: row["usd_per_example"] for row in rows}
    costs: dict[str, Json | None] = {}
    for name, shares in mixes.items():
        parts = [(share, usd.get(approach)) for approach, share in shares.items() if share > 0]
        each = sum(share * one for share, one in parts if one is not None)
        known = all(one is not None for _, one in parts)
        costs[name] = {"per_example": each, **{str(size): each * size for size in SIZES}} if known else None
    return costs


def proposed_mix(rows: Sequence[Json], mix: Mapping[Approach, float]) -> dict[Approach, float]:
    """The present mix, moved toward approaches that give more for what they cost; whole percents.

    An approach is worth what of it is accepted and new (acceptance x (1 - self-similarity)), times what a model trained
    on it alone generalizes where every approach has such a model, for a USD (where it has a price). Its share is
    multiplied by its worth over the mean worth, by at least 1/2 and at most 2. It is a rule of thumb to be tried, not a
    result. Approaches outside of the mix stay outside; those without figures keep their share.
    """
    by_approach = {row["approach"]: row for row in rows}
    measured = [by_approach[approach] for approach, share in mix.items() if share > 0 and approach in by_approach]
    worth = _worth(measured)
    total = sum(mix[approach] for approach in worth)
    mean = sum(mix[approach] * value for approach, value in worth.items()) / total if total else 0.0
    if mean <= 0:
        return dict(mix)
    bent = {a: mix[a] * min(MOST_CHANGE, max(1 / MOST_CHANGE, worth[a] / mean)) for a in worth}
    scale = total / sum(bent.values())
    shares: dict[Approach, float] = {**mix, **{approach: share * scale for approach, share in bent.items()}}
    percents = apportion({str(approach): share for approach, share in shares.items()}, 100)
    return {approach: percents[approach] / 100 for approach in mix}


def _worth(rows: Sequence[Json]) -> dict[Approach, float]:
    trained = all(row["eval"] for row in rows)
    priced = all(row["usd_per_example"] for row in rows)
    worth: dict[Approach, float] = {}
    for row in rows:
        value = (1.0 if row["acceptance"] is None else row["acceptance"]) * (1.0 - row["self_similarity"])
        value *= row["eval"]["generalize"] if trained else 1.0
        worth[row["approach"]] = value / row["usd_per_example"] if priced else value
    return worth


def weak_spots(samples: Sequence[Sample]) -> list[Json]:
    """Categories and areas that go worse than all examples together, surely: the upper end of their 95 % interval."""
    outcomes = [one for sample in samples for one in sample.mastered]
    if not outcomes:
        return []
    overall = sum(good for _, good in outcomes) / len(outcomes)
    found: dict[tuple[str, str], list[bool]] = {}
    for record, good in outcomes:
        for facet in ("category", "area"):
            if facet in record.metadata:
                found.setdefault((facet, record.metadata[facet]), []).append(good)
    return [
        {"facet": facet, "name": name, "n": len(goods), "mastered": sum(goods) / len(goods), "overall": overall}
        for (facet, name), goods in sorted(found.items())
        if len(goods) >= FEWEST and wilson(sum(goods), len(goods)).high < overall
    ]


def all_mixes(
    present: Mapping[Approach, float], proposed: Mapping[Approach, float]
) -> dict[str, Mapping[Approach, float]]:
    """Every mix whose cost is of interest, by name."""
    return {"present": present, "proposed": proposed, **MIXES}

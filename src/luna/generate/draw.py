"""Seeded chance for prompts: exact shares and even spreads."""

import hashlib
import random
from collections.abc import Mapping, Sequence
from fractions import Fraction


def seed_of(*parts: object) -> int:
    """A seed of 31 bits that depends on all parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") >> 1


def apportion(weights: Mapping[str, float], n: int) -> dict[str, int]:
    """Share `n` out by weight, exact in sum, by largest remainder; equal remainders go to the earlier name.

    Raises:
        ValueError: a weight is negative or none is positive.
    """
    exact = {name: Fraction(weight) for name, weight in weights.items()}
    total = sum(exact.values())
    if total <= 0 or any(weight < 0 for weight in exact.values()):
        raise ValueError(f"weights must not be negative and not all zero: {dict(weights)}")
    quotas = {name: weight * n / total for name, weight in exact.items()}
    counts = {name: int(quota) for name, quota in quotas.items()}
    by_remainder = sorted(quotas, key=lambda name: counts[name] - quotas[name])
    for name in by_remainder[: n - sum(counts.values())]:
        counts[name] += 1
    return counts


def spread(rng: random.Random, weights: Mapping[str, float], n: int) -> list[str]:
    """`n` names in random order, each as often as `apportion` says."""
    names = [name for name, count in apportion(weights, n).items() for _ in range(count)]
    rng.shuffle(names)
    return names


def evenly(rng: random.Random, items: Sequence[str], n: int, focus: Mapping[str, float] | None = None) -> list[str]:
    """`n` items in random order, each `n / len(items)` times, give or take one; which ones get more is chance.

    An item that is listed twice comes twice as often, and one that `focus` names as many times as often as it says.
    """
    places = rng.sample(range(len(items)), len(items))
    weights = {str(place): (focus or {}).get(items[place], 1.0) for place in places}
    return [items[int(place)] for place in spread(rng, weights, n)]

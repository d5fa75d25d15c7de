"""How many replayed examples stand among the own ones, and which."""

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def draw_replayed(pool: Sequence[T], own: int, share: float, seed: int) -> list[T]:
    """Of `pool`, as many as make up `share` of all examples beside `own` others; none if the pool is empty.

    A smaller pool is repeated, a larger one drawn from; how often two of its examples come differs by one at most.

    Args:
        share: at least 0 and less than 1.
    """
    if not pool:
        return []
    rounds, rest = divmod(count_beside(own, share), len(pool))
    return [*pool] * rounds + random.Random(f"replay {seed}").sample(pool, rest)


def count_beside(own: int, share: float) -> int:
    """How many others make up `share` of all beside `own`: n of own + n where n = own * share / (1 - share)."""
    return round(own * share / (1 - share))

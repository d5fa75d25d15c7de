"""How sure an accuracy is, and how sure the difference of two models asked the same items."""

from collections.abc import Sequence
from math import comb, sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


class Paired(NamedTuple):
    """A difference in accuracy, child minus parent, over `n` items that both answered, and its interval."""

    delta: float
    low: float
    high: float
    n: int


def confidence_of(attempt: int) -> float:
    """The confidence of the intervals that the `attempt`-th try of one generation is held to: 1 - .05 / attempt.

    Bonferroni's correction for as many tries as there have been (C. E. Bonferroni, "Teoria statistica delle classi e
    calcolo delle probabilità", 1936). The tries before were held to looser bounds, and only the lower end decides, so
    that k tries of models no better than their parent pass with a chance of at most .025 (1 + 1/2 + ... + 1/k): under
    .05 up to three tries, .073 at ten.

    Raises:
        ValueError: `attempt` is not positive.
    """
    if attempt < 1:
        raise ValueError(f"attempt {attempt} is none")
    return 1 - 0.05 / attempt


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """The score interval of a proportion.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).

    Raises:
        ValueError: `n` is not positive or `successes` is not between 0 and `n`.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} are no proportion")
    z, p = _two_sided_z(confidence), successes / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # The ends are exact where nothing or everything succeeded; rounding would leave them a hair off.
    return Interval(
        low=0.0 if successes == 0 else max(0.0, centre - half),
        high=1.0 if successes == n else min(1.0, centre + half),
    )


def paired_bootstrap(
    child: Sequence[bool], parent: Sequence[bool], samples: int, seed: int, *, confidence: float = 0.95
) -> Paired:
    """The mean difference by item and its percentile interval when whole items are drawn again.

    Source: B. Efron and R. Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.

    Args:
        child, parent: right or wrong for the same items in the same order.
        samples: how many times the items are drawn again.

    Raises:
        ValueError: no items, different numbers of items, or no samples.
    """
    gained, lost, n = _discordant(child, parent)
    if samples < 1:
        raise ValueError(f"{samples} bootstrap samples are none")
    # An item's difference is +1, -1 or 0, so n items drawn with replacement are one multinomial draw of three counts:
    # the same distribution as drawing indices, without a samples x n array.
    shares = np.array([gained, lost, n - gained - lost]) / n
    counts_S3 = np.random.default_rng(seed).multinomial(n, shares, size=samples)
    deltas_S = (counts_S3[:, 0] - counts_S3[:, 1]) / n
    tail = (1 - confidence) / 2
    low, high = np.quantile(deltas_S, [tail, 1 - tail])
    return Paired((gained - lost) / n, float(low), float(high), n)


def mcnemar_exact(child: Sequence[bool], parent: Sequence[bool]) -> float:
    """Two-sided p-value of "neither model is better": a sign test on the items where only one of them is right.

    Source: Q. McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika
    12 (1947), in its exact binomial form. 1.0 where the models never differ.

    Raises:
        ValueError: no items or different numbers of items.
    """
    gained, lost, _ = _discordant(child, parent)
    tail = sum(comb(gained + lost, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / (1 << (gained + lost)))


def detectable_effect(n: int, p: float, power: float = 0.8, *, confidence: float = 0.95) -> float:
    """The smallest true gain over accuracy `p` that a two-sided test on `n` items finds with this power.

    Solves d = (z_confidence + z_power) sqrt((p(1-p) + (p+d)(1-p-d)) / n), the normal approximation for two independent
    proportions (J. L. Fleiss et al., "Statistical Methods for Rates and Proportions", chapter 4). Asking both models
    the same items makes the test sharper, so this is an upper bound. A value over 1 - p says that n is too small to
    show any gain.

    Raises:
        ValueError: `n` is not positive, `p` is no share, or `power` is not between 0.5 and 1.
    """
    if n < 1 or not 0 <= p <= 1 or not 0.5 <= power < 1:
        raise ValueError(f"no effect can be told for n={n}, p={p}, power={power}")
    k: float = (_two_sided_z(confidence) + NormalDist().inv_cdf(power)) ** 2
    linear = k * (1 - 2 * p)
    return (linear + sqrt(linear**2 + 8 * (n + k) * k * p * (1 - p))) / (2 * (n + k))


def _two_sided_z(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _discordant(child: Sequence[bool], parent: Sequence[bool]) -> tuple[int, int, int]:
    """Items only the child gets right, items only the parent gets right, and all items."""
    if len(child) != len(parent):
        raise ValueError(f"the child answered {len(child)} items and the parent {len(parent)}: not the same items")
    if not child:
        raise ValueError("no items to compare")
    gained = sum(bool(c) and not p for c, p in zip(child, parent, strict=True))
    lost = sum(bool(p) and not c for c, p in zip(child, parent, strict=True))
    return gained, lost, len(child)

"""The four gates of promotion."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

from luna.settings import Gates

# Thresholds are sums of decimal fractions, which binary floats miss by an ulp: 0.52 must pass 0.50 + 0.02.
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Metrics:
    """What the gates look at. None where a metric was not measured.

    `recall` and `generalize` are accuracies, `tone_drift` a divergence in bits (0..1), `law_violations` a count.
    """

    recall: float | None = None
    generalize: float | None = None
    tone_drift: float | None = None
    law_violations: float | None = None


@dataclass(frozen=True)
class Gate:
    """One gate and how it ended. `value` and `threshold` are None where there is no usable number; it then failed."""

    name: str
    value: float | None
    threshold: float | None
    passed: bool
    rule: str


def metrics_of(values: Mapping[str, Any]) -> Metrics:
    """The gates' metrics out of a metrics file; whatever is no number counts as not measured."""
    return Metrics(*(_number(values.get(name)) for name in ("recall", "generalize", "tone_drift", "law_violations")))


def decide(child: Metrics, parent: Metrics | None, gates: Gates) -> list[Gate]:
    """The four gates, all of which must hold.

    Comparisons are >= and <= as stated, with a tolerance of 1e-9. A gate fails where the child's number or the
    parent's that it is compared with is missing, NaN, infinite or outside of what its metric can be.

    Args:
        parent: the parent generation, or the base model for the first, on the same items in the same run.
    """
    before = parent or Metrics()
    return [
        _at_least("recall", child.recall, before.recall, -gates.recall_drop),
        _at_least("generalize", child.generalize, before.generalize, gates.generalize_gain),
        _at_most("tone_drift", child.tone_drift, gates.tone_drift, largest=1.0),
        _at_most("law_violations", child.law_violations, gates.law_violations, largest=inf),
    ]


def _at_least(name: str, value: float | None, parent: float | None, change: float) -> Gate:
    usable, before = _within(value, 1.0), _within(parent, 1.0)
    threshold = None if before is None else before + change
    passed = usable is not None and threshold is not None and usable >= threshold - TOLERANCE
    return Gate(name, usable, threshold, passed, f"{name} >= parent {'-' if change < 0 else '+'} {abs(change):g}")


def _at_most(name: str, value: float | None, threshold: float, largest: float) -> Gate:
    usable = _within(value, largest)
    passed = usable is not None and usable <= threshold + TOLERANCE
    return Gate(name, usable, threshold, passed, f"{name} <= {threshold:g}")


def _within(value: float | None, largest: float) -> float | None:
    return value if value is not None and isfinite(value) and 0 <= value <= largest else None


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None

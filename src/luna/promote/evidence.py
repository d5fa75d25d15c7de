"""What must hold beside the four gates: that the gain is no luck, and that child and parent may be compared at all."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from luna.promote.gates import TOLERANCE

SUITE = "generalize"
NEEDED = ("evaluator_sha256", "eval_set_sha256", "engine", "dtype", "chat_template_sha256", "decoding", "items")


@dataclass(frozen=True)
class Check:
    """One check and how it ended. `required`: it decides; else it is only reported.

    `differs` are the keys by which child and parent were asked differently.
    """

    name: str
    value: float | None
    threshold: float
    passed: bool
    rule: str
    required: bool = True
    differs: tuple[str, ...] = ()


def evidence(evaluation: Mapping[str, Any], parent: str, *, required: bool) -> Check:
    """Whether the gain on generalize is more than luck: the lower end of its interval lies above 0.

    It never does where child and parent are the same weights, where the bound is missing, NaN or outside of -1..1, or
    where the comparison holds other items than the suite has.

    Args:
        evaluation: metrics/eval.json.
        parent: the name under which the parent was evaluated, `parent` or `base`.
    """
    low = _bound(_part(evaluation, "paired", parent, SUITE, "low"))
    items = _part(evaluation, "paired", parent, SUITE, "n")
    whole = items is not None and items == _part(evaluation, "n", SUITE)
    same = any({"child", parent} == set(pair) for pair in evaluation.get("same_weights") or [])
    passed = low is not None and low > TOLERANCE and whole and not same
    rule = f"lower bound of {SUITE} - parent > 0 at {evaluation['confidence']:.2%} confidence"
    return Check("evidence", low if whole else None, 0.0, passed, rule, required)


def comparable(evaluation: Mapping[str, Any], parent: str) -> Check:
    """Whether child and parent were asked alike; what is not known to be equal differs."""
    ours, theirs = ({key: _part(evaluation, "how", name, key) for key in NEEDED} for name in ("child", parent))
    differs = [key for key in NEEDED if not _known(ours[key]) or ours[key] != theirs[key]]
    if "items" not in differs and ours["items"] != evaluation.get("n"):
        differs.append("items")
    rule = "child and parent are asked alike"
    return Check("comparable", float(len(differs)), 0.0, not differs, rule, differs=tuple(differs))


def _part(value: Any, *keys: str) -> Any:
    """What stands below the keys, or None where one of them is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _bound(value: Any) -> float | None:
    """A lower bound of a difference of two shares, or None where the value is no such number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return value if isfinite(value) and -1 <= value <= 1 else None


def _known(value: Any) -> bool:
    """No part of the value is missing."""
    return bool(value) and all(part is not None for part in (value.values() if isinstance(value, dict) else [value]))

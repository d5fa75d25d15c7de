"""The gates: what passes, what does not, and that no missing number ever passes."""

from dataclasses import asdict, replace
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luna.promote.gates import Gate, Metrics, decide, metrics_of
from luna.settings import Gates

PARENT = Metrics(recall=0.60, generalize=0.50)
GOOD = Metrics(recall=0.70, generalize=0.60, tone_drift=0.01, law_violations=0)
NAMES = ["recall", "generalize", "tone_drift", "law_violations"]
share = st.floats(0, 1)


def _failed(child: Metrics, parent: Metrics | None = PARENT, gates: Gates | None = None) -> list[str]:
    return [gate.name for gate in decide(child, parent, gates or Gates()) if not gate.passed]


def test_a_real_gain_passes_all_four() -> None:
    gates = decide(GOOD, PARENT, Gates())
    assert [gate.name for gate in gates] == NAMES
    assert gates[0] == Gate("recall", 0.70, pytest.approx(0.55), True, "recall >= parent - 0.05")
    assert gates[1].rule == "generalize >= parent + 0.02"
    assert all(gate.passed for gate in gates)


def test_a_model_against_itself_does_not_pass() -> None:
    assert _failed(replace(GOOD, recall=0.60, generalize=0.50)) == ["generalize"]


@pytest.mark.parametrize(
    ("name", "worse"), [("recall", 0.549), ("generalize", 0.519), ("tone_drift", 0.0501), ("law_violations", 1)]
)
def test_each_gate_refuses_alone(name: str, worse: float) -> None:
    assert _failed(replace(GOOD, **{name: worse})) == [name]


@pytest.mark.parametrize(
    ("name", "edge"), [("recall", 0.55), ("generalize", 0.52), ("tone_drift", 0.05), ("law_violations", 0)]
)
def test_the_stated_threshold_itself_passes(name: str, edge: float) -> None:
    assert _failed(replace(GOOD, **{name: edge})) == []


@given(parent=st.integers(0, 97), gain=st.integers(0, 3))
def test_decimal_fractions_compare_as_they_are_written(parent: int, gain: int) -> None:
    gates = Gates(generalize_gain=gain / 100)
    at, below = (parent + gain) / 100, (parent + gain) / 100 - 1e-6
    assert _failed(replace(GOOD, generalize=at), replace(PARENT, generalize=parent / 100), gates) == []
    if below >= 0:
        assert "generalize" in _failed(replace(GOOD, generalize=below), replace(PARENT, generalize=parent / 100), gates)


@pytest.mark.parametrize("bad", [nan, inf, -inf, None, -0.5])
@pytest.mark.parametrize("name", NAMES)
def test_no_number_no_pass(name: str, bad: float | None) -> None:
    child = replace(GOOD, **{name: bad})
    assert _failed(child) == [name]
    gate = next(gate for gate in decide(child, PARENT, Gates()) if gate.name == name)
    assert gate.value is None


@pytest.mark.parametrize("bad", [nan, inf, None, 1.5])
@pytest.mark.parametrize("name", ["recall", "generalize"])
def test_a_parent_without_a_number_fails_the_gate_that_needs_it(name: str, bad: float | None) -> None:
    gates = decide(GOOD, replace(PARENT, **{name: bad}), Gates(recall_drop=1.0, generalize_gain=-1.0))
    assert [(gate.name, gate.threshold) for gate in gates if not gate.passed] == [(name, None)]


def test_an_accuracy_above_one_is_no_accuracy() -> None:
    assert _failed(replace(GOOD, recall=1.2, generalize=60.0, tone_drift=1.1)) == NAMES[:3]


def test_without_a_parent_the_comparisons_fail() -> None:
    assert _failed(GOOD, None) == ["recall", "generalize"]


@given(child=st.builds(Metrics, share, share, share, st.integers(0, 5)), parent=st.builds(Metrics, share, share))
def test_a_verdict_is_the_four_inequalities(child: Metrics, parent: Metrics) -> None:
    margins = {
        "recall": child.recall - (parent.recall - 0.05),
        "generalize": child.generalize - (parent.generalize + 0.02),
        "tone_drift": 0.05 - child.tone_drift,
        "law_violations": -child.law_violations,
    }
    failed = _failed(child, parent)
    for name, margin in margins.items():
        if abs(margin) > 1e-6 or margin == 0:
            assert (name in failed) == (margin < 0)


@given(child=st.builds(Metrics, share, share, share, st.integers(0, 5)), better=share)
def test_doing_better_never_fails_a_gate_that_held(child: Metrics, better: float) -> None:
    improved = replace(child, recall=max(child.recall, better), generalize=max(child.generalize, better))
    assert set(_failed(improved)) <= set(_failed(child))


def test_the_gates_follow_the_settings() -> None:
    strict = Gates(recall_drop=0.0, generalize_gain=0.2, tone_drift=0.005, law_violations=0)
    assert _failed(replace(GOOD, recall=0.59), gates=strict) == ["recall", "generalize", "tone_drift"]
    assert _failed(replace(GOOD, law_violations=3), gates=Gates(law_violations=3)) == []


@pytest.mark.parametrize("value", ["0.9", True, [], {}])
def test_only_numbers_are_metrics(value: Any) -> None:
    values = {**asdict(GOOD), "recall": value, "seconds": 3}
    assert metrics_of(values) == replace(GOOD, recall=None)
    assert metrics_of({}) == Metrics()

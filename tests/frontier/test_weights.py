"""Weights of skills that aim at a share of right first attempts."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from luna.arithmetic.problems import LEVELS, SKILLS
from luna.frontier.run import STEEPEST, find_frontier, last_level, smoothed, weigh
from luna.settings import Documents, Settings

ACCURACIES = st.dictionaries(st.text("abcdefgh", min_size=1), st.floats(0.0, 1.0), min_size=1, max_size=15)


def _expected(accuracies: dict[str, float], weights: dict[str, float]) -> float:
    return sum(accuracies[name] * weights[name] for name in accuracies)


@given(ACCURACIES, st.floats(0.0, 1.0))
def test_weights_are_positive_and_add_up_to_one(accuracies: dict[str, float], target: float) -> None:
    weights = weigh(accuracies, target)
    assert weights.keys() == accuracies.keys()
    assert min(weights.values()) > 0
    assert sum(weights.values()) == pytest.approx(1.0)
    assert max(weights.values()) / min(weights.values()) <= 2.72**STEEPEST  # exp(STEEPEST * (1 - 0))


@given(ACCURACIES, st.floats(0.02, 0.98))
def test_a_target_within_reach_is_hit(accuracies: dict[str, float], share: float) -> None:
    lowest, highest = (_expected(accuracies, weigh(accuracies, target)) for target in (0.0, 1.0))
    assume(highest - lowest > 1e-6)
    target = lowest + share * (highest - lowest)
    assert _expected(accuracies, weigh(accuracies, target)) == pytest.approx(target, abs=1e-6)


@given(ACCURACIES, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_higher_target_never_expects_less(accuracies: dict[str, float], one: float, other: float) -> None:
    low, high = (_expected(accuracies, weigh(accuracies, target)) for target in sorted((one, other)))
    assert low <= high + 1e-9


@given(ACCURACIES, st.floats(0.0, 1.0))
def test_what_the_parent_can_do_never_weighs_more(accuracies: dict[str, float], target: float) -> None:
    weights = weigh(accuracies, target)
    ranked = [weights[name] for name in sorted(accuracies, key=accuracies.__getitem__)]
    assert all(a * (1 + 1e-9) >= b for a, b in pairwise(ranked))


@given(ACCURACIES, st.floats(0.0, 1.0))
def test_a_parent_that_is_weaker_than_the_target_is_asked_all_alike(accuracies: dict[str, float], more: float) -> None:
    mean = sum(accuracies.values()) / len(accuracies)
    weights = weigh(accuracies, mean + more * (1 - mean))
    assert list(weights.values()) == pytest.approx([1 / len(accuracies)] * len(accuracies))


def test_a_target_that_is_the_plain_mean_leaves_all_alike() -> None:
    weights = weigh({"a": 0.2, "b": 0.4, "c": 0.6}, 0.4)
    assert list(weights.values()) == pytest.approx([1 / 3] * 3)


@given(st.integers(1, 100), st.data())
def test_few_questions_are_drawn_toward_one_half(questions: int, data: st.DataObject) -> None:
    share = data.draw(st.integers(0, questions)) / questions
    value = smoothed(share, questions)
    assert 0 < value < 1
    assert abs(value - 0.5) <= abs(share - 0.5) + 1e-12
    assert abs(smoothed(share, 10_000) - share) < 1e-4


def _knows(*by_level: float) -> dict[str, float]:
    return {name: by_level[skill.level - 1] for name, skill in SKILLS.items()}


@pytest.mark.parametrize(
    ("by_level", "last"),
    [
        ((0.0, 0.0, 0.0, 0.0, 0.0, 0.0), 1),
        ((0.7, 0.5, 0.4, 0.0, 0.0, 0.0), 4),
        ((0.7, 0.5, 0.2, 0.1, 0.0, 0.0), 4),  # a share that is just reached is enough
        ((0.7, 0.1, 0.4, 0.0, 0.0, 0.0), 4),  # a gap below is asked, too
        ((0.1, 0.1, 0.1, 0.1, 0.1, 0.0), 1),
        ((1.0, 1.0, 1.0, 1.0, 1.0, 1.0), 6),
    ],
)
def test_levels_are_asked_one_beyond_the_highest_in_reach(by_level: tuple[float, ...], last: int) -> None:
    assert last_level(_knows(*by_level), 0.2) == last


def test_without_a_reach_all_levels_are_asked() -> None:
    assert last_level(_knows(0.0, 0.0, 0.0, 0.0, 0.0, 0.0), None) == LEVELS == len(Documents(share=1.0).levels)


def test_a_level_is_reached_by_the_mean_of_its_skills() -> None:
    assert last_level(_knows(0.5, 0.0, 0.0, 0.0, 0.0, 0.0) | {"add3": 0.61}, 0.2) == 3
    assert last_level(_knows(0.5, 0.0, 0.0, 0.0, 0.0, 0.0) | {"add3": 0.59}, 0.2) == 2


def test_a_model_that_knows_nothing_is_asked_evenly(luna_root: Path, tiny_settings: Callable[..., Settings]) -> None:
    """Random weights answer nothing, so there is no skill to prefer; the metrics can be written as JSON."""
    generate = tiny_settings().params.generate.model_copy(update={"frontier": 0.5, "reach": 0.2})
    found = find_frontier(tiny_settings({"generate": generate}), luna_root)
    assert found["accuracy"] == 0.0
    easiest = [name for name, skill in SKILLS.items() if skill.level == 1]
    assert found["by_skill"].keys() == SKILLS.keys()
    assert (found["last_level"], found["weights"]) == (1, pytest.approx(dict.fromkeys(easiest, 1 / len(easiest))))
    assert json.loads(json.dumps(found)) == found


def test_without_a_target_or_outside_of_arithmetic_nothing_is_probed(
    tmp_path: Path, tiny_settings: Callable[..., Settings]
) -> None:
    nothing = {"accuracy": None, "weights": None}
    off = tiny_settings().params.generate.model_copy(update={"frontier": None, "reach": None})
    on = tiny_settings().params.generate.model_copy(update={"frontier": 0.5})
    assert find_frontier(tiny_settings({"generate": off}), tmp_path) == nothing
    assert find_frontier(tiny_settings({"generate": on}, {"subject": "code"}), tmp_path) == nothing

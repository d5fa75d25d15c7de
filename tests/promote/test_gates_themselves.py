"""The gates tested as an instrument: nothing may pass for luck, a planted loss is refused, a planted gain passes."""

import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from luna.arithmetic.reading import CLOSE
from luna.eval_set.items import EvalItem, read_items, read_voice, write_eval_set
from luna.evaluate.run import evaluate
from luna.outputs import write_json
from luna.promote.evidence import evidence
from luna.promote.run import promote
from luna.settings import Settings
from luna.stats import confidence_of, detectable_effect, paired_bootstrap

Make = Callable[..., Settings]
N, TRIALS = 800, 200

# ---------------------------------------------------------------- the whole way, with planted replies


@pytest.fixture
def settings(tiny_settings: Make) -> Settings:
    evaluation = tiny_settings().params.evaluate.model_copy(update={"recall_items": 100, "generalize_items": 200})
    return tiny_settings({"evaluate": evaluation})


@pytest.fixture
def root(luna_root: Path, settings: Settings) -> Path:
    """A generation that is its own parent, base and fine-tuned model."""
    for name in ("sft", "luna"):
        shutil.copytree("models/base", f"models/{name}")
    write_eval_set(Path("data/eval"), settings.params.evaluate, "arithmetic")
    teachers = [
        {"gen": None, "source": source, "role": role, "path": f"models/{source}"}
        for source, role in (("sft", "primary"), ("base", "stabilizing_critic"))
    ]
    write_json(
        Path("metrics/distill.json"), {"teachers": teachers, "steps": 3, "learning_rate": 1e-3, "replay_size": 0}
    )
    write_json(Path("metrics/enhance.json"), {"total_examples": 1})
    return luna_root


def _plant(monkeypatch: pytest.MonkeyPatch, child: float, parent: float) -> None:
    """Replies in the reference voice, of which these shares are right on generalize; the child is asked first."""
    accuracies = iter([child, child, parent, parent])
    voice = [reply.partition(CLOSE)[0] for reply in read_voice(Path("data/eval"))]
    items = read_items(Path("data/eval"))

    def reply(number: int, item: EvalItem, accuracy: float) -> str:
        right = item.suite == "recall" or random.Random(number).random() < accuracy
        return f"{voice[number]}{CLOSE}\n{item.answer if right else 'no'}"

    def sample(*_: Any) -> list[str]:
        accuracy = next(accuracies)
        return [reply(number, item, accuracy) for number, item in enumerate(items)]

    monkeypatch.setattr("luna.evaluate.asking.sample_replies", sample)


def _decided(root: Path, settings: Settings) -> dict[str, Any]:
    write_json(Path("metrics/eval.json"), evaluate(settings, [], root).metrics)
    return promote(settings, root)


def _train() -> None:
    """Other weights than the parent's."""
    path = Path("models/luna/model.safetensors")
    weights = load_file(path)
    first = next(iter(weights))
    save_file({**weights, first: weights[first] + 1}, path, metadata={"format": "pt"})


def test_a_model_against_itself_is_refused(root: Path, settings: Settings) -> None:
    generation = _decided(root, settings)
    assert generation["verdict"] == "REJECTED"
    assert {"generalize", "evidence"} <= set(generation["failed"])
    assert "comparable" not in generation["failed"]


def test_the_same_weights_do_not_pass_by_another_draw_of_replies(
    root: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant(monkeypatch, child=0.9, parent=0.2)
    assert _decided(root, settings)["failed"] == ["evidence"]


def test_a_planted_gain_is_promoted(root: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    _train()
    _plant(monkeypatch, child=0.6, parent=0.45)
    generation = _decided(root, settings)
    assert (generation["verdict"], generation["failed"]) == ("PROMOTED", [])


def test_a_planted_regression_is_refused(root: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    _train()
    _plant(monkeypatch, child=0.45, parent=0.6)
    assert _decided(root, settings)["failed"] == ["generalize", "evidence"]


def test_a_ladder_whose_eval_set_changed_is_refused(
    root: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    _train()
    shutil.copytree("models/base", "models/teachers/parent")
    parent = {"gen": "Luna-G001", "source": "tag", "path": "models/teachers/parent", "eval_set_sha256": "0" * 64}
    base = {"gen": None, "source": "base", "path": "models/base"}
    Path("models/teachers/teachers.json").write_text(json.dumps({"parent": parent, "grandparent": base}))
    grown = Settings(
        params=settings.params.model_copy(update={"generation": "Luna-G002", "parent": "Luna-G001"}),
        preset=settings.preset,
    )
    _plant(monkeypatch, child=0.6, parent=0.45)
    generation = _decided(root, grown)
    assert generation["failed"] == ["comparable"]
    assert generation["checks"]["comparable"]["differs"] == ["eval_set_sha256"]


# ---------------------------------------------------------------- how often luck passes


def _passes(child: Sequence[bool], parent: Sequence[bool], seed: int, attempt: int = 1) -> bool:
    confidence = confidence_of(attempt)
    found = paired_bootstrap(child, parent, 2000, seed, confidence=confidence)
    evaluation = {
        "n": {"generalize": len(child)},
        "confidence": confidence,
        "paired": {"parent": {"generalize": {"low": found.low, "n": found.n}}},
    }
    return evidence(evaluation, "parent", required=True).passed


def _share_that_passes(gain: float, attempt: int = 1) -> float:
    """Of models that differ by `gain` in accuracy on items that are easy and hard alike for both."""
    rng = np.random.default_rng(0)
    passed = 0
    for trial in range(TRIALS):
        ease = rng.beta(1, 1, N) * (1 - gain)
        child, parent = rng.random(N) < ease + gain, rng.random(N) < ease
        passed += _passes(child.tolist(), parent.tolist(), trial, attempt)
    return passed / TRIALS


def test_equal_models_pass_by_luck_in_one_of_twenty_trials_at_most() -> None:
    assert 0 < _share_that_passes(0.0) <= 0.05


def test_a_later_attempt_passes_by_luck_less_often() -> None:
    assert _share_that_passes(0.0, attempt=10) < _share_that_passes(0.0)


def test_a_gain_of_the_detectable_size_is_seen_as_often_as_promised() -> None:
    assert _share_that_passes(detectable_effect(N, 0.5)) >= 0.8


def test_a_loss_never_passes() -> None:
    assert _share_that_passes(-0.05) == 0


def test_what_suffices_at_first_may_not_suffice_at_the_third_attempt() -> None:
    child, parent = [True] * 60 + [False] * 40 + [True] * 700, [False] * 60 + [True] * 40 + [True] * 700
    assert _passes(child, parent, seed=0, attempt=1)
    assert not _passes(child, parent, seed=0, attempt=3)

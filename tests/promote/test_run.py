"""The promote stage on a tree of small files: verdict, evidence, repeatable bytes, and clear words when one lacks."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luna.errors import LunaError
from luna.lm.weights import weights_sha256
from luna.promote.run import PromoteError, card, promote
from luna.settings import Gates, Settings, load_settings

ROOT = Path(__file__).parents[2]
GAIN = {"delta": 0.1, "low": 0.06, "high": 0.14, "n": 800, "p": 0.001, "detectable": 0.07}
PAIRED = {"base": {"generalize": GAIN}}
HOW: dict[str, Any] = {
    "evaluator_sha256": "a" * 64,
    "eval_set_sha256": "e" * 64,
    "engine": {"torch": "2", "transformers": "5", "threads": 1, "device": "cpu"},
    "dtype": "float32",
    "chat_template_sha256": "c" * 64,
    "decoding": {"temperature": 0.0, "max_new_tokens": 160, "batch_size": 128, "seed": 0},
    "items": {"recall": 800, "generalize": 800},
}


def _settings(**changes: Any) -> Settings:
    settings = load_settings(ROOT)
    first = {"generation": "Luna-G001", "parent": None, "grandparent": None}
    return settings.model_copy(update={"params": settings.params.model_copy(update={**first, **changes})})


@pytest.fixture
def evaluation() -> dict[str, Any]:
    return {
        "recall": 0.7,
        "generalize": 0.6,
        "tone_drift": 0.01,
        "law_violations": 0,
        "models": {"base": {"recall": 0.6, "generalize": 0.5}, "sft": {"recall": 0.68, "generalize": 0.61}},
        "n": {"recall": 800, "generalize": 800},
        "confidence": 0.95,
        "paired": PAIRED,
        "same_weights": [],
        "how": {"child": HOW, "base": HOW},
        "eval_set_sha256": "e" * 64,
    }


@pytest.fixture
def tree(tmp_path: Path, evaluation: dict[str, Any]) -> Path:
    distill = {
        "teachers": [
            {"gen": None, "source": "sft", "role": "primary", "path": "models/sft"},
            {"gen": None, "source": "base", "role": "stabilizing_critic", "path": "models/base"},
        ],
        "steps": 50,
        "learning_rate": 5e-4,
        "replay_size": 0,
    }
    enhance = {
        "total_examples": 700,
        "enhanced_examples": 690,
        "average_iterations": 1.5,
        "convergence_rate": 0.9,
        "student": "models/base",
    }
    (tmp_path / "models" / "luna").mkdir(parents=True)
    (tmp_path / "models" / "luna" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "metrics").mkdir()
    for name, value in (("eval", evaluation), ("distill", distill), ("enhance", enhance)):
        (tmp_path / "metrics" / f"{name}.json").write_text(json.dumps(value))
    return tmp_path


@pytest.fixture
def measured(tree: Path, evaluation: dict[str, Any]) -> Callable[..., None]:
    """Writes another metrics/eval.json."""

    def write(**changes: Any) -> None:
        (tree / "metrics" / "eval.json").write_text(json.dumps({**evaluation, **changes}))

    return write


def test_a_planted_gain_is_promoted_with_its_evidence(tree: Path) -> None:
    settings = _settings()
    generation = promote(settings, tree)
    assert json.loads((tree / "generation.json").read_text()) == generation
    assert (generation["verdict"], generation["failed"]) == ("PROMOTED", [])
    assert generation["gates"]["recall"] == {
        "value": 0.7,
        "threshold": pytest.approx(0.55),
        "pass": True,
        "rule": "recall >= parent - 0.05",
    }
    assert list(generation["gates"]) == ["recall", "generalize", "tone_drift", "law_violations"]
    assert {name: check["pass"] for name, check in generation["checks"].items()} == {
        "evidence": True,
        "comparable": True,
    }
    assert (generation["evidence"], generation["attempt"]) == (PAIRED, 1)
    assert generation["manifest"]["ages"] == {"sft": "2->3", "distill": "3->4"}
    assert generation["manifest"]["training_params"]["steps"] == 50
    assert generation["weights_sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert generation["eval_set_sha256"] == "e" * 64
    assert generation["data"] == {"examples": 700, "enhanced": 690, "replayed_of_each": 0}
    params = settings.params.model_dump()
    assert generation["settings"] == {
        name: params[name] for name in ("preset", "seed", "alpha", "beta", "gamma", "temperature")
    }


def test_what_was_replayed_stands_in_the_manifest(tree: Path) -> None:
    path = tree / "metrics" / "distill.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "replay_size": 87}))
    generation = promote(_settings(), tree)
    assert generation["data"]["replayed_of_each"] == 87
    stabilizers = generation["manifest"]["stabilizers"]
    assert (stabilizers["replay_buffer"], stabilizers["replay_size"]) == (True, 87)


def test_the_same_run_gives_the_same_bytes(tree: Path) -> None:
    promote(_settings(), tree)
    first = (tree / "generation.json").read_bytes()
    promote(_settings(), tree)
    assert (tree / "generation.json").read_bytes() == first


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({"recall": 0.6, "generalize": 0.5}, ["generalize"]),  # the base against itself
        ({"recall": 0.5}, ["recall"]),
        ({"tone_drift": 0.3, "law_violations": 4}, ["tone_drift", "law_violations"]),
        ({"recall": float("nan")}, ["recall"]),
        ({"law_violations": None}, ["law_violations"]),
        ({"models": {}}, ["recall", "generalize"]),
    ],
)
def test_a_rejection_names_its_gates(
    tree: Path, measured: Callable[..., None], changes: dict[str, Any], failed: list[str]
) -> None:
    measured(**changes)
    generation = promote(_settings(), tree)
    assert (generation["verdict"], generation["failed"]) == ("REJECTED", failed)
    assert json.loads((tree / "generation.json").read_text()) == generation


@pytest.mark.parametrize("bad", [{"low": float("nan")}, {"low": "0.06"}, {"low": 2.0}, {"n": 799}, {"n": None}])
def test_evidence_without_a_number_or_an_item_is_none(
    tree: Path, measured: Callable[..., None], bad: dict[str, Any]
) -> None:
    measured(paired={"base": {"generalize": {**GAIN, **bad}}})
    generation = promote(_settings(), tree)
    assert (generation["verdict"], generation["failed"]) == ("REJECTED", ["evidence"])
    assert generation["checks"]["evidence"]["value"] is None


@pytest.mark.parametrize(
    "paired", [None, {}, {"base": None}, {"base": {"recall": GAIN}}, {"sft": {"generalize": GAIN}}]
)
def test_no_evidence_is_refused_by_name(tree: Path, measured: Callable[..., None], paired: Any) -> None:
    measured(paired=paired)
    assert promote(_settings(), tree)["failed"] == ["evidence"]


def test_a_bound_at_zero_is_no_evidence_and_is_shown_even_where_none_is_required(
    tree: Path, measured: Callable[..., None], evaluation: dict[str, Any]
) -> None:
    measured(paired={"base": {"generalize": {**GAIN, "low": 0.0}}})
    generation = promote(_settings(), tree)
    assert generation["failed"] == ["evidence"]
    assert generation["checks"]["evidence"] == {
        "value": 0.0,
        "threshold": 0.0,
        "pass": False,
        "rule": "lower bound of generalize - parent > 0 at 95.00% confidence",
        "required": True,
        "differs": [],
    }
    lenient = promote(_settings(gates=Gates(require_evidence=False)), tree)
    assert (lenient["verdict"], lenient["failed"]) == ("PROMOTED", [])
    assert "evidence          0.0000      > 0.0000  FAIL (not required)" in card(lenient, evaluation).splitlines()


def test_the_same_weights_are_no_gain_whatever_was_measured(tree: Path, measured: Callable[..., None]) -> None:
    measured(same_weights=[["sft", "parent"], ["child", "base"]])
    assert promote(_settings(), tree)["failed"] == ["evidence"]
    measured(same_weights=[["child", "sft"], ["parent", "base"]])
    assert promote(_settings(), tree)["failed"] == []


def test_an_evaluation_for_an_earlier_attempt_is_refused(tree: Path, measured: Callable[..., None]) -> None:
    with pytest.raises(PromoteError, match=r"confidence: attempt 3 needs 0\.9833, not 0\.95; run `dvc repro evaluate`"):
        promote(_settings(attempt=3), tree)
    measured(confidence=1 - 0.05 / 3)
    generation = promote(_settings(attempt=3), tree)
    assert (generation["attempt"], generation["verdict"]) == (3, "PROMOTED")
    assert "98.33%" in generation["checks"]["evidence"]["rule"]


CHANGED = {
    "engine": {**HOW["engine"], "threads": 2},
    "decoding": {**HOW["decoding"], "temperature": 0.7},
    "items": {"recall": 800, "generalize": 799},
}


@pytest.mark.parametrize("key", HOW)
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("who", ["child", "base"])
def test_each_way_of_asking_that_differs_is_refused_by_name(
    tree: Path, measured: Callable[..., None], who: str, missing: bool, key: str
) -> None:
    how = {"child": HOW, "base": HOW}
    measured(how={**how, who: {**HOW, key: None if missing else CHANGED.get(key, "other")}})
    generation = promote(_settings(), tree)
    assert (generation["verdict"], generation["failed"]) == ("REJECTED", ["comparable"])
    assert generation["checks"]["comparable"]["differs"] == [key]


def test_what_is_unknown_of_both_is_not_the_same(tree: Path, measured: Callable[..., None]) -> None:
    unknown = {**HOW, "engine": {**HOW["engine"], "torch": None}, "dtype": ""}
    measured(how={"child": unknown, "base": unknown})
    assert promote(_settings(), tree)["checks"]["comparable"]["differs"] == ["engine", "dtype"]
    measured(how={})
    assert promote(_settings(), tree)["checks"]["comparable"]["differs"] == list(HOW)


def test_items_that_both_were_not_asked_are_missing(tree: Path, measured: Callable[..., None]) -> None:
    fewer = {**HOW, "items": {"recall": 800, "generalize": 700}}
    measured(how={"child": fewer, "base": fewer})
    assert promote(_settings(), tree)["checks"]["comparable"]["differs"] == ["items"]


def test_a_changed_eval_set_is_refused_with_its_mend(
    tree: Path, measured: Callable[..., None], evaluation: dict[str, Any]
) -> None:
    other = {**HOW, "eval_set_sha256": "f" * 64}
    measured(
        models={"parent": {"recall": 0.6, "generalize": 0.5}},
        paired={"parent": {"generalize": GAIN}},
        how={"child": HOW, "parent": other},
    )
    generation = promote(_settings(generation="Luna-G002", parent="Luna-G001"), tree)
    assert generation["failed"] == ["comparable"]
    last = card(generation, evaluation).splitlines()[-1]
    assert last == (
        "next: comparable failed: the eval set is not Luna-G001's; "
        "set `evaluate` back to what it was, or start anew from the base"
    )


def test_the_base_never_stands_in_for_a_parent_that_was_not_measured(
    tree: Path, measured: Callable[..., None], evaluation: dict[str, Any]
) -> None:
    settings = _settings(generation="Luna-G002", parent="Luna-G001")
    assert promote(settings, tree)["failed"] == ["recall", "generalize", "evidence", "comparable"]
    measured(
        models={**evaluation["models"], "parent": {"recall": 0.72, "generalize": 0.59}},
        paired={"parent": {"generalize": GAIN}},
        how={"child": HOW, "parent": HOW},
    )
    assert promote(settings, tree)["failed"] == ["generalize"]


@pytest.mark.parametrize("stage", ["eval", "distill", "enhance"])
@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_missing_or_broken_input_names_its_stage(tree: Path, stage: str, content: str | None) -> None:
    path = tree / "metrics" / f"{stage}.json"
    path.unlink() if content is None else path.write_text(content)
    name = {"eval": "evaluate"}.get(stage, stage)
    with pytest.raises(PromoteError, match=rf"{stage}\.json: .*`dvc repro (--force )?{name}`"):
        promote(_settings(), tree)
    assert not (tree / "generation.json").exists()


@pytest.mark.parametrize(
    ("file", "key"),
    [("eval", "eval_set_sha256"), ("eval", "confidence"), ("distill", "teachers"), ("distill", "steps")],
)
def test_a_missing_key_is_named(tree: Path, file: str, key: str) -> None:
    path = tree / "metrics" / f"{file}.json"
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != key}))
    with pytest.raises(PromoteError, match=rf"{file}\.json: {key}: is missing; run"):
        promote(_settings(), tree)


def test_nonsense_from_the_distill_stage_is_one_line(tree: Path) -> None:
    path = tree / "metrics" / "distill.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "teachers": ["models/sft"]}))
    with pytest.raises(LunaError, match=r"teachers\.0: ") as refused:
        promote(_settings(), tree)
    assert "\n" not in str(refused.value)


def test_weights_are_hashed_whole_in_shards_and_as_an_adapter(tmp_path: Path) -> None:
    with pytest.raises(LunaError, match=r"holds no \*\.safetensors; run `dvc repro distill`"):
        weights_sha256(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"adapter")
    assert weights_sha256(tmp_path) == hashlib.sha256(b"adapter").hexdigest()
    (tmp_path / "adapter_model.safetensors").unlink()
    for shard in (7, 2, 5, 1, 8, 4, 3, 6):
        (tmp_path / f"model-0000{shard}-of-00008.safetensors").write_bytes(str(shard).encode())
    (tmp_path / "config.json").write_text("{}")
    assert weights_sha256(tmp_path) == hashlib.sha256(b"12345678").hexdigest()


def test_the_card_shows_verdict_gates_models_and_what_comes_next(tree: Path, evaluation: dict[str, Any]) -> None:
    text = card(promote(_settings(), tree), evaluation)
    lines = text.splitlines()
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 110
    assert lines[0] == "Luna-G001: PROMOTED  (parent: the base)"
    assert [line.split()[0] for line in lines if line.endswith("pass")] == [
        "recall",
        "generalize",
        "tone_drift",
        "law_violations",
        "evidence",
        "comparable",
    ]
    assert "recall            0.7000     >= 0.5500  pass" in lines
    assert "evidence          0.0600      > 0.0000  pass" in lines
    assert any(line.split() == ["sft", "0.6800", "0.6100"] for line in lines)
    assert "enhanced examples 690, average iterations 1.5000, convergence rate 0.9000" in text
    assert "`luna release` makes it" in lines[-1]


def test_the_card_of_a_rejection_names_the_gates(
    tree: Path, measured: Callable[..., None], evaluation: dict[str, Any]
) -> None:
    measured(recall=None, tone_drift=0.3)
    text = card(promote(_settings(), tree), {**evaluation, "recall": None})
    assert "REJECTED" in text
    assert "recall, tone_drift failed" in text
    assert any(line.split() == ["recall", "none", ">=", "0.5500", "FAIL"] for line in text.splitlines())

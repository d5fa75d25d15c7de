"""The pretrain stage on a handful of steps: rungs, probes, the accuracy window, and a base that loads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from luna.arithmetic.corpus import thinking_reply
from luna.arithmetic.layouts import solve
from luna.arithmetic.problems import SKILLS
from luna.arithmetic.wording import read
from luna.errors import LunaError
from luna.lm.load import load_model
from luna.lm.reproducible import set_reproducible
from luna.lm.sample import Decoding
from luna.pretrain import probe as probing
from luna.pretrain.probe import probe
from luna.pretrain.run import write_base
from luna.settings import Pretraining, Settings

DOCUMENTS = {"repetition": {"share": 0.5}, "worked": {"share": 0.5, "levels": [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]}}


@pytest.fixture
def settings(tiny_settings: Callable[..., Settings]) -> Callable[..., Settings]:
    """Settings whose base climbs two rungs of two and four steps; the keywords are those of its window."""

    def make(seed: int = 0, **window: Any) -> Settings:
        recipe = Pretraining.model_validate(
            {
                "scratch": {"vocab_size": 300, "hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 32},
                "learning_rate": 1e-3,
                "batch_size": 2,
                "rungs": [
                    {"age": "0->1", "steps": 2, "documents": DOCUMENTS},
                    {"age": "1->2", "steps": 4, "documents": DOCUMENTS},
                ],
                "window": {"lowest": 0.0, "highest": 1.0, "every": 2, "questions": 1, **window} if window else None,
            }
        )
        return tiny_settings({"seed": seed}, {"pretrain": recipe})

    return make


def _write(settings: Settings, folder: Path) -> dict[str, Any]:
    set_reproducible(settings.params.seed, 1)
    return write_base(settings, folder, folder.parent / "scratch")


def test_a_base_climbs_its_rungs_and_loads(settings: Callable[..., Settings], tmp_path: Path) -> None:
    made = settings(lowest=0.0, after=4)
    metrics = _write(made, tmp_path / "base")
    assert metrics["rungs"] == [{"age": "0->1", "steps": 2}, {"age": "1->2", "steps": 4}]
    assert metrics["probe_accuracy"] == 0.0
    assert metrics["probe_by_skill"].keys() == SKILLS.keys()
    loaded = load_model(tmp_path / "base", made.preset.model, trainable=False)
    assert loaded.model.num_parameters() == metrics["parameters"]
    assert loaded.tokenizer.chat_template
    assert (tmp_path / "base" / "README.md").is_file()
    assert not (tmp_path / "base" / "pytorch_model.bin").exists()
    json.dumps(metrics, allow_nan=False)


def test_the_same_seed_gives_the_same_base_and_another_seed_another(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        assert "probe_accuracy" not in _write(settings(seed), tmp_path / name)
    one, again, other = (tmp_path / name / "model.safetensors" for name in ("one", "again", "other"))
    assert one.read_bytes() == again.read_bytes() != other.read_bytes()
    tokenizers = [(tmp_path / name / "tokenizer.json").read_bytes() for name in ("one", "other")]
    assert tokenizers[0] == tokenizers[1]


def test_the_last_rung_ends_as_soon_as_the_base_is_in_its_window(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    metrics = _write(settings(lowest=0.0), tmp_path / "base")
    assert metrics["rungs"][-1]["steps"] == 2


@pytest.mark.parametrize("window", [{"lowest": 0.5}, {"lowest": 0.5, "after": 100}])
def test_a_base_that_is_too_weak_after_all_steps_fails(
    settings: Callable[..., Settings], tmp_path: Path, window: dict[str, Any]
) -> None:
    with pytest.raises(
        LunaError, match=r"^pretrain: the base answers 0\.000 of .*, outside its window 0\.5-1\.0; change"
    ):
        _write(settings(**window), tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_a_base_above_its_window_fails(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luna.pretrain.run.probe", lambda *_, **__: probing.Probe(0.9, {}))
    with pytest.raises(LunaError, match=r"answers 0\.900 .* outside its window 0\.1-0\.5; change"):
        _write(settings(lowest=0.1, highest=0.5), tmp_path / "base")


def test_a_preset_with_a_base_of_its_own_trains_none(tiny_settings: Callable[..., Settings], tmp_path: Path) -> None:
    model = tiny_settings().preset.model.model_copy(update={"base": "some/model", "revision": "abc"})
    named = _write(tiny_settings(None, {"pretrain": None, "model": model}), tmp_path / "base")
    assert named == {"base": "some/model", "revision": "abc"}
    assert [path.name for path in (tmp_path / "base").iterdir()] == ["base.json"]
    assert json.loads((tmp_path / "base" / "base.json").read_text()) == named


# ---------------------------------------------------------------- probing


def _answer_right(tokenizer: Any, skills: set[str]) -> Callable[..., list[str]]:
    """Replies of a model that can do some skills and nothing else, in the place of its sampling."""
    from luna.arithmetic.problems import skill_of

    def sample(model: Any, tokenizer_: Any, prompts: list[list[int]], decoding: Decoding, seed: int) -> list[str]:
        problems = [read(tokenizer.decode(prompt)) for prompt in prompts]
        return [
            thinking_reply(solve(problem), problem.answer if skill_of(problem).name in skills else -1)
            for problem in problems
        ]

    return sample


def test_a_probe_counts_right_replies_by_skill(
    tiny_model_folder: Path, tiny_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(tiny_model_folder, tiny_settings().preset.model, trainable=False)
    monkeypatch.setattr("luna.pretrain.probe.sample_replies", _answer_right(loaded.tokenizer, {"add2", "mul-mul"}))
    found = probe(loaded.model, loaded.tokenizer, Decoding(), questions=3, seed=0)
    assert {name for name, share in found.by_skill.items() if share == 1.0} == {"add2", "mul-mul"}
    assert {share for name, share in found.by_skill.items() if name not in ("add2", "mul-mul")} == {0.0}
    assert found.accuracy == pytest.approx(2 / len(SKILLS))


def test_a_probe_leaves_the_model_as_it_was(tiny_model_folder: Path, tiny_settings: Callable[..., Settings]) -> None:
    loaded = load_model(tiny_model_folder, tiny_settings().preset.model, trainable=True)
    before = [parameter.detach().clone() for parameter in loaded.model.parameters()]
    probe(loaded.model, loaded.tokenizer, Decoding(0.7, 4, 64), questions=1, seed=0)
    assert loaded.model.training
    assert all(torch.equal(a, b) for a, b in zip(before, loaded.model.parameters(), strict=True))

"""Every preset that ships is valid and holds the figures asked of it."""

from pathlib import Path

import pytest

from luna.settings import Preset, load_preset

FOLDER = Path(__file__).parent.parent / "presets"


def load(name) -> Preset:
    return load_preset(FOLDER / f"{name}.yaml")


NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
REAL = [name for name in NAMES if load(name).model.base != "scratch"]
ADAPTED = [name for name in REAL if name != "smollm2-135m"]


@pytest.mark.parametrize("name", NAMES)
def test_preset_is_valid(name):
    assert load(name).subject


@pytest.mark.parametrize("name", REAL)
def test_real_models_train_as_asked(name):
    preset = load(name)
    sft, distill = preset.sft, preset.distill
    assert (sft.learning_rate, sft.epochs, sft.batch_size, sft.gradient_accumulation) == (2e-4, 3, 2, 8)
    assert (distill.learning_rate, distill.max_steps) == (1.5e-5, 1200)
    assert preset.model.max_length == 2048


@pytest.mark.parametrize("name", ADAPTED)
def test_large_models_train_an_adapter_on_four_bits(name):
    model = load(name).model
    assert model.load_in_4bit
    assert model.lora is not None
    assert model.lora.rank == 16


@pytest.mark.parametrize("name", REAL)
def test_teacher_and_judge_are_two_models(name):
    preset = load(name)
    assert preset.judge != "exact"
    assert preset.teacher.model != preset.judge.model


def test_tutor_is_its_own_subject_on_unsloth():
    preset = load("socratic-qwen2.5-7b")
    assert (preset.subject, preset.model.backend) == ("socratic", "unsloth")

"""Steps and rate of distillation: the preset's, unless params.yaml asks for others; metrics tell what was used."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from luna.distill.run import distill, training_of
from luna.lm.reproducible import set_reproducible
from luna.records import Record
from luna.settings import Settings, Training

Make = Callable[..., Settings]
BY_EPOCHS = Training(learning_rate=1e-4, epochs=3, batch_size=5)
BY_STEPS = Training(learning_rate=1e-4, max_steps=7, batch_size=5)


def _asking(make: Make, training: Training, **asked: float | None) -> Settings:
    settings = make(preset_={"distill": training})
    return make({"distill": settings.params.distill.model_copy(update=asked)}, {"distill": training})


@pytest.mark.parametrize("training", [BY_EPOCHS, BY_STEPS])
def test_without_a_word_in_params_the_preset_holds(tiny_settings: Make, training: Training) -> None:
    assert training_of(_asking(tiny_settings, training, max_steps=None, learning_rate=None)) == training


@pytest.mark.parametrize("training", [BY_EPOCHS, BY_STEPS])
def test_params_set_steps_and_rate_alone(tiny_settings: Make, training: Training) -> None:
    found = training_of(_asking(tiny_settings, training, max_steps=11, learning_rate=2e-3))
    assert found == Training(learning_rate=2e-3, max_steps=11, batch_size=5)
    assert Training.model_validate(found.model_dump()) == found
    assert training_of(_asking(tiny_settings, training, learning_rate=2e-3)).epochs == training.epochs


def test_the_run_follows_them_and_says_so(luna_root: Path, tiny_settings: Make, accepted_records: list[Record]) -> None:
    shutil.copytree("models/base", "models/sft")
    set_reproducible(0, 1)
    training = tiny_settings().preset.distill
    settings = _asking(tiny_settings, training, max_steps=2, learning_rate=3e-3)
    found = distill(settings, accepted_records, luna_root, Path("models/luna"), Path("s"))
    assert training.max_steps != 2
    assert (found.metrics["steps"], found.metrics["learning_rate"]) == (2, 3e-3)
    assert training.learning_rate < max(row["learning_rate"] for row in found.log) <= 3e-3
    assert found.log[-1]["step"] == 2

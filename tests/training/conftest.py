"""What training tests share: one thread, fixed seeds, and a quick way to a tiny trainer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luna.lm.chat import Example
from luna.lm.load import LoadedModel, load_model
from luna.lm.reproducible import set_reproducible
from luna.records import Record
from luna.settings import Settings, Training
from luna.training.lessons import encode_lessons


@pytest.fixture
def tiny(tiny_model_folder: Path, tiny_settings: Callable[..., Settings]) -> Callable[[], LoadedModel]:
    """Loads the tiny model afresh, ready to be trained, with the seeds set anew."""

    def load() -> LoadedModel:
        set_reproducible(0, 1)
        return load_model(tiny_model_folder, tiny_settings().preset.model, trainable=True)

    return load


@pytest.fixture
def examples(
    tiny: Callable[[], LoadedModel], accepted_records: list[Record], tiny_settings: Callable[..., Settings]
) -> list[Example]:
    """The first lessons of the accepted records."""
    return encode_lessons(tiny().tokenizer, accepted_records, tiny_settings().preset, 0)[:16]


@pytest.fixture
def training() -> Callable[..., Training]:
    """Four quick steps; keywords replace what they name."""

    def make(**changes: Any) -> Training:
        quick = {"learning_rate": 1e-2, "max_steps": 4, "batch_size": 4, "gradient_accumulation": 1}
        return Training.model_validate({**quick, "weight_decay": 0.0, "scheduler": "constant", **changes})

    return make

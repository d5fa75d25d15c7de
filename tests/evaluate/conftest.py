"""A root that is ready for its evaluation."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from luna.eval_set.items import write_eval_set
from luna.settings import Settings


@pytest.fixture
def grown_root(luna_root: Path, tiny_settings: Callable[..., Settings]) -> Path:
    """A root with an eval set and a generation that is its own parent, base and fine-tuned model."""
    for name in ("sft", "luna"):
        shutil.copytree("models/base", f"models/{name}")
    write_eval_set(Path("data/eval"), tiny_settings().params.evaluate, "arithmetic")
    return luna_root

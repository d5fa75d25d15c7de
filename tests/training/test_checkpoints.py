"""A run that was killed ends in the same bytes, metrics and curves; nothing torn and nothing foreign is taken up."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from luna.distill.run import distill
from luna.records import Record, write_records
from luna.settings import Lora, Settings
from luna.train_sft.run import fine_tune
from luna.training.checkpoints import SEAL, newest_sealed, run_key

pytestmark = pytest.mark.slow

Make = Callable[..., Settings]
STEPS = 40
CHILD = """
import sys
from pathlib import Path
from luna.distill.run import distill
from luna.lm.reproducible import set_reproducible
from luna.records import read_records
from luna.settings import Settings

set_reproducible(0, 1)
settings = Settings.model_validate_json(Path("settings.json").read_text())
distill(settings, read_records(Path("records.jsonl")), Path(), Path("models/killed"), Path(".luna/run"))
"""


def _settings(make: Make, lora: Lora | None) -> Settings:
    preset = make().preset
    model = preset.model.model_copy(update={"lora": lora})
    training = {"max_steps": STEPS, "epochs": None, "save_steps": 10, "learning_rate": 1e-2, "batch_size": 2}
    rungs = {name: getattr(preset, name).model_copy(update=training) for name in ("sft", "distill")}
    dials = make().params.distill.model_copy(update={"js_threshold": 1e-4})
    return make({"distill": dials, "alpha": 0.5, "beta": 0.5}, {"model": model, **rungs})


@pytest.fixture
def ready(luna_root: Path, accepted_records: list[Record]) -> Path:
    """A root with records, and the SFT rung that distillation starts from."""
    write_records(Path("records.jsonl"), accepted_records)
    return luna_root


def _sealed() -> Iterator[Path]:
    yield from Path(".luna/run").glob(f"*/checkpoint-*/{SEAL}")


def _kill_after_a_checkpoint() -> None:
    path = os.pathsep.join(part for part in sys.path if part)
    child = subprocess.Popen([sys.executable, "-c", CHILD], env={**os.environ, "PYTHONPATH": path})
    while not list(_sealed()):
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not Path("models/killed").exists()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("lora", [None, Lora(rank=2, alpha=4, dropout=0.2)], ids=["full weights", "lora with dropout"])
def test_a_run_that_was_killed_ends_as_one_that_was_not(
    ready: Path,
    tiny_settings: Make,
    accepted_records: list[Record],
    lora: Lora | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = _settings(tiny_settings, lora)
    Path("settings.json").write_text(settings.model_dump_json())
    fine_tune(settings, accepted_records, ready, Path("models/sft"), Path(".luna/first"))

    def grow(name: str) -> tuple[Any, dict[str, bytes]]:
        done = distill(settings, accepted_records, ready, Path("models/killed"), Path(".luna") / name)
        files = {path.name: path.read_bytes() for path in Path("models/killed").iterdir()}
        shutil.rmtree("models/killed")
        return done, files

    undisturbed = grow("alone")
    shutil.rmtree(".luna/teacher_states")
    _kill_after_a_checkpoint()
    capsys.readouterr()
    assert grow("run") == undisturbed
    said = capsys.readouterr()
    assert "distill  goes on from step" in said.out
    assert "missing keys" not in said.err  # a tied head is not saved twice
    assert not list(Path(".luna/run").iterdir())


def test_a_torn_or_changed_checkpoint_is_not_taken_up(tmp_path: Path) -> None:
    def checkpoint(step: int, sealed: str | None) -> Path:
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        if sealed is not None:
            (folder / SEAL).write_text(sealed)
        return folder

    good = json.dumps({"model.safetensors": hashlib.sha256(b"weights").hexdigest()})
    whole = checkpoint(5, good)
    for step, seal in ((10, None), (15, good[:-3]), (100, json.dumps({"model.safetensors": "0" * 64}))):
        checkpoint(step, seal)
    assert newest_sealed(tmp_path) == whole
    assert list(tmp_path.iterdir()) == [whole]
    (whole / "optimizer.pt").write_bytes(b"planted")
    assert newest_sealed(tmp_path) is None


def test_another_setting_model_or_example_is_another_run(tiny_settings: Make) -> None:
    example: Any = {"input_ids": [1, 2], "labels": [1, 2]}
    keys = {
        run_key(tiny_settings(), [example], ["a"]),
        run_key(tiny_settings({"beta": 0.3}), [example], ["a"]),
        run_key(tiny_settings(), [example], ["b"]),
        run_key(tiny_settings(), [example, example], ["a"]),
    }
    assert len(keys) == 4
    assert run_key(tiny_settings(), [example], ["a"]) in keys

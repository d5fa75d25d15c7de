"""Curves go where the preset says: a missing package is one line, and what is written stays out of the tree."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luna.errors import LunaError
from luna.lm.chat import Example
from luna.lm.load import LoadedModel
from luna.settings import Training
from luna.training.reporting import reporters
from luna.training.trainer import TokenTrainer, make_trainer


@pytest.mark.parametrize("package", ["wandb", "dvclive"])
def test_a_missing_package_is_one_line(package: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luna.training.reporting.find_spec", lambda name: None)
    with pytest.raises(LunaError, match=rf"^sft: report_to: {package} is not .* `pip install {package}`, or"):
        reporters(package, "sft")
    assert reporters("none", "sft") == []


@pytest.mark.parametrize("package", ["wandb", "dvclive"])
def test_the_curves_are_written_below_the_kept_folder_alone(
    package: str,
    tmp_path: Path,
    tiny: Callable[[], LoadedModel],
    examples: list[Example],
    training: Callable[..., Training],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is no package of Luna's and not installed here")
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.setenv(name, "x")  # so that what is set below is undone
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    loaded = tiny()
    named: dict[str, Any] = {"title": "sft", "output_dir": tmp_path / "out", "seed": 0, "log_every": 1}
    asked = training(report_to=package)
    trainer, log = make_trainer(TokenTrainer, loaded.model, loaded.tokenizer, examples, asked, **named)
    trainer.train()
    assert len(log.rows) == 4
    assert {path.name for path in tmp_path.iterdir()} <= {".luna", "out"}
    if package == "dvclive":
        curve = (tmp_path / ".luna/reports/sft/plots/metrics/loss.tsv").read_text().splitlines()
        assert [float(line.split("\t")[-1]) for line in curve[1:]] == pytest.approx([row["loss"] for row in log.rows])
    else:
        assert list((tmp_path / ".luna/reports/wandb").glob("offline-run-*/*.wandb"))

"""Lessons that are held out end a run in time, leave its best weights, and survive an interruption."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from luna.distill.run import distill
from luna.errors import LunaError
from luna.lm.chat import IGNORE, Example
from luna.lm.load import LoadedModel
from luna.lm.reproducible import set_reproducible
from luna.records import Record
from luna.settings import Lora, Settings, Stopping, Training
from luna.train_sft.run import fine_tune
from luna.training.early_stopping import hold_out
from luna.training.ema import AveragedWeights
from luna.training.trainer import TokenTrainer, make_trainer

Make = Callable[..., Settings]
STOPPING = Stopping(every=4, patience=2, held_out=0.25)
STEPS = 120


def test_the_held_out_are_the_same_ones_in_both_rungs(accepted_records: list[Record]) -> None:
    def split(share: float, seed: int = 0) -> tuple[list[Record], list[Record]]:
        return hold_out(accepted_records, Stopping(held_out=share), seed)

    learned, held_out = split(0.25)
    assert (learned, held_out) == split(0.25)
    assert len(held_out) == 3
    assert [record for record in accepted_records if record in learned] == learned
    assert all(record not in learned for record in held_out)
    assert all(record in split(0.5)[1] for record in held_out)
    assert split(0.25, seed=1)[1] != held_out
    assert len(split(0.001)[1]) == len(split(0.999)[0]) == 1
    assert hold_out(accepted_records, None, 0) == (accepted_records, [])
    with pytest.raises(LunaError, match=r"^early_stopping: of one record none can be held out; .* set it to null$"):
        hold_out(accepted_records[:1], Stopping(), 0)


def test_the_loss_on_others_is_their_mean_and_changes_nothing(
    tmp_path: Path, tiny: Callable[[], LoadedModel], examples: list[Example], training: Callable[..., Training]
) -> None:
    loaded = tiny()
    named: dict[str, Any] = {"title": "test", "output_dir": tmp_path, "seed": 0}
    trainer, _ = make_trainer(TokenTrainer, loaded.model, loaded.tokenizer, examples[:8], training(), **named)
    before = [parameter.detach().clone() for parameter in loaded.model.parameters()]
    others, total, count = examples[8:15], 0.0, 0
    for example in others:
        with torch.no_grad():
            logits_TV = loaded.model(input_ids=torch.tensor([example["input_ids"]])).logits[0].double()
        chosen = [place for place, label in enumerate(example["labels"][1:]) if label != IGNORE]
        total -= sum(float(logits_TV[place].log_softmax(-1)[example["labels"][place + 1]]) for place in chosen)
        count += len(chosen)
    assert trainer.loss_on(others) == pytest.approx(total / count, rel=1e-5)
    assert loaded.model.training
    assert trainer.tokens_seen == 0
    assert all(torch.equal(one, other) for one, other in zip(loaded.model.parameters(), before, strict=True))
    assert all(parameter.grad is None for parameter in loaded.model.parameters())


# ---------------------------------------------------------------- in both rungs


def _settings(make: Make, stopping: Stopping | None, steps: int = STEPS, lora: Lora | None = None) -> Settings:
    """A rate at which the tiny model soon does worse on what it has not seen."""
    update = {"max_steps": steps, "scheduler": "constant", "warmup_ratio": 0.0, "learning_rate": 0.1}
    more = {"batch_size": 3, "save_steps": 10, "early_stopping": stopping}
    rungs = {name: getattr(make().preset, name).model_copy(update=update | more) for name in ("sft", "distill")}
    model = make().preset.model.model_copy(update={"lora": lora})
    return make({"alpha": 1.0, "beta": 0.1, "student_init": "parent"}, {"model": model, **rungs})


def _grow(rung: str, settings: Settings, records: list[Record], name: str) -> tuple[dict[str, Any], list[Any], bytes]:
    set_reproducible(0, 1)
    train: Any = fine_tune if rung == "sft" else distill
    done = train(settings, records, Path(), Path("models") / name, Path(".luna") / rung)
    [weights] = Path("models", name).glob("*.safetensors")
    return done.metrics, done.log, weights.read_bytes()


@pytest.fixture
def ready(luna_root: Path, tiny_settings: Make, accepted_records: list[Record]) -> list[Record]:
    """Records, and below the root an SFT rung that is a teacher of distillation."""
    fine_tune(_settings(tiny_settings, None, steps=2), accepted_records, luna_root, Path("models/sft"), Path("s"))
    return accepted_records


@pytest.mark.parametrize("rung", ["sft", "distill"])
def test_a_run_stops_in_time_and_keeps_its_best_weights(rung: str, ready: list[Record], tiny_settings: Make) -> None:
    metrics, log, weights = _grow(rung, _settings(tiny_settings, STOPPING), ready, "stopped")
    assert metrics["best_step"] < metrics["steps"] == metrics["best_step"] + 8 < STEPS
    assert log[-1]["step"] == metrics["steps"]
    assert metrics["held_out_lessons"] >= 3
    looks_once = STOPPING.model_copy(update={"every": 1000})
    so_far = _settings(tiny_settings, looks_once, steps=metrics["best_step"])
    alone, alone_log, same = _grow(rung, so_far, ready, "alone")
    assert alone["held_out_loss"] == metrics["held_out_loss"]
    assert same == weights
    steps = {row["step"] for row in log} & {row["step"] for row in alone_log}
    assert max(steps) >= 10
    assert [row for row in log if row["step"] in steps] == [row for row in alone_log if row["step"] in steps]
    whole, _, other = _grow(rung, _settings(tiny_settings, None, steps=metrics["best_step"]), ready, "whole")
    assert other != weights
    assert "held_out_loss" not in whole
    assert metrics["lessons"] < whole["lessons"]


@pytest.mark.parametrize(("rung", "lora"), [("sft", None), ("distill", Lora(rank=2, alpha=4, dropout=0.2))])
def test_an_interrupted_run_stops_where_it_would_have(
    rung: str, ready: list[Record], tiny_settings: Make, lora: Lora | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(tiny_settings, STOPPING, lora=lora)
    undisturbed = _grow(rung, settings, ready, "undisturbed")
    follow, seen = AveragedWeights.on_step_end, []

    def interrupted(self: Any, *args: Any, **rest: Any) -> None:
        seen.append(self)
        if len(seen) == 11:
            raise InterruptedError
        follow(self, *args, **rest)

    monkeypatch.setattr(AveragedWeights, "on_step_end", interrupted)
    with suppress(InterruptedError):
        _grow(rung, settings, ready, "again")
    assert not Path("models/again").exists()
    assert _grow(rung, settings, ready, "again") == undisturbed
    assert undisturbed[0]["steps"] > 11

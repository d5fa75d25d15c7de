"""Stop when lessons that are not trained on say so: their loss has stopped falling, and the best weights are kept.

This module imports torch and transformers at once.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from luna.errors import LunaError
from luna.lm.chat import Example
from luna.outputs import read_json
from luna.progress import say
from luna.ranks import is_first
from luna.records import Record
from luna.settings import Stopping
from luna.training.ema import AveragedWeights
from luna.training.trainer import TokenTrainer

FILE = "best.safetensors"
LOOKS = "looks.json"


def hold_out(records: Sequence[Record], stopping: Stopping | None, seed: int) -> tuple[list[Record], list[Record]]:
    """Records to train on, and those that are only looked at, both in their order; none without `stopping`.

    Which ones goes by a hash of seed and content, so that a rung with a smaller share holds out some of the same ones
    and none that the other rung has learned.

    Raises:
        LunaError: nothing would be left to train on.
    """
    if stopping is None:
        return list(records), []
    if len(records) < 2:
        raise LunaError("early_stopping: of one record none can be held out; make more, or set it to null")
    count = min(max(1, round(stopping.held_out * len(records))), len(records) - 1)
    keys = [hashlib.sha256(f"{seed} {record.model_dump_json()}".encode()).hexdigest() for record in records]
    least = sorted(keys)[count - 1]
    chosen = [key <= least for key in keys]
    kept = [record for record, out in zip(records, chosen, strict=True) if not out]
    return kept, [record for record, out in zip(records, chosen, strict=True) if out]


def early_stopping(
    asked: Stopping | None, trainer: TokenTrainer, examples: Sequence[Example], averages: AveragedWeights | None
) -> "EarlyStopping | None":
    """An EarlyStopping that is the trainer's last callback, where one is asked for."""
    if asked is None:
        return None
    stopping = EarlyStopping(asked, trainer, examples, averages)
    trainer.add_callback(stopping)
    return stopping


class EarlyStopping(TrainerCallback):
    """Looks at held-out examples every so many steps, and ends the run after `patience` looks without a new best.

    It looks at the weights that would be kept: the averages where there are any, else the live ones. It has to come
    after them in the callbacks. What it knows is part of each checkpoint.

    Args:
        examples: encoded held-out lessons; the loss is the rung's own, per supervised token.
    """

    def __init__(
        self, stopping: Stopping, trainer: TokenTrainer, examples: Sequence[Example], averages: AveragedWeights | None
    ) -> None:
        self.stopping = stopping
        self.trainer = trainer
        self.examples = examples
        self.averages = averages
        self.best: dict[str, torch.Tensor] = {}
        self.looks: dict[str, Any] = {"loss": None, "step": 0, "since": 0}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.global_step and (folder / LOOKS).is_file():
            self.looks = read_json(folder / LOOKS)
            self.best = load_file(folder / FILE) if (folder / FILE).is_file() else {}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.stopping.every and state.global_step != state.max_steps:
            return
        if self.averages is None:
            self._look(state.global_step)
        else:
            with self.averages.in_place():
                self._look(state.global_step)
        if self.looks["since"] >= self.stopping.patience:
            control.should_training_stop = control.should_log = True  # the last loss is a metric of the run
            control.should_save = False  # a run that goes on from here would make one step more

    def _look(self, step: int) -> None:
        loss = self.trainer.loss_on(self.examples)
        if self.looks["loss"] is None or loss < self.looks["loss"]:
            self.looks = {"loss": loss, "step": step, "since": 0}
            self.best = {name: tensor.detach().clone() for name, tensor in self._weights()}
        else:
            self.looks["since"] += 1
        best = f"best {self.looks['loss']:.4f} at step {self.looks['step']}"
        say(f"train  step {step}  loss {loss:.4f} on {len(self.examples)} held-out lessons; {best}")

    def _weights(self) -> list[tuple[str, torch.Tensor]]:
        named = self.trainer.accelerator.unwrap_model(self.trainer.model).named_parameters()
        return [(name, parameter) for name, parameter in named if parameter.requires_grad]

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not is_first():
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if self.best:
            save_file({name: tensor.contiguous() for name, tensor in self.best.items()}, folder / FILE)
        (folder / LOOKS).write_text(json.dumps(self.looks), encoding="utf-8")

    @torch.no_grad()
    def keep(self) -> dict[str, Any]:
        """Put the best weights into the model for good; returns what the metrics say of it."""
        for name, parameter in self._weights():
            parameter.copy_(self.best[name])
        looks = self.looks
        return {"held_out_lessons": len(self.examples), "held_out_loss": looks["loss"], "best_step": looks["step"]}

"""An exponential moving average of the weights in training: steadier than the last step, and what Luna keeps."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import TrainerCallback

from luna.ranks import is_first

FILE = "ema.safetensors"


class AveragedWeights(TrainerCallback):
    """Follows the trainable parameters after every optimizer step.

    The decay grows as min(decay, (1 + t) / (10 + t)) so that short runs do not remember their start; with t the
    number of steps this is the warm-up of TensorFlow's ExponentialMovingAverage. The averages are saved with each
    checkpoint and restored when training resumes from one. Every rank has the same averages, since all have the same
    weights; the first one saves them.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        self.live = nn.ParameterList(p for p in model.parameters() if p.requires_grad)
        self.steps = 0
        self.averaged = AveragedModel(self.live, multi_avg_fn=self._update)

    def _update(self, averages: Any, live: Any, _count: Any) -> None:
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        get_ema_multi_avg_fn(decay)(averages, live, _count)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        saved = Path(args.output_dir) / f"checkpoint-{state.global_step}" / FILE
        if state.global_step and saved.is_file():
            self._restore(load_file(saved), state.global_step)

    def _restore(self, tensors: dict[str, torch.Tensor], steps: int) -> None:
        self.steps = steps
        self.averaged.n_averaged.fill_(steps)
        with torch.no_grad():
            for name, parameter in zip(self.names, self.averaged.module.parameters(), strict=True):
                parameter.copy_(tensors[name])

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.averaged.update_parameters(self.live)
        self.steps += 1

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not is_first():
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        tensors = zip(self.names, self.averaged.module.parameters(), strict=True)
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors}, folder / FILE)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model holds the averages inside the block and gets its live weights back after it."""
        kept = [parameter.detach().clone() for parameter in self.live]
        self.keep()
        try:
            yield
        finally:
            _copy(kept, self.live)

    def keep(self) -> None:
        """Put the averages into the model for good."""
        _copy(self.averaged.module.parameters(), self.live)


@torch.no_grad()
def _copy(source: Any, target: Any) -> None:
    for new, parameter in zip(source, target, strict=True):
        parameter.copy_(new)

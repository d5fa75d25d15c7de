"""The one trainer behind every rung: TRL's SFTTrainer on ready token ids, with a loss per supervised token.

This module imports torch and TRL at once; a stage imports it inside its command.
"""

import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from luna.errors import LunaError
from luna.lm.chat import IGNORE, Example
from luna.progress import say
from luna.ranks import check_started, is_first, rank, summed, world_size
from luna.settings import Training
from luna.training.batches import LengthBuckets
from luna.training.final_states import FinalStates, StatesReader
from luna.training.packing import check_packing, pack
from luna.training.reporting import reporters


@dataclass
class StepLog(TrainerCallback):
    """One line a few steps: loss and whatever the loss reports. `rows` is the same as data, for a plot."""

    title: str
    rows: list[dict[str, float]] = field(default_factory=list)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        if not math.isfinite(norm.item()):
            raise LunaError(
                f"{self.title}: a gradient is not finite at step {state.global_step + 1}; nothing was updated;"
                " lower learning_rate in the preset"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_log |= state.global_step == state.max_steps  # the last loss is a metric of the run

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs is None or "loss" not in logs:
            return
        row = {"step": state.global_step, "loss": logs["loss"], "learning_rate": logs["learning_rate"]}
        row |= {key: value for key, value in logs.items() if key.startswith(("share_", "loss_"))}
        self.rows.append(row)
        extras = "  ".join(f"{key.removeprefix('share_')} {value:.3f}" for key, value in list(row.items())[3:])
        say(f"{self.title}  step {state.global_step}/{state.max_steps}  loss {logs['loss']:.4f}  {extras}".rstrip())


def describe(examples: Sequence[Example]) -> str:
    """How many examples and tokens, for a stage's log."""
    tokens = sum(len(example["input_ids"]) for example in examples)
    supervised = sum(label != IGNORE for example in examples for label in example["labels"])
    return f"{len(examples)} examples, {tokens} tokens ({supervised} supervised)"


class TokenTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer whose loss sees only supervised tokens: their final hidden states and labels [N].

    No other token is ever projected onto the vocabulary.

    The sum over tokens is divided by the number of supervised tokens of the whole accumulated batch, and a step sees
    the same examples however it is cut, so 1 x 8 and 8 x 1 climb the same curve. Of several ranks each takes its slice:
    2 ranks x 4 examples learn what 1 x 8 do. A loss that is not finite stops the run before the optimizer steps.
    """

    tokens_seen = 0  # positions that went through the model on this rank, padding included

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthBuckets:
        examples = self.train_dataset if train_dataset is None else train_dataset
        lengths = [len(ids) for ids in examples["input_ids"]]
        at_once = self.args.per_device_train_batch_size * world_size()
        # A bucket is what one optimizer step sees, however it is cut into batches.
        step = at_once * self.args.gradient_accumulation_steps
        if world_size() == 1:
            self.buckets = LengthBuckets(lengths, step, self.args.data_seed)
        else:
            self.buckets = LengthBuckets(lengths[:-1], step, self.args.data_seed, at_once)
        return self.buckets

    def _run_epoch(self, *, epoch: int, **rest: Any) -> Any:
        # Resumed inside an epoch on several ranks, transformers does not find the sampler to tell it: it is wrapped
        # once for the ranks and once more for what is skipped.
        self.buckets.set_epoch(epoch)
        return super()._run_epoch(epoch=epoch, **rest)

    def token_loss(self, states: FinalStates, labels_N: torch.Tensor, num_items: float, inputs: Any) -> torch.Tensor:
        """Cross-entropy; subclasses put their own loss here. Returns a scalar already divided by `num_items`."""
        return F.cross_entropy(states.logits().float(), labels_N, reduction="sum") / num_items

    @cached_property
    def reader(self) -> StatesReader:
        """Reads what the model in training makes of its tokens."""
        return StatesReader(self.accelerator.unwrap_model(self.model))

    def counts(self) -> dict[str, Any]:
        """What the run has counted so far on all ranks, as JSON; a checkpoint keeps it. All ranks have to ask."""
        return {"tokens_seen": int(summed(torch.tensor(self.tokens_seen)))}

    def recount(self, counts: dict[str, Any]) -> None:
        """Go on from the counts of a checkpoint."""
        self.tokens_seen = counts["tokens_seen"] if is_first() else 0

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """A checkpoint holds the student's adapter alone; the teachers' are on disk already, and loading goes by it."""
        super()._save(output_dir, state_dict)
        for adapter in getattr(self.model, "peft_config", {}):
            if adapter != "default":
                shutil.rmtree(Path(output_dir or self.args.output_dir) / adapter, ignore_errors=True)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """A tied head is saved once, under the name of the embeddings: in a checkpoint it is not missing."""
        tied = getattr(self.model, "all_tied_weights_keys", {})
        load_result.missing_keys[:] = [key for key in load_result.missing_keys if key not in tied]
        super()._issue_warnings_after_load(load_result)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        self.tokens_seen += inputs["input_ids"].numel()
        loss = self._loss_of(model, inputs, num_items_in_batch)
        if not math.isfinite(loss.item()):
            raise LunaError(
                f"training: the loss is {loss.item()} at step {self.state.global_step + 1}; nothing was updated;"
                " lower learning_rate in the preset"
            )
        # DDP takes the mean of the ranks' gradients, and each is its part of a sum already.
        loss = loss * world_size()
        return (loss, {}) if return_outputs else loss

    def _loss_of(self, model: Any, inputs: dict[str, Any], num_items: Any) -> torch.Tensor:
        labels_BT = inputs["labels"][:, 1:]
        supervised_BT = labels_BT != IGNORE
        # Without labels in the call no backend puts a loss of its own in the place of logits.
        states = self.reader.read(
            inputs["input_ids"], inputs["attention_mask"], supervised_BT, model, inputs.get("position_ids")
        )
        num_items = float(num_items if num_items is not None else supervised_BT.sum())
        return self.token_loss(states, labels_BT[supervised_BT], num_items, inputs | {"supervised": supervised_BT})

    @torch.no_grad()
    def loss_on(self, examples: Sequence[Example]) -> float:
        """The mean loss of a supervised token of other examples; nothing is learned or counted.

        Each rank reads its share, so all of them have to ask.
        """
        by_length = sorted(examples, key=lambda example: len(example["input_ids"]))
        size = self.args.per_device_train_batch_size
        batches = [by_length[start : start + size] for start in range(0, len(by_length), size)]
        batches += [_blank(self.processing_class)] * (-len(batches) % world_size())
        supervised = sum(label != IGNORE for example in examples for label in example["labels"][1:])
        was_training, total = self.model.training, torch.zeros(1, dtype=torch.float64)
        self.model.eval()
        for batch in batches[rank() :: world_size()]:
            inputs = self._prepare_inputs(self.data_collator(batch))
            total += self._loss_of(self.model, inputs, supervised).double().cpu()
        self.model.train(was_training)
        return float(summed(total))


def make_trainer(
    trainer_class: type[TokenTrainer],
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    training: Training,
    *,
    title: str,
    output_dir: Path,
    seed: int,
    log_every: int = 10,
    callbacks: Sequence[TrainerCallback] = (),
    **extra: Any,
) -> tuple[TokenTrainer, StepLog]:
    """A trainer ready for `.train()`, and the log it fills.

    Raises:
        LunaError: there is no example to train on, not as many ranks train as were asked for, examples or model
            cannot be packed, or the package that should report is not installed.
    """
    if not examples:
        raise LunaError(f"{title}: there is no example to train on; look at data/rejected.jsonl for the reasons")
    check_started()
    on_gpu = torch.cuda.is_available()
    bf16 = next(model.parameters()).dtype == torch.bfloat16
    log = StepLog(title)
    config = SFTConfig(
        output_dir=str(output_dir),
        per_device_train_batch_size=training.batch_size,
        gradient_accumulation_steps=training.gradient_accumulation,
        learning_rate=training.learning_rate,
        num_train_epochs=training.epochs or 1,
        max_steps=training.max_steps or -1,
        warmup_steps=training.warmup_ratio,
        weight_decay=training.weight_decay,
        **_schedule(training),
        gradient_checkpointing=training.gradient_checkpointing,
        adam_beta2=0.98,
        optim="adamw_torch_fused",
        save_strategy="steps" if training.save_steps else "no",
        # Only where a loss is logged, or a run that goes on from there would log another mean.
        save_steps=math.ceil((training.save_steps or 500) / log_every) * log_every,
        save_total_limit=2,
        report_to="none",  # `reporters` does
        logging_steps=log_every,
        logging_first_step=True,
        disable_tqdm=not sys.stderr.isatty(),
        use_cpu=not on_gpu,
        bf16=bf16 and on_gpu,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        seed=seed,
        data_seed=seed,
        ddp_find_unused_parameters=False,
    )
    if config.world_size != world_size():
        raise LunaError(
            f"{title}: WORLD_SIZE is {world_size()} and {config.world_size} would train; start a stage with torchrun"
            " or unset WORLD_SIZE"
        )
    learning = [(parameter, parameter.data) for parameter in model.parameters() if parameter.requires_grad]
    trainer = trainer_class(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(_rows(examples, tokenizer, training, title)),
        processing_class=tokenizer,
        data_collator=DataCollatorForLanguageModeling(
            tokenizer.pad_token_id, return_position_ids=training.packing is not None
        ),
        callbacks=[log, *reporters(training.report_to, title), *callbacks],
        **extra,
    )
    _undo_rounding(learning)
    if training.packing is not None:
        check_packing(trainer.reader, title)
    _silence_default_printer(trainer)
    return trainer, log


def _schedule(training: Training) -> dict[str, Any]:
    if training.scheduler != "cosine":
        return {"lr_scheduler_type": training.scheduler}
    return {
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": training.final_rate},
    }


def _undo_rounding(learning: Sequence[tuple[torch.nn.Parameter, torch.Tensor]]) -> None:
    """TRL rounds adapters on a quantised base to bfloat16, which small steps and averages of them get lost in."""
    for parameter, data in learning:
        if parameter.dtype != data.dtype:
            parameter.data = data


def _rows(examples: Sequence[Example], tokenizer: Any, training: Training, title: str) -> list[dict[str, Any]]:
    if training.packing is None:
        return [dict(example) for example in [*examples, *_blank(tokenizer)]]
    blank = [{**example, "seq_lengths": [len(example["input_ids"])]} for example in _blank(tokenizer)]
    return [*pack(examples, training.packing, title), *blank]


def _blank(tokenizer: Any) -> list[Example]:
    """With several ranks, an example that teaches nothing: it stands where a last batch has none for a rank."""
    return [{"input_ids": [tokenizer.pad_token_id] * 2, "labels": [IGNORE] * 2}] if world_size() > 1 else []


def _silence_default_printer(trainer: TokenTrainer) -> None:
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)

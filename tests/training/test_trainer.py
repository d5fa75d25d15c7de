"""The one trainer: its loss, accumulation, refusal of nonsense, averages, resuming and repeating."""

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from luna.errors import LunaError
from luna.lm.chat import IGNORE, Example
from luna.lm.load import LoadedModel
from luna.settings import Training
from luna.training.ema import FILE, AveragedWeights
from luna.training.trainer import StepLog, TokenTrainer, describe, make_trainer

Tiny = Callable[[], LoadedModel]
Quick = Callable[..., Training]


class Watch(TrainerCallback):
    """Weights after every step and gradients before it."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.weights: list[list[torch.Tensor]] = []
        self.gradients: list[list[torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.gradients.append([p.grad.clone() for p in self.model.parameters() if p.grad is not None])

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.weights.append(weights_of(self.model))


def weights_of(model: Any) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def equal(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def _trainer(
    loaded: LoadedModel, examples: list[Example], training: Training, folder: Path, *callbacks: TrainerCallback
) -> tuple[TokenTrainer, StepLog]:
    return make_trainer(
        TokenTrainer,
        loaded.model,
        loaded.tokenizer,
        examples,
        training,
        title="test",
        output_dir=folder,
        seed=0,
        log_every=1,
        callbacks=callbacks,
    )


def _mean_cross_entropy(model: Any, examples: Sequence[Example]) -> float:
    """By hand: every example alone, without padding."""
    total, count = 0.0, 0
    for example in examples:
        with torch.no_grad():
            logits_TV = model(input_ids=torch.tensor([example["input_ids"]])).logits[0].double()
        for place, label in enumerate(example["labels"][1:]):
            if label != IGNORE:
                total -= float(logits_TV[place].log_softmax(-1)[label])
                count += 1
    return total / count


def test_the_logged_loss_is_the_mean_cross_entropy_of_the_supervised_tokens(
    tmp_path: Path, tiny: Tiny, examples: list[Example], training: Quick
) -> None:
    loaded = tiny()
    expected = _mean_cross_entropy(loaded.model.eval(), examples)
    loaded.model.train()
    trainer, log = _trainer(loaded, examples, training(max_steps=1, batch_size=4, gradient_accumulation=4), tmp_path)
    trainer.train()
    assert log.rows[0]["loss"] == pytest.approx(expected, rel=1e-5)
    assert trainer.tokens_seen >= sum(len(example["input_ids"]) for example in examples)


@pytest.mark.parametrize("batch", [1, 2])
def test_one_by_eight_is_eight_by_one(
    tmp_path: Path, tiny: Tiny, examples: list[Example], training: Quick, batch: int
) -> None:
    """Three epochs of steps that hold a part of the data each, the last of an epoch fewer than eight examples.

    Lengths differ, so a mean of micro-batch means would not do.
    """
    examples = examples[:13]
    counts = [sum(label != IGNORE for label in example["labels"]) for example in examples]
    assert max(counts) > 2 * min(counts)
    seen = []
    for size in (batch, 8):
        loaded = tiny()
        watch = Watch(loaded.model)
        shape = training(
            max_steps=6, warmup_ratio=0.0, batch_size=size, gradient_accumulation=8 // size, learning_rate=1e-3
        )
        trainer, log = _trainer(loaded, examples, shape, tmp_path / str(size), watch)
        trainer.train()
        seen.append((watch, log))
    (cut, cut_log), (whole, whole_log) = seen
    assert len(cut.gradients) == len(whole.gradients) == 6
    for one, other in zip(chain(*cut.gradients), chain(*whole.gradients), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    for one, other in zip(chain(*cut.weights), chain(*whole.weights), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    assert [row["loss"] for row in cut_log.rows] == pytest.approx([row["loss"] for row in whole_log.rows], abs=2e-6)


class Overflow(TrainerCallback):
    """Puts an infinite weight into the model after the first step."""

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        with torch.no_grad():
            model.model.norm.weight[0] = torch.inf


def test_a_loss_that_is_not_finite_stops_before_any_weight_changes(
    tmp_path: Path, tiny: Tiny, examples: list[Example], training: Quick
) -> None:
    loaded = tiny()
    watch = Watch(loaded.model)
    trainer, _ = _trainer(loaded, examples, training(gradient_accumulation=2), tmp_path, Overflow(), watch)
    with pytest.raises(
        LunaError, match=r"^training: the loss is (nan|inf) at step 2; .*lower learning_rate"
    ) as stopped:
        trainer.train()
    assert "\n" not in str(stopped.value)
    assert len(watch.weights) == 1
    assert equal(watch.weights[0], weights_of(loaded.model))


def test_a_run_never_ends_well_with_weights_that_are_not_finite(
    tmp_path: Path, tiny: Tiny, examples: list[Example], training: Quick
) -> None:
    """An absurd learning rate: the loss of the last step may still be finite while its gradient is not."""
    loaded = tiny()
    trainer, _ = _trainer(loaded, examples, training(learning_rate=1e30, max_steps=2, warmup_ratio=0.0), tmp_path)
    with pytest.raises(LunaError, match="lower learning_rate"):
        trainer.train()


def test_nothing_to_train_on_is_said_in_one_line(tmp_path: Path, tiny: Tiny, training: Quick) -> None:
    with pytest.raises(LunaError, match=r"^test: there is no example to train on; look at data/rejected\.jsonl"):
        _trainer(tiny(), [], training(), tmp_path)


def test_the_log_says_every_so_many_steps_and_the_last(
    tmp_path: Path, tiny: Tiny, examples: list[Example], training: Quick
) -> None:
    """`final_loss` in the metrics is the last row, so a run of a number of steps that ten does not divide needs one."""
    loaded = tiny()
    trainer, log = make_trainer(
        TokenTrainer,
        loaded.model,
        loaded.tokenizer,
        examples,
        training(max_steps=5),
        title="test",
        output_dir=tmp_path,
        seed=0,
        log_every=2,
    )
    trainer.train()
    assert [row["step"] for row in log.rows] == [1, 2, 4, 5]


def test_a_description_counts_tokens(examples: list[Example]) -> None:
    tokens = sum(len(example["input_ids"]) for example in examples)
    taught = sum(label != IGNORE for example in examples for label in example["labels"])
    assert describe(examples) == f"16 examples, {tokens} tokens ({taught} supervised)"


# ---------------------------------------------------------------- averages, resuming, repeating


@pytest.mark.parametrize("decay", [0.999, 0.15])
def test_averages_follow_the_steps_with_a_warm_up(
    tmp_path: Path, tiny: Tiny, examples: list[Example], training: Quick, decay: float
) -> None:
    loaded = tiny()
    watch, averages = Watch(loaded.model), AveragedWeights(loaded.model, decay)
    trainer, _ = _trainer(loaded, examples, training(), tmp_path, watch, averages)
    trainer.train()
    assert len(watch.weights) == 4
    expected = watch.weights[0]
    for step, live in enumerate(watch.weights[1:], start=1):
        keep = min(decay, (1 + step) / (10 + step))
        expected = [keep * old + (1 - keep) * new for old, new in zip(expected, live, strict=True)]
    live = weights_of(loaded.model)
    with averages.in_place():
        held = weights_of(loaded.model)
    for one, other in zip(held, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    assert not equal(held, live)
    assert equal(weights_of(loaded.model), live)
    averages.keep()
    assert equal(weights_of(loaded.model), held)


def test_live_weights_come_back_even_if_the_block_fails(tiny: Tiny) -> None:
    model = tiny().model
    averages = AveragedWeights(model, 0.9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    live = weights_of(model)

    def fail() -> None:
        with averages.in_place():
            assert not equal(weights_of(model), live)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert equal(weights_of(model), live)


def test_frozen_weights_are_not_averaged(tiny: Tiny) -> None:
    model = tiny().model
    model.requires_grad_(False)
    model.model.norm.weight.requires_grad_(True)
    assert AveragedWeights(model, 0.9).names == ["model.norm.weight"]


def _run(
    tiny: Tiny, examples: list[Example], training: Training, folder: Path, resume: str | None = None
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[dict[str, float]]]:
    """Live weights, averages and log rows at the end of a run."""
    loaded = tiny()
    averages = AveragedWeights(loaded.model, 0.999)
    trainer, log = _trainer(loaded, examples, training, folder, averages)
    trainer.train(resume_from_checkpoint=resume)
    live = weights_of(loaded.model)
    averages.keep()
    return live, weights_of(loaded.model), log.rows


def test_a_resumed_run_ends_with_the_bytes_of_one_that_never_stopped(
    tmp_path: Path, tiny: Tiny, examples: list[Example], training: Quick
) -> None:
    saving = training(save_steps=2, scheduler="cosine", warmup_ratio=0.25)
    live, averages, rows = _run(tiny, examples, saving, tmp_path)
    assert (tmp_path / "checkpoint-2" / FILE).is_file()
    live_again, averages_again, rows_again = _run(tiny, examples, saving, tmp_path, str(tmp_path / "checkpoint-2"))
    assert [row["step"] for row in rows_again] == [3, 4]
    assert rows_again == rows[2:]
    assert equal(live, live_again)
    assert equal(averages, averages_again)
    assert not equal(live, averages)


@pytest.mark.parametrize(("final", "halfway"), [(0.0, 0.5), (0.25, 0.625)])
def test_a_cosine_ends_at_the_share_of_its_rate_that_is_asked_for(
    tmp_path: Path, tiny: Tiny, examples: list[Example], training: Quick, final: float, halfway: float
) -> None:
    cosine = training(scheduler="cosine", final_rate=final, warmup_ratio=0.0)
    trainer, _ = _trainer(tiny(), examples, cosine, tmp_path)
    trainer.train()
    factor = trainer.lr_scheduler.lr_lambdas[0]
    assert [factor(step) for step in (0, 2, 4)] == pytest.approx([1.0, halfway, final])
    for rate in trainer.lr_scheduler.get_last_lr():
        assert rate == pytest.approx(final * 1e-2)


def test_the_same_seed_gives_the_same_bytes(
    tmp_path: Path, tiny: Tiny, examples: list[Example], training: Quick
) -> None:
    first, again = (_run(tiny, examples, training(), tmp_path / name) for name in ("a", "b"))
    assert equal(first[0], again[0])
    assert equal(first[1], again[1])
    assert first[2] == again[2]

"""Fine-tune the parent on the accepted lessons: full weights, or a LoRA adapter where the preset has one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luna.lm.card import model_card
from luna.lm.load import LoadedModel, add_adapter, keep_layout, load_model, save_model
from luna.lm.reproducible import set_reproducible
from luna.lm.weights import model_key
from luna.outputs import read_json
from luna.progress import say
from luna.ranks import is_first
from luna.records import Record
from luna.settings import Settings
from luna.train_sft.examples import gather_examples
from luna.training.checkpoints import run_key, trained
from luna.training.early_stopping import early_stopping, hold_out
from luna.training.ema import AveragedWeights
from luna.training.lessons import encode_lessons
from luna.training.sharding import shard, whole_weights
from luna.training.trainer import TokenTrainer, describe, make_trainer


@dataclass(frozen=True)
class FineTuned:
    """Metrics of the run and its step log."""

    metrics: dict[str, Any]
    log: list[dict[str, float]]


def fine_tune(
    settings: Settings,
    records: Sequence[Record],
    root: Path,
    folder: Path,
    scratch_dir: Path,
    *,
    replay: Sequence[Record] = (),
    start: str | None = None,
) -> FineTuned:
    """Train the parent on the lessons of `records` and save the averaged weights in `folder`.

    Args:
        start: another model to train than the parent.
        replay: records of earlier generations, of which `replay.share` of the examples is made.
    """
    preset = settings.preset
    start = start or str(read_json(root / "models" / "teachers" / "teachers.json")["parent"]["path"])
    loaded = start_student(settings, start)
    training, seed = preset.sft, settings.params.seed
    learned, held_out = hold_out(records, training.early_stopping, seed)
    examples = gather_examples(settings, loaded.tokenizer, learned, replay)
    say(
        f"train_sft  {describe(examples.all)} from {len(learned)} records, {len(examples.replayed)} of the examples"
        f" replayed and {len(examples.corpus)} of the base's corpus; the student starts from {start}"
    )
    shard(loaded, training, "train_sft")
    weights = AveragedWeights(loaded.model, settings.params.distill.ema_decay)
    trainer, log = make_trainer(
        TokenTrainer,
        loaded.model,
        loaded.tokenizer,
        examples.all,
        training,
        title="train_sft",
        output_dir=scratch_dir / run_key(settings, examples.all, [model_key(start, preset.model)]),
        seed=seed,
        callbacks=[weights],
    )
    stopping = early_stopping(
        training.early_stopping, trainer, encode_lessons(loaded.tokenizer, held_out, preset, seed), weights
    )
    counts = {"records": len(learned), **examples.counts}
    with trained(trainer, log):
        weights.keep()
        stopped = stopping.keep() if stopping else {}
        whole = whole_weights(loaded, training)
        if is_first():
            save_model(loaded.model, loaded.tokenizer, folder, _card(settings, folder, counts), whole)
    metrics = {**counts, "tokens_seen": trainer.counts()["tokens_seen"], "steps": trainer.state.global_step}
    return FineTuned({**metrics, "final_loss": log.rows[-1]["loss"], **stopped}, log.rows)


def _card(settings: Settings, folder: Path, counts: Mapping[str, int]) -> str:
    return model_card(
        f"{settings.params.generation} (SFT rung)",
        base=settings.preset.model.base,
        method="Supervised fine-tuning on the student's own corrected attempts.",
        folder=str(folder),
        adapter=settings.preset.model.lora is not None,
        facts={
            "parent": settings.params.parent or "the base",
            **{name.replace("_", " "): count for name, count in counts.items() if count},
        },
    )


def start_student(settings: Settings, path: str) -> LoadedModel:
    """The model at `path`, ready to be trained; a LoRA preset gets its adapter where there is none yet."""
    preset = settings.preset
    loaded = load_model(path, preset.model, trainable=True)
    keep_layout(loaded.model)
    set_reproducible(settings.params.seed, settings.params.threads)
    if preset.model.lora is None or hasattr(loaded.model, "peft_config"):
        return loaded
    return LoadedModel(add_adapter(loaded, preset.model.lora), loaded.tokenizer, loaded.settings)

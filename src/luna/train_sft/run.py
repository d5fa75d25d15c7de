"""Fine-tune the parent on the accepted lessons: full weights, or a LoRA adapter where the preset has one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luna.lm.card import model_card
from luna.lm.load import LoadedModel, add_adapter, load_model, save_model
from luna.lm.reproducible import set_reproducible
from luna.outputs import read_json
from luna.progress import say
from luna.records import Record
from luna.settings import Settings
from luna.training.ema import AveragedWeights
from luna.training.lessons import encode_lessons
from luna.training.trainer import TokenTrainer, describe, make_trainer


@dataclass(frozen=True)
class FineTuned:
    """Metrics of the run and its step log."""

    metrics: dict[str, Any]
    log: list[dict[str, float]]


def fine_tune(settings: Settings, records: Sequence[Record], root: Path, folder: Path, scratch_dir: Path) -> FineTuned:
    """Train the parent on the lessons of `records` and save the averaged weights in `folder`."""
    preset = settings.preset
    seed = settings.params.seed
    parent = read_json(root / "models" / "teachers" / "teachers.json")["parent"]
    loaded = start_student(settings, parent["path"])
    examples = encode_lessons(loaded.tokenizer, records, preset, seed)
    say(f"train_sft  {describe(examples)} from {len(records)} records; the student starts from {parent['path']}")
    weights = AveragedWeights(loaded.model, settings.params.distill.ema_decay)
    trainer, log = make_trainer(
        TokenTrainer,
        loaded.model,
        loaded.tokenizer,
        examples,
        preset.sft,
        title="train_sft",
        output_dir=scratch_dir,
        seed=seed,
        callbacks=[weights],
    )
    trainer.train()
    weights.keep()
    card = model_card(
        f"{settings.params.generation} (SFT rung)",
        base=preset.model.base,
        method="Supervised fine-tuning on the student's own corrected attempts.",
        folder=str(folder),
        adapter=preset.model.lora is not None,
        facts={"parent": settings.params.parent or "the base", "records": len(records), "lessons": len(examples)},
    )
    save_model(loaded.model, loaded.tokenizer, folder, card)
    metrics = {"records": len(records), "lessons": len(examples), "tokens_seen": trainer.tokens_seen}
    return FineTuned(metrics | {"steps": trainer.state.global_step, "final_loss": log.rows[-1]["loss"]}, log.rows)


def start_student(settings: Settings, path: str) -> LoadedModel:
    """The model at `path`, ready to be trained; a LoRA preset gets its adapter where there is none yet."""
    preset = settings.preset
    loaded = load_model(path, preset.model, trainable=True)
    set_reproducible(settings.params.seed, settings.params.threads)
    if preset.model.lora is None or hasattr(loaded.model, "peft_config"):
        return loaded
    return LoadedModel(add_adapter(loaded, preset.model.lora), loaded.tokenizer, loaded.settings)

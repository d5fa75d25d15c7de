"""The pretrain stage: climb the rungs, stop in the accuracy window, keep the averaged weights."""

import random
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainerCallback

from luna.errors import LunaError
from luna.lm.card import model_card
from luna.lm.load import save_model
from luna.lm.sample import Decoding
from luna.lm.scratch import random_llama, train_tokenizer
from luna.outputs import replacing, write_json
from luna.pretrain.documents import encode_corpus, text_of, write_corpus
from luna.pretrain.probe import Probe, probe
from luna.progress import say
from luna.settings import Pretraining, Rung, Settings, Training, Window
from luna.training.ema import AveragedWeights
from luna.training.trainer import TokenTrainer, make_trainer

TOKENIZER_SEED = 0  # one tokenizer for every seed: generations of different seeds stay comparable
LONGEST_CORPUS = 20_000  # documents of a rung; longer rungs read theirs again


class WindowStop(TrainerCallback):
    """Ends a rung once the averaged weights are in the accuracy window."""

    def __init__(self, window: Window, decoding: Decoding, tokenizer: Any, weights: AveragedWeights) -> None:
        self.window, self.decoding, self.tokenizer, self.weights = window, decoding, tokenizer, weights
        self.last: Probe | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        step = state.global_step
        if step < self.window.after or step % self.window.every:
            return
        control.should_training_stop |= self.probe(model, step).accuracy >= self.window.lowest

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if self.last is None:
            self.probe(model, state.global_step)

    def probe(self, model: Any, step: int) -> Probe:
        with self.weights.in_place():
            self.last = probe(model, self.tokenizer, self.decoding, questions=self.window.questions, seed=step)
        say(f"pretrain  step {step}  probe {self.last.accuracy:.3f}")
        return self.last


class Base(NamedTuple):
    """A trained base and the metrics of its making."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    metrics: dict[str, Any]


def pretrain(settings: Settings, recipe: Pretraining, scratch_dir: Path) -> Base:
    """Train the base from nothing.

    Raises:
        LunaError: the base ended outside its accuracy window.
    """
    seed = settings.params.seed
    tokenizer = _tokenizer(recipe)
    model = random_llama(
        tokenizer,
        hidden_size=recipe.scratch.hidden_size,
        layers=recipe.scratch.layers,
        heads=recipe.scratch.heads,
        intermediate_size=recipe.scratch.intermediate_size,
        max_length=settings.preset.model.max_length,
        seed=seed,
    )
    metrics: dict[str, Any] = {"parameters": model.num_parameters(), "rungs": []}
    last: Probe | None = None
    for number, rung in enumerate(recipe.rungs):
        window = recipe.window if number == len(recipe.rungs) - 1 else None
        steps, last = _climb(model, tokenizer, settings, recipe, rung, window, seed * 100 + number, scratch_dir)
        metrics["rungs"].append({"age": rung.age, "steps": steps})
    if last is not None:
        _check_window(recipe, last)
        metrics |= {"probe_accuracy": last.accuracy, "probe_by_skill": last.by_skill}
    return Base(model, tokenizer, metrics)


def _tokenizer(recipe: Pretraining) -> PreTrainedTokenizerFast:
    rng = random.Random(TOKENIZER_SEED)
    corpus = [doc for rung in recipe.rungs for doc in write_corpus(rng, rung, 2000)]
    texts = ["".join(text_of(segment) for segment in doc) for doc in corpus]
    return train_tokenizer(texts, recipe.scratch.vocab_size)


def _climb(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    settings: Settings,
    recipe: Pretraining,
    rung: Rung,
    window: Window | None,
    seed: int,
    scratch_dir: Path,
) -> tuple[int, Probe | None]:
    """One rung: the model ends with the averaged weights. Returns the steps taken and the last probe."""
    count = min(LONGEST_CORPUS, rung.steps * recipe.batch_size)
    examples = encode_corpus(tokenizer, write_corpus(random.Random(seed), rung, count))
    training = Training(
        learning_rate=recipe.learning_rate,
        max_steps=rung.steps,
        batch_size=recipe.batch_size,
        gradient_accumulation=1,
        warmup_ratio=recipe.warmup_ratio,
        scheduler="constant",
    )
    weights = AveragedWeights(model, recipe.ema_decay)
    student = settings.preset.student
    decoding = Decoding(student.temperature, student.max_new_tokens, student.batch_size)
    stop = WindowStop(window, decoding, tokenizer, weights) if window else None
    trainer, _ = make_trainer(
        TokenTrainer,
        model,
        tokenizer,
        examples,
        training,
        title=f"pretrain {rung.age}",
        output_dir=scratch_dir,
        seed=seed,
        log_every=50,
        callbacks=[weights, *([stop] if stop else [])],
    )
    trainer.train()
    weights.keep()
    return trainer.state.global_step, stop.last if stop else None


def _check_window(recipe: Pretraining, last: Probe) -> None:
    window = recipe.window
    if window and not window.lowest <= last.accuracy <= window.highest:
        raise LunaError(
            f"pretrain: the base answers {last.accuracy:.3f} of the probe questions, outside its window"
            f" {window.lowest}-{window.highest}; change pretrain.rungs steps or pretrain.window in the preset"
        )


def write_base(settings: Settings, folder: Path, scratch_dir: Path) -> dict[str, Any]:
    """Train the base and put it into `folder`; returns the metrics.

    A preset with a base of its own is not trained: the folder then only names it.
    """
    if settings.preset.pretrain is None:
        named: dict[str, Any] = {"base": settings.preset.model.base, "revision": settings.preset.model.revision}
        with replacing(folder) as aside:
            aside.mkdir()
            write_json(aside / "base.json", named)
        return named
    model, tokenizer, metrics = pretrain(settings, settings.preset.pretrain, scratch_dir)
    card = model_card(
        "Luna, age 2",
        base="scratch",
        method="Continual pretraining from random weights: copying and facts first, then conversations.",
        folder=str(folder),
        adapter=False,
        facts={"parameters": metrics["parameters"], "seed": settings.params.seed},
    )
    save_model(model, tokenizer, folder, card)
    return metrics

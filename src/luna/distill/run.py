"""The distill stage: the student learns the blend of two frozen teachers' predictions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luna.distill.loss import Blend, Branch
from luna.distill.taboo import spellings_in_pieces, taboo_token_ids
from luna.distill.teachers import load_teachers
from luna.distill.trainer import SHARES, DistillTrainer
from luna.errors import BadSettings
from luna.lm.card import model_card
from luna.lm.load import save_model
from luna.lm.weights import model_key
from luna.outputs import read_json
from luna.progress import say
from luna.ranks import is_first
from luna.records import Record
from luna.settings import Settings, Training
from luna.train_sft.examples import gather_examples
from luna.train_sft.run import start_student
from luna.training.checkpoints import run_key, trained
from luna.training.early_stopping import early_stopping, hold_out
from luna.training.ema import AveragedWeights
from luna.training.lessons import encode_lessons
from luna.training.sharding import shard, whole_weights
from luna.training.trainer import describe, make_trainer

Json = dict[str, Any]
SFT_PATH = "models/sft"


@dataclass(frozen=True)
class Distilled:
    """Metrics of the run and its step log."""

    metrics: Json
    log: list[dict[str, float]]


def training_of(settings: Settings) -> Training:
    """How distillation is trained: the preset's word, with the steps and the rate of params.yaml where it has any."""
    asked, preset = settings.params.distill, settings.preset.distill
    length = {} if asked.max_steps is None else {"epochs": None, "max_steps": asked.max_steps}
    rate = {} if asked.learning_rate is None else {"learning_rate": asked.learning_rate}
    return preset.model_copy(update={**length, **rate})


def distill(
    settings: Settings,
    records: Sequence[Record],
    root: Path,
    folder: Path,
    scratch_dir: Path,
    *,
    replay: Sequence[Record] = (),
) -> Distilled:
    """Distil two teachers into the student and save its averaged weights in `folder`.

    Args:
        replay: records of earlier generations, of which `replay.share` of the examples is made.
    """
    params, training = settings.params, training_of(settings)
    teachers = [
        _teacher(params.teachers.primary, "primary", root),
        _teacher(params.teachers.critic, "stabilizing_critic", root),
    ]
    start = _teacher(params.student_init, "student", root)
    loaded = start_student(settings, start["path"])
    learned, held_out = hold_out(records, training.early_stopping, params.seed)
    examples = gather_examples(settings, loaded.tokenizer, learned, replay)
    looked_at = encode_lessons(loaded.tokenizer, held_out, settings.preset, params.seed)
    say(
        f"distill  {describe(examples.all)}, {len(examples.replayed)} of them replayed and {len(examples.corpus)} of"
        " the base's corpus;"
        f" T1 {teachers[0]['path']}, T2 {teachers[1]['path']}, student {start['path']}"
    )
    paths = [teacher["path"] for teacher in teachers]
    primary, critic = load_teachers(settings, loaded, paths, [*examples.all, *looked_at], root)
    models = [model_key(path, settings.preset.model) for path in [start["path"], *paths]]
    shard(loaded, training, "distill")
    weights = AveragedWeights(loaded.model, params.distill.ema_decay) if params.distill.ema else None
    trainer, log = make_trainer(
        DistillTrainer,
        loaded.model,
        loaded.tokenizer,
        examples.all,
        training,
        title="distill",
        output_dir=scratch_dir / run_key(settings, examples.all, models),
        seed=params.seed + 1,
        callbacks=[weights] if weights else [],
        primary=primary,
        critic=critic,
        blend=Blend.from_params(params),
        taboo_ids=_taboo(settings, loaded.tokenizer),
    )
    stopping = early_stopping(training.early_stopping, trainer, looked_at, weights)
    with trained(trainer, log):
        for teacher in {primary, critic}:
            teacher.finish()
        t1, t2 = primary.counts(), critic.counts()
        say(f"distill  samples read by T1 {t1.read}, by T2 {t2.read}; kept before {t1.kept}, {t2.kept}")
        if weights:
            weights.keep()
        stopped = stopping.keep() if stopping else {}
        card = _card(settings, folder, teachers, len(learned), len(examples.replayed))
        whole = whole_weights(loaded, training)
        if is_first():
            save_model(loaded.model, loaded.tokenizer, folder, card, whole)
    size = {"replay_size": _most_from_one(replay) if examples.replayed else 0}
    return Distilled(_metrics(settings, trainer, log.rows, teachers) | examples.counts | size | stopped, log.rows)


def _most_from_one(replay: Sequence[Record]) -> int:
    """How many records were drawn from a generation; where one had fewer to give, the larger number."""
    return max(Counter(record.metadata["replayed_from"] for record in replay).values(), default=0)


def _teacher(name: str, role: str, root: Path) -> Json:
    """A teacher by its name in params: {gen, source, role, path}."""
    if name == "sft":
        return {"gen": None, "source": "sft", "role": role, "path": SFT_PATH}
    known = read_json(root / "models" / "teachers" / "teachers.json")
    for place, teacher in known.items():
        if name in (place, teacher["gen"]):
            source = {"source": "base"} if teacher["gen"] is None else {}
            return {"gen": teacher["gen"], **source, "role": role, "path": teacher["path"]}
    raise BadSettings(
        f"params.yaml: teachers: {name} is neither sft, parent, grandparent nor one of their tags; mend the name"
    )


def _taboo(settings: Settings, tokenizer: Any) -> list[int] | None:
    taboo = settings.params.distill.taboo
    if not taboo.enabled:
        return None
    for word, spellings in spellings_in_pieces(tokenizer, taboo.words).items():
        say(
            f"distill  taboo: {word} has no token of its own as {', '.join(map(repr, spellings))}; not suppressed there"
        )
    return taboo_token_ids(tokenizer, taboo.words)


def _card(settings: Settings, folder: Path, teachers: Sequence[Json], records: int, replayed: int) -> str:
    params = settings.params
    return model_card(
        params.generation,
        base=settings.preset.model.base,
        method="Fine-tuned on its parent's own corrected attempts, then distilled from two frozen teachers by blending"
        " their predictions.",
        folder=str(folder),
        adapter=settings.preset.model.lora is not None,
        facts={
            "parent": params.parent or "the base",
            "teachers": ", ".join(f"{teacher['role']}: {teacher['path']}" for teacher in teachers),
            "records": records,
            **({"replayed examples": replayed} if replayed else {}),
            "alpha, beta, gamma": f"{params.alpha}, {params.beta}, {params.gamma}",
            "temperature": params.temperature,
            "seed": params.seed,
        },
    )


def _metrics(
    settings: Settings,
    trainer: DistillTrainer,
    rows: Sequence[dict[str, float]],
    teachers: list[Json],
) -> Json:
    counts = trainer.branch_counts
    shares = (counts / counts.sum().clamp_min(1)).tolist()
    names = {branch: SHARES[branch].removeprefix("share_") for branch in Branch}
    return {
        **{names[branch]: shares[branch] for branch in Branch},
        "final_loss": rows[-1]["loss"],
        "final_ce": trainer.last_parts["loss_ce"],
        "final_kd": trainer.last_parts["loss_kd"],
        "final_residual": trainer.last_parts["loss_residual"],
        "steps": trainer.state.global_step,
        "learning_rate": training_of(settings).learning_rate,
        "tokens_seen": trainer.counts()["tokens_seen"],
        "teachers": teachers,
    }

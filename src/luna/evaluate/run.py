"""The evaluate stage: child, parent, base and plain SFT on the same frozen items, with intervals and paired deltas."""

import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luna.eval_set.items import EvalItem, Suite, eval_set_sha256, read_items, read_voice
from luna.evaluate.asking import SUITES, Asked, accuracy, ask, pick
from luna.evaluate.kept_replies import keep, kept_file, recall
from luna.evaluate.tone import tone_drift
from luna.laws import Item, Law, broken_by, load_laws, violations
from luna.lm.load import LoadedModel, load_model
from luna.lm.weights import weights_sha256
from luna.outputs import read_json
from luna.records import Record
from luna.settings import Settings
from luna.stats import confidence_of, detectable_effect, mcnemar_exact, paired_bootstrap, wilson

Json = dict[str, Any]
CHILD = "child"
FROZEN = ("parent", "base")


@dataclass(frozen=True)
class Evaluated:
    """The metrics, their speed (kept apart: it never repeats), every reply, and accuracy by family for a plot."""

    metrics: Json
    speed: Json
    replies: list[Json]
    families: list[Json]


def evaluate(settings: Settings, records: Sequence[Record], root: Path) -> Evaluated:
    """Ask every model every item and compare.

    Args:
        records: the accepted training data, which the laws hold for too.
    """
    folder = root / "data" / "eval"
    items, eval_set = read_items(folder), eval_set_sha256(folder)
    teachers = read_json(root / "models" / "teachers" / "teachers.json")
    models = _models(settings, teachers)
    asked = _ask_all(settings, models, items, root)
    child = asked[CHILD]
    laws = load_laws(root / settings.params.laws)
    broken = _broken_laws(laws, items, child, records)
    metrics: Json = {
        **{suite: accuracy(items, child, suite) for suite in SUITES},
        "tone_drift": _drift(child.replies, read_voice(folder)),
        "law_violations": len(broken),
        "laws_broken": broken[:20],
        "n": {suite: sum(item.suite == suite for item in items) for suite in SUITES},
        "interval": {suite: _interval(items, child, suite) for suite in SUITES},
        "models": {name: _summary(items, one) for name, one in asked.items() if name != CHILD},
        "confidence": confidence_of(settings.params.attempt),
        "paired": {name: _paired(settings, items, child, one) for name, one in asked.items() if name != CHILD},
        "same_weights": _same(models),
        "eval_set_sha256": eval_set,
        "how": _how(asked, eval_set, teachers["parent"]),
        "parameters": _parameters(settings, models[CHILD]),
    }
    speed = {name: _speed(one) for name, one in asked.items()} | {"peak_memory_mb": _peak_memory_mb()}
    return Evaluated(metrics, speed, _replies(items, child), _families(items, asked))


def _ask_all(settings: Settings, models: Mapping[str, str], items: Sequence[EvalItem], root: Path) -> dict[str, Asked]:
    """Every model's replies. Two names of one model are asked once; parent and base once in their lives."""
    by_path: dict[str, Asked] = {}
    for name, path in models.items():
        if path not in by_path:
            known = recall(kept_file(settings, path, items, root), items, name) if name in FROZEN else None
            by_path[path] = known or ask(settings, _load(settings, path), items, name)
    for path in {models[name]: None for name in (CHILD, *FROZEN)}:
        keep(kept_file(settings, path, items, root), by_path[path])
    return {name: by_path[path] for name, path in models.items()}


def _load(settings: Settings, path: str) -> LoadedModel:
    return load_model(path, settings.preset.model, trainable=False)


def _models(settings: Settings, teachers: Json) -> dict[str, str]:
    base = "models/base" if settings.preset.model.base == "scratch" else settings.preset.model.base
    return {CHILD: "models/luna", "sft": "models/sft", "parent": teachers["parent"]["path"], "base": base}


def _how(asked: Mapping[str, Asked], eval_set: str, parent: Json) -> Json:
    """How each model was asked. A parent from a tag stands by the eval set that promoted it; a base by none yet."""
    found = {name: {"eval_set_sha256": eval_set, **one.how} for name, one in asked.items()}
    if parent["gen"] is not None:
        found["parent"]["eval_set_sha256"] = parent.get("eval_set_sha256")
    return found


def _interval(items: Sequence[EvalItem], asked: Asked, suite: Suite) -> list[float]:
    picked = pick(items, asked, suite)
    return list(wilson(sum(picked), len(picked)))


def _summary(items: Sequence[EvalItem], asked: Asked) -> Json:
    return {suite: accuracy(items, asked, suite) for suite in SUITES}


def _paired(settings: Settings, items: Sequence[EvalItem], child: Asked, other: Asked) -> Json:
    """Child minus other, item by item, with intervals that are as sure as this attempt needs (`confidence_of`)."""
    params = settings.params.evaluate
    confidence = confidence_of(settings.params.attempt)
    out: Json = {}
    for suite in SUITES:
        ours, theirs = pick(items, child, suite), pick(items, other, suite)
        found = paired_bootstrap(ours, theirs, params.bootstrap_samples, params.seed, confidence=confidence)
        out[suite] = {
            "delta": found.delta,
            "low": found.low,
            "high": found.high,
            "n": found.n,
            "p": mcnemar_exact(ours, theirs),
            "detectable": detectable_effect(found.n, sum(theirs) / found.n, confidence=confidence),
        }
    return out


def _drift(replies: Sequence[str], voice: Sequence[str]) -> float | None:
    """None where the model says no word at all, so that the gate refuses it by name."""
    try:
        return tone_drift(replies, voice)
    except ValueError:
        return None


def _broken_laws(laws: Sequence[Law], items: Sequence[EvalItem], child: Asked, records: Sequence[Record]) -> list[Json]:
    replies = [Item(reply, item.id) for item, reply in zip(items, child.replies, strict=True)]
    broken = violations(laws, "reply", replies)
    broken += [violation for record in records for violation in broken_by(record, laws)]
    return [{"law": one.law, "where": one.where, "excerpt": one.excerpt} for one in broken]


def _same(models: Mapping[str, str]) -> list[list[str]]:
    """Pairs of names that are one model, by place or by weights: the parent of the first generation is the base."""
    # A name of the hub is no folder here and is known by its name alone.
    known = {name: weights_sha256(Path(path)) if Path(path).is_dir() else path for name, path in models.items()}
    names = list(models)
    return [[a, b] for i, a in enumerate(names) for b in names[i + 1 :] if known[a] == known[b]]


def _parameters(settings: Settings, path: str) -> int:
    count: int = _load(settings, path).model.num_parameters()
    return count


def _speed(asked: Asked) -> Json:
    """No figure for a model whose replies were kept: nothing was measured."""
    if asked.seconds is None:
        return {"asked": False}
    return {"asked": True, "seconds": asked.seconds, "replies_per_second": len(asked.replies) / asked.seconds}


def _peak_memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _replies(items: Sequence[EvalItem], child: Asked) -> list[Json]:
    return [
        {**item._asdict(), "reply": reply, "right": right}
        for item, reply, right in zip(items, child.replies, child.right, strict=True)
    ]


def _families(items: Sequence[EvalItem], asked: Mapping[str, Asked]) -> list[Json]:
    """A row for each family: every model's accuracy."""
    rows = []
    for suite, family in dict.fromkeys((item.suite, item.family) for item in items):
        places = [i for i, item in enumerate(items) if (item.suite, item.family) == (suite, family)]
        accuracies = {name: sum(one.right[i] for i in places) / len(places) for name, one in asked.items()}
        rows.append({"suite": suite, "family": family, "n": len(places), **accuracies})
    return rows

"""Draw records of the two generations before from their tags' own data, each with the tag it comes from.

What was itself replayed by an earlier generation is not among its judged data, so nothing is handed down twice.
"""

import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luna.answers import normalized
from luna.generations.at_tag import at_tag
from luna.laws import Law, broken_by
from luna.records import Record, parse_records
from luna.settings import Settings

JUDGED = "data/judged.jsonl"
Json = dict[str, Any]
REASONS = ("in_this_run", "in_the_eval_set", "repeated", "against_a_law")


@dataclass(frozen=True)
class Replayed:
    """The records, those of the parent first, and how many came from whom or were left out and why."""

    records: list[Record]
    metrics: Json


def replay(
    settings: Settings, root: Path, records: Sequence[Record], laws: Sequence[Law], eval_questions: set[str]
) -> Replayed:
    """Up to `replay.size` records of each of parent and grandparent; a null one is the base and has none.

    Args:
        records: what this run has accepted; their questions are not asked twice.
        eval_questions: the questions of the eval set, normalized.

    Raises:
        GenerationMissing: a tag or its data cannot be read.
        BadRecord: a line of its data is no record.
    """
    params = settings.params
    wanted = params.replay.size if params.replay.enabled else 0
    tags = [tag for tag in (params.parent, params.grandparent) if tag is not None and wanted]
    past = {tag: _accepted_by(root, tag) for tag in tags}
    asked = {"in_this_run": {normalized(record.question) for record in records}, "in_the_eval_set": eval_questions}
    return draw(past, asked, laws, wanted, params.seed)


def _accepted_by(root: Path, tag: str) -> list[Record]:
    mend = "run `dvc fetch -T`, or set replay.enabled to false"
    with at_tag(root, tag, f"its {JUDGED} is", mend) as generation:
        text = generation.files.read_text(JUDGED, encoding="utf-8")
    return parse_records(f"{tag}:{JUDGED}", text.split("\n"))


def draw(
    past: Mapping[str, Sequence[Record]],
    asked: Mapping[str, Collection[str]],
    laws: Sequence[Law],
    size: int,
    seed: int,
) -> Replayed:
    """Up to `size` records of each generation, in the order of its file; each keeps its metadata and gets its tag.

    Args:
        past: records by tag.
        asked: normalized questions that must not be replayed, by the reason that `left_out` gives.
    """
    drawn: dict[str, Record] = {}
    by_generation = {}
    left_out = Counter(dict.fromkeys(REASONS, 0))
    for tag, records in past.items():
        fresh = _fresh(records, {**asked, "repeated": drawn.keys()}, laws, left_out)
        places = random.Random(f"replay {tag} {seed}").sample(range(len(fresh)), min(size, len(fresh)))
        chosen = [list(fresh)[place] for place in sorted(places)]
        drawn |= {question: _from(tag, fresh[question]) for question in chosen}
        by_generation[tag] = len(chosen)
    metrics = {"total": len(drawn), "by_generation": by_generation, "left_out": dict(left_out)}
    return Replayed(list(drawn.values()), metrics)


def _fresh(
    records: Sequence[Record], asked: Mapping[str, Collection[str]], laws: Sequence[Law], left_out: Counter[str]
) -> dict[str, Record]:
    """The records that may be replayed, by question; the others are counted by reason in `left_out`."""
    fresh: dict[str, Record] = {}
    for record in records:
        question = normalized(record.question)
        reasons = [reason for reason, questions in asked.items() if question in questions]
        if question in fresh:
            reasons.append("repeated")
        if not reasons and broken_by(record, laws):  # laws may be younger than the record
            reasons.append("against_a_law")
        if reasons:
            left_out[reasons[0]] += 1
        else:
            fresh[question] = record
    return fresh


def _from(tag: str, record: Record) -> Record:
    return record.model_copy(update={"metadata": record.metadata | {"replayed_from": tag}})

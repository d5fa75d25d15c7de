"""The card of a generated data set: what it is, who wrote it, what was dropped, what each record tells of itself."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from luna.generate.mix import shares_of
from luna.generate.run import COUNTED
from luna.generate.subject import load_subject
from luna.records import Record
from luna.settings import Settings

_FRONT = """\
---
pretty_name: {generation}, {subject}
tags: [synthetic, {subject}]
size_categories: [{size}]
---
# Generated examples of {generation}

{count} examples of {subject}, invented and solved by {teacher}; no person wrote or checked them one by one.
They are the raw material of the next stages, in which the model attempts every question and the judge accepts or
rejects: train on `data/judged.jsonl`, not on this file."""

_FIELDS = """\
## What a record tells of itself

A line is `{"messages": [...], "metadata": {...}}`. Metadata: `id`; `approach`, and as far as the approach has it
`category`, `area`, `concept`, `skill`, `template` and what else was drawn for the prompt; `thinking`, the teacher's
reasoning; `confidence`, lower where the reply was no strict JSON; `teacher`; `prompt_sha256`, the first 16 digits of
the hash of the prompt; `seed` and `round` of the call that gave it."""


def dataset_card(settings: Settings, records: Sequence[Record], stats: Mapping[str, Any]) -> str:
    """The card as Markdown, with the head that dataset hubs read. The same run gives the same card."""
    params, preset = settings.params, settings.preset
    front = _FRONT.format(
        generation=params.generation,
        subject=preset.subject,
        size=_size(len(records)),
        count=len(records),
        teacher=f"`{preset.teacher.model}`",
    )
    parts = [front, _how(settings), _yield(stats), _spread(records), _FIELDS]
    return "\n\n".join(parts) + "\n"


def _size(count: int) -> str:
    return next((name for most, name in _SIZES if count < most), "n>1M")


_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def _how(settings: Settings) -> str:
    asked, teacher = settings.params.generate, settings.preset.teacher
    shares = ", ".join(f"{share:.0%} {approach}" for approach, share in shares_of(asked.mix).items())
    like = asked.near_duplicates if load_subject(settings.preset.subject).near_duplicates else None
    near = "" if like is None else f", those that share {like:.0%} of their word triples with another"
    return (
        f"## How they were made\n\nMix: {shares}. Seed {settings.params.seed}, temperature {teacher.temperature:g}. "
        f"Questions that were dropped: equal ones{near}, and those that hold an eval question."
    )


def _yield(stats: Mapping[str, Any]) -> str:
    rows = [[approach, *(counts[name] for name in COUNTED)] for approach, counts in stats["by_approach"].items()]
    dropped = ", ".join(f"{count} x {reason}" for reason, count in stats["dropped"].items()) or "none"
    table = markdown_table(["approach", *(name.replace("_", " ") for name in COUNTED)], rows)
    return f"## What it took\n\n{table}\n\nUnusable replies: {dropped}."


def _spread(records: Sequence[Record]) -> str:
    parts = []
    for facet in ("category", "area", "skill"):
        counts = Counter(record.metadata[facet] for record in records if facet in record.metadata)
        if counts:
            parts.append(f"- {facet}: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    return "## What they are about\n\n" + ("\n".join(parts) or "The prompts name no category, area or skill.")


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)

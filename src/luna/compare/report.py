"""The comparison on paper: Markdown for the eye, JSON for programs, CSV and Vega-Lite for plots."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luna.compare.table import EXPECTED_USD, SIZES, WEAK_FOCUS
from luna.generate.card import markdown_table
from luna.outputs import write_csv, write_json, write_text
from luna.settings import Approach

Json = dict[str, Any]
MARKDOWN, JSON, CSV, PLOT = "approaches.md", "approaches.json", "approaches.csv", "approaches.vl.json"
PLOTTED = ("distinct_2", "self_similarity", "unusable", "acceptance", "usd_per_example", "generalize")
UNKNOWN = "not measured"


def write_report(folder: Path, report: Json) -> None:
    """Write the report into a folder, in all its forms."""
    write_text(folder / MARKDOWN, render(report))
    write_json(folder / JSON, report)
    flat = [_flat(row) for row in report["approaches"]]
    write_csv(folder / CSV, flat)
    write_json(folder / PLOT, vega_lite(flat))


def render(report: Json) -> str:
    """The report as Markdown."""
    rows = report["approaches"]
    parts = [
        f"# Approaches of generation, side by side\n\n{report['source']} Teacher: `{report['teacher']}`.",
        _texts(rows),
        _yields(rows),
        _costs(rows, report["mix_usd"]),
        _models(report["trained"]),
        _proposal(report),
    ]
    return "\n\n".join(parts) + "\n"


def _texts(rows: Sequence[Json]) -> str:
    diverse = ("distinct_1", "distinct_2", "distinct_3", "self_similarity")
    spoken = ("question_words", "thinking_words", "answer_words")
    head = [name.replace("_", "-") for name in ("approach", "examples", *diverse, *spoken)]
    cells = [
        [
            row["approach"],
            row["examples"],
            *(f"{row[name]:.3f}" for name in diverse),
            *(f"{row[name]:.0f}" for name in spoken),
        ]
        for row in rows
    ]
    note = (
        f"Diversity is that of {rows[0]['compared']} questions of each approach: distinct-n is the share of different "
        "n-grams (it falls with length), self-similarity the mean similarity of a question to the one most like it."
    )
    return f"## Texts\n\n{markdown_table(head, cells)}\n\n{note}"


def _yields(rows: Sequence[Json]) -> str:
    head = ["approach", "duplicates", "near-duplicates", "eval questions", "unusable", "accepted by the judge"]
    lost = ("duplicates", "near_duplicates", "contaminated", "unusable")
    cells = [[row["approach"], *(f"{row[name]:.1%}" for name in lost), _accepted(row)] for row in rows]
    return (
        f"## Yield\n\nOf all calls, the first four; of the judged examples, the last.\n\n{markdown_table(head, cells)}"
    )


def _accepted(row: Json) -> str:
    return UNKNOWN if row["acceptance"] is None else f"{row['acceptance']:.1%} of {row['judged']}"


def _costs(rows: Sequence[Json], mixes: Mapping[str, Json | None]) -> str:
    totals = [f"USD for {size:,}" for size in SIZES]
    head = ["approach", "tokens of an example", "USD an example", "USD an accepted one", *totals]
    cells = [
        [
            row["approach"],
            f"{row['prompt_tokens_per_example']:.0f} + {row['completion_tokens_per_example']:.0f}",
            _usd(row["usd_per_example"]),
            _usd(row["usd_per_accepted"]),
            *(_usd(row["usd_for"][str(size)] if row["usd_for"] else None) for size in SIZES),
        ]
        for row in rows
    ]
    mixed = [
        [name, *(_usd(cost[key] if cost else None) for key in ("per_example", *map(str, SIZES)))]
        for name, cost in mixes.items()
    ]
    table = markdown_table(["mix", "USD an example", *totals], mixed)
    note = "The teacher's calls, lost ones included; what student and judge cost later is not in it."
    return f"## Cost\n\n{markdown_table(head, cells)}\n\n{table}\n\n{note} {_expectation(rows)}"


def _expectation(rows: Sequence[Json]) -> str:
    """The belief that was to be tested, and what became of it."""
    usd = {row["approach"]: row["usd_per_example"] for row in rows}
    old, new = ((name, EXPECTED_USD[name], usd.get(name)) for name in ("template", "self-instruct"))
    times = new[1] / old[1]
    expected = f"Expected were {old[1]:.2f} USD for {old[0]} and {new[1]:.2f} for {new[0]}, {times:.1f} times as much; "
    if not old[2] or not new[2]:
        return expected + "that cannot be told here."
    return expected + f"here it is {new[2] / old[2]:.2f} times as much."


def _usd(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.4f}" if value < 1 else f"{value:.2f}"


def _models(trained: Sequence[Json]) -> str:
    if not trained:
        how = "grow a generation from one approach alone (generate.mix in params.yaml)"
        return f"## Models trained on them\n\n{UNKNOWN}: {how}."
    cells = [[one["model"], one["mix"], f"{one['recall']:.3f}", f"{one['generalize']:.3f}"] for one in trained]
    return f"## Models trained on them\n\n{markdown_table(['model', 'mix', 'recall', 'generalize'], cells)}"


def _proposal(report: Json) -> str:
    focus = {spot["name"]: WEAK_FOCUS for spot in report["weak"]}
    mix = ", ".join(f"{approach}: {share:g}" for approach, share in report["proposal"].items())
    weak = [f"- {s['name']}: {s['mastered']:.0%} of {s['n']}, all together {s['overall']:.0%}" for s in report["weak"]]
    told = "\n".join(weak) or "No category and no area is surely weaker than the rest."
    focused = ", ".join(f"{name}: {weight:g}" for name, weight in focus.items())
    yaml = f"```yaml\ngenerate:\n  mix: {{{mix}}}\n  focus: {{{focused}}}\n```"
    return (
        "## Proposal\n\nA rule of thumb (accepted and new for its cost, at most twice or half of the present share) "
        f"would have in params.yaml:\n\n{yaml}\n\nWeak spots:\n\n{told}"
    )


def _flat(row: Json) -> Json:
    plain = {
        name: value for name, value in row.items() if not isinstance(value, dict) and name not in ("eval", "usd_for")
    }
    totals = {f"usd_for_{size}": (row["usd_for"] or {}).get(str(size)) for size in SIZES}
    return plain | totals | {suite: (row["eval"] or {}).get(suite) for suite in ("recall", "generalize")}


def vega_lite(flat: Sequence[Json]) -> Json:
    """A Vega-Lite chart: a row of bars for each figure that was measured."""
    values = [
        {"approach": row["approach"], "figure": name.replace("_", " "), "value": row[name]}
        for row in flat
        for name in PLOTTED
        if row[name] is not None
    ]
    bars = {
        "mark": "bar",
        "encoding": {
            "y": {"field": "approach", "type": "nominal", "title": None},
            "x": {"field": "value", "type": "quantitative", "title": None},
            "tooltip": [{"field": name} for name in ("approach", "figure", "value")],
        },
    }
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "data": {"values": values},
        "facet": {"field": "figure", "type": "nominal", "title": None, "columns": 3},
        "resolve": {"scale": {"x": "independent"}},
        "spec": bars,
    }


def as_line(value: str | Mapping[Approach, float]) -> str:
    """A mix in a few words."""
    return value if isinstance(value, str) else json.dumps(dict(value)).strip("{}").replace('"', "")

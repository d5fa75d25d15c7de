"""The ladder of generations as a table: how far each came, who taught it, and why some were refused."""

from collections.abc import Sequence
from typing import Any

from luna.generations.history import Change, Released
from luna.promote.manifest import Manifest, Teacher

Json = dict[str, Any]
NOTHING_YET = "no generation is tagged here; run `luna grow`, or `git fetch --tags` for those of origin"

_COLUMNS = (
    "generation",
    "verdict",
    "recall",
    "generalize",
    "against the parent",
    "tone drift",
    "violations",
    "converged",
    "wiring",
    "examples",
    "date",
    "failed gates",
)
_WORDS = {"generation", "verdict", "wiring", "date", "failed gates"}  # aligned left; figures stand to the right


def rows(history: Sequence[Released]) -> list[Json]:
    """A row of plain figures for each generation; None where a generation does not say.

    `change` is that of generalize against the parent, or against the base where there is no parent, paired item by
    item: delta, low and high of the 95 % interval.
    """
    return [_row(released) for released in history]


def render(history: Sequence[Released]) -> str:
    """The ladder as an aligned table for the terminal."""
    if not history:
        return NOTHING_YET
    table = [_COLUMNS, *(_cells(row) for row in rows(history))]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(_COLUMNS))]
    return "\n".join(_line(cells, widths) for cells in table)


def wiring(manifest: Manifest) -> str:
    """Primary and critic by their place in the line, such as `sft+parent`; by its tag a teacher that has none."""
    by_role = {teacher.role: teacher for teacher in manifest.teachers}
    return "+".join(_place(manifest, by_role[role]) for role in ("primary", "stabilizing_critic"))


def _place(manifest: Manifest, teacher: Teacher) -> str:
    if teacher.gen is None:
        return str(teacher.source)
    request = manifest.evolution_request
    return {request.grandparent_gen: "grandparent", request.parent_gen: "parent"}.get(teacher.gen, teacher.gen)


def _row(released: Released) -> Json:
    told = released.told
    gates = {name: told.gates[name].value if name in told.gates else None for name in _GATES}
    change = _change(released)
    return {
        "generation": released.name if released.attempt is None else f"{released.name}.{released.attempt}",
        "tag": released.tag,
        "commit": released.commit,
        "date": released.date,
        "verdict": released.verdict,
        "failed": told.failed,
        **gates,
        "change": change.model_dump() if change else None,
        "convergence_rate": told.enhance.convergence_rate,
        "wiring": wiring(told.manifest),
        "examples": told.data.examples,
    }


_GATES = ("recall", "generalize", "tone_drift", "law_violations")


def _change(released: Released) -> Change | None:
    told = released.told
    first = told.manifest.evolution_request.parent_gen is None
    models = ["parent", "base"] if first else ["parent"]
    return next((told.evidence[model].generalize for model in models if model in told.evidence), None)


def _cells(row: Json) -> tuple[str, ...]:
    return (
        row["generation"],
        row["verdict"],
        _shown(row["recall"], ".3f"),
        _shown(row["generalize"], ".3f"),
        "-" if row["change"] is None else "{delta:+.3f} [{low:+.3f}, {high:+.3f}]".format(**row["change"]),
        _shown(row["tone_drift"], ".4f"),
        _shown(row["law_violations"], "g"),
        _shown(row["convergence_rate"], ".3f"),
        row["wiring"],
        _shown(row["examples"], "d"),
        row["date"][:10],
        ", ".join(row["failed"]),
    )


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    aligned = [
        cell.ljust(width) if column in _WORDS else cell.rjust(width)
        for column, cell, width in zip(_COLUMNS, cells, widths, strict=True)
    ]
    return "  ".join(aligned).rstrip()

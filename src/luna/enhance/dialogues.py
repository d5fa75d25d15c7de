"""Dialogues on disk: what was said, attempt by attempt, in the order of the records."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from luna.enhance.students import Dialogue, Turn
from luna.records import read_lines, write_lines


def write_dialogues(path: Path, dialogues: Iterable[Dialogue]) -> None:
    """Write dialogues, a line each."""
    write_lines(path, ({"context": one.context, "turns": [asdict(turn) for turn in one.turns]} for one in dialogues))


def read_dialogues(path: Path) -> list[Dialogue]:
    """Read what `write_dialogues` wrote."""
    return [Dialogue(row["context"], [Turn(**turn) for turn in row["turns"]]) for row in read_lines(path)]

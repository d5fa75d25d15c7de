"""Records: the JSONL that flows between stages, `{"messages": [...], "metadata": {...}}` a line.

Fields Luna does not know are kept as they are.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from luna.errors import BadRecord
from luna.outputs import replacing


class Turn(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="allow")
    role: Literal["system", "user", "assistant"]
    content: str


class Record(BaseModel):
    """A conversation and what is known about it."""

    model_config = ConfigDict(extra="allow")
    messages: list[Turn]
    metadata: dict[str, Any] = {}

    @property
    def question(self) -> str:
        """The last user turn."""
        return next(turn.content for turn in reversed(self.messages) if turn.role == "user")

    @property
    def answer(self) -> str:
        """The last assistant turn."""
        return next(turn.content for turn in reversed(self.messages) if turn.role == "assistant")

    @property
    def thinking(self) -> str:
        return str(self.metadata.get("thinking") or "")


def read_records(path: Path, *, allow_empty: bool = False) -> list[Record]:
    """Read a file of records.

    Raises:
        BadRecord: the file is missing or (unless allowed) empty, or a line is no record; names the file and the line.
    """
    if not path.is_file():
        raise BadRecord(f"{path}: no such file; run the stage that writes it (`dvc repro`) or give another path")
    records = [_parse(path, number, line) for number, line in _lines(path)]
    if not records and not allow_empty:
        raise BadRecord(f"{path}: holds no record; give at least one line of JSON")
    return records


def parse_records(source: str, lines: Iterable[str]) -> list[Record]:
    """Records from lines of text.

    Raises:
        BadRecord: a line is no record; names the source and the line.
    """
    return [_parse(source, number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8") as handle:
            for number, line in enumerate(handle, start=1):
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise BadRecord(f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def _parse(path: Path | str, number: int, line: str) -> Record:
    try:
        record = Record.model_validate(_object(path, number, line))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the line"
        raise BadRecord(f"{path}:{number}: {where}: {first['msg'].lower()}; mend the line") from error
    roles = [turn.role for turn in record.messages]
    if "user" not in roles or "assistant" not in roles:
        raise BadRecord(f"{path}:{number}: messages: needs a user turn and an assistant turn; has {roles}")
    if roles[-1] == "user":
        raise BadRecord(f"{path}:{number}: messages: ends with a question; add the assistant's answer")
    return record


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write records, a line each, and return how many."""
    return write_lines(path, (record.model_dump(mode="json") for record in records))


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write JSON objects, a line each, and return how many. Takes the file's place only when all are written."""
    count = 0
    with replacing(path) as aside, aside.open("w", encoding="utf-8") as handle:
        for row in rows:
            handle.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON objects, a line each, that a stage wrote."""
    if not path.is_file():
        raise BadRecord(f"{path}: no such file; run `dvc repro`")
    return [_object(path, number, line) for number, line in _lines(path)]


def _object(path: Path | str, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line.strip())
    except json.JSONDecodeError as error:
        raise BadRecord(f"{path}:{number}: broken JSON at column {error.colno} ({error.msg}); mend the line") from error
    if not isinstance(value, dict):
        raise BadRecord(f"{path}:{number}: the line: is no JSON object; mend the line")
    return value

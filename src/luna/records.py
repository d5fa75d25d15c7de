"""Records: the JSONL that flows between stages, `{"messages": [...], "metadata": {...}}` a line.

Fields Luna does not know are kept as they are.
"""

import json
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from luna.errors import BadRecord
from luna.outputs import replacing

LONGEST = 1_000_000  # characters of a line; no context window holds as much


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


@dataclass(frozen=True)
class BadLine:
    """A line that is no record. `reason` is one line that names file and line."""

    line: int
    text: str
    reason: str


@dataclass(frozen=True)
class Sifted:
    """The records of a file, the objects that they were read from (same order), and the lines that are none."""

    records: list[Record]
    rows: list[dict[str, Any]]
    bad: list[BadLine]


def sift_records(path: Path, *, unique_ids: bool = False) -> Sifted:
    """Read a file of records and set aside the lines that are none.

    Args:
        unique_ids: a second record of the same `id` (its own or its metadata's) is bad too.

    Raises:
        BadRecord: there is no such file.
    """
    if not path.is_file():
        raise BadRecord(f"{path}: no such file; run the stage that writes it (`dvc repro`) or give another path")
    sifted = Sifted([], [], [])
    seen: dict[str, int] = {}
    for number, raw in _lines(path):
        try:
            row = _object(path, number, _decoded(path, number, raw))
            record = _record(path, number, row)
            if unique_ids:
                _once(path, number, row, seen)
        except BadRecord as error:
            sifted.bad.append(BadLine(number, raw.decode("utf-8", "backslashreplace").rstrip("\r\n"), str(error)))
            continue
        sifted.records.append(record)
        sifted.rows.append(row)
    return sifted


def read_records(path: Path, *, allow_empty: bool = False) -> list[Record]:
    """Read a file of records.

    Raises:
        BadRecord: the file is missing or (unless allowed) empty, or a line is no record; names the file and the line.
    """
    sifted = sift_records(path)
    refuse_bad(sifted.bad)
    if not sifted.records and not allow_empty:
        raise BadRecord(f"{path}: holds no record; give at least one line of JSON")
    return sifted.records


def refuse_bad(bad: Sequence[BadLine]) -> None:
    """Raise a `BadRecord` for the first of some bad lines; it names the others by their numbers."""
    if not bad:
        return
    others = [str(one.line) for one in bad[1:6]] + (["..."] if len(bad) > 6 else [])
    more = f" ({len(bad) - 1} more bad: {', '.join(others)})" if others else ""
    raise BadRecord(bad[0].reason + more)


def parse_records(source: str, lines: Iterable[str]) -> list[Record]:
    """Records from lines of text.

    Raises:
        BadRecord: a line is no record; names the source and the line.
    """
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    return [_record(source, number, _object(source, number, line)) for number, line in numbered]


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            plain = line.removeprefix(BOM_UTF8) if number == 1 else line
            if plain.strip():
                yield number, plain


def _decoded(path: Path, number: int, raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRecord(f"{path}:{number}: is not UTF-8 (byte {error.start} of the line); save it as UTF-8") from error


def _record(path: Path | str, number: int, row: dict[str, Any]) -> Record:
    try:
        record = Record.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the line"
        raise BadRecord(f"{path}:{number}: {where}: {first['msg'].lower()}; mend the line") from error
    roles = [turn.role for turn in record.messages]
    if "user" not in roles or "assistant" not in roles:
        raise BadRecord(f"{path}:{number}: messages: needs a user turn and an assistant turn; has {roles}")
    if roles[-1] == "user":
        raise BadRecord(f"{path}:{number}: messages: ends with a question; add the assistant's answer")
    for name, text in (("question", record.question), ("answer", record.answer)):
        if not text.strip():
            raise BadRecord(f"{path}:{number}: messages: the {name} is empty; write it or take the line out")
    for place, turn in enumerate(record.messages):
        if "\0" in turn.content:
            raise BadRecord(f"{path}:{number}: messages.{place}.content: holds a NUL character; take it out")
    return record


def _once(path: Path, number: int, row: dict[str, Any], seen: dict[str, int]) -> None:
    name = row.get("id", row.get("metadata", {}).get("id"))
    first = seen.setdefault(json.dumps(name), number)
    if name is not None and first != number:
        raise BadRecord(f"{path}:{number}: id: {name!r} stands in line {first} too; give each record its own")


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
    return [_object(path, number, _decoded(path, number, raw)) for number, raw in _lines(path)]


def _object(path: Path | str, number: int, line: str) -> dict[str, Any]:
    """The JSON object of a line, which can be written again as it was."""
    if len(line) > LONGEST:
        raise BadRecord(f"{path}:{number}: has {len(line)} characters, over {LONGEST}; cut it into several records")
    try:
        value = json.loads(line.strip(), object_pairs_hook=_no_key_twice, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except json.JSONDecodeError as error:
        raise BadRecord(f"{path}:{number}: broken JSON at column {error.colno} ({error.msg}); mend the line") from error
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise BadRecord(f"{path}:{number}: {half} is half of a character; write the whole one") from error
    except RecursionError as error:
        raise BadRecord(f"{path}:{number}: is nested too deeply; flatten it") from error
    except ValueError as error:
        raise BadRecord(f"{path}:{number}: {str(error).partition(';')[0]}; mend the line") from error
    if not isinstance(value, dict):
        raise BadRecord(f"{path}:{number}: the line: is no JSON object; mend the line")
    return value


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")

"""Writing results so that a failed run never destroys an earlier one: write aside, then rename."""

import csv
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

from luna.errors import LunaError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or folder to; it takes `path`'s place only when the block ends well.

    What processes that were killed left beside it is cleared first; a folder that one had moved aside comes back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_left_behind(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.new")
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        yield aside
        aside.stat()  # a block that wrote nothing must not cost the old folder its place
        _flush(aside)
        if path.is_dir():
            path.rename(old)
        try:
            os.replace(aside, path)
        except BaseException:  # an interrupt between the two renames must not cost the old folder
            if old.exists():
                old.rename(path)
            raise
    finally:
        _remove(aside)
        _remove(old)


def _clear_left_behind(path: Path) -> None:
    prefix = f".{path.name}."
    for left in sorted(path.parent.glob(f"{escape(prefix)}*")):
        pid, _, kind = left.name.removeprefix(prefix).partition(".")
        if kind not in ("new", "old") or not pid.isdecimal() or _is_running(int(pid)):
            continue
        if kind == "old" and not path.exists():
            left.rename(path)
        else:
            _remove(left)


def _is_running(pid: int) -> bool:
    """True for a process of that number, this one apart: what bears its number is an earlier namesake's."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's process
        return True
    return pid != os.getpid()


def _flush(path: Path) -> None:
    if path.is_file():
        with path.open("rb") as handle:
            os.fsync(handle.fileno())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, indented, keys in the order given."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that a stage wrote.

    Raises:
        LunaError: there is no such file.
    """
    if not path.is_file():
        raise LunaError(f"{path}: no such file; run `dvc repro`")
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LunaError(f"{path}: is broken JSON ({error}); run `dvc repro --force`") from error
    return value


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV; columns in the order in which they first appear, empty where a row lacks one."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path) as aside, aside.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, columns)
        writer.writeheader()
        writer.writerows(rows)

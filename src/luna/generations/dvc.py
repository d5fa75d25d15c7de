"""DVC's commands as processes of their own: they change the folder they run in, never this process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from luna.alone import alone
from luna.errors import LunaError
from luna.outputs import write_json
from luna.progress import say

Json = dict[str, Any]


class DvcError(LunaError):
    """A DVC command did not end well."""


def repro(root: Path, *, force: bool = False, held: int | None = None) -> None:
    """Run the pipeline, its output passed on as it comes.

    Args:
        force: run every stage, whatever is known of it.
        held: a file descriptor of a lock that the run must keep even if this process dies.

    Raises:
        DvcError: a stage failed; it has said why.
    """
    done = subprocess.run(
        _command("repro", *(["--force"] if force else [])),
        cwd=root,
        env=_environment(),
        check=False,
        pass_fds=[] if held is None else [held],
    )
    if done.returncode:
        raise DvcError("dvc repro: a stage failed (see above); mend it and run the same command again")


def changed_stages(root: Path) -> list[str]:
    """The stages that are not up to date with what they depend on."""
    status: Json = json.loads(_said(root, "status", "--json") or "{}")
    return list(status)


def push_data(root: Path) -> bool:
    """Copy this tree's data and models to the default remote; False where there is none."""
    if not _ask(root, "config", "core.remote").stdout.strip():
        return False
    _said(root, "push", "--quiet")
    return True


def cache_folder(root: Path) -> Path:
    """Where DVC keeps the bytes of this repository."""
    return (root / _said(root, "cache", "dir").strip()).resolve()


def share_cache(root: Path, folder: Path) -> None:
    """Let a tree keep its bytes in a folder of another one; git does not know of this setting."""
    _said(root, "config", "--local", "cache.dir", str(folder))


def check_out(root: Path) -> None:
    """Bring data and models back to what dvc.lock says."""
    _said(root, "checkout", "--quiet")


def mend_lock_table(root: Path) -> None:
    """Rid DVC's table of locks of processes that were killed; remove it if it is half a file.

    DVC writes it in place, so that a kill can cut it off. It takes locks from processes that are gone, not from those
    that nobody has reaped yet (in a container perhaps nobody ever does), nor where the number is another's by now.
    """
    table = root / ".dvc" / "tmp" / "rwlock"
    if not table.is_file():
        return
    with alone(table.with_name("rwlock.lock"), lambda: None):  # as DVC does while it writes
        try:
            said: Json = json.loads(table.read_text(encoding="utf-8"))
        except ValueError:
            table.unlink()
            return
        written = table.stat().st_mtime
        reading = {path: [one for one in by if _at_work(one, written)] for path, by in said.get("read", {}).items()}
        writing = {path: one for path, one in said.get("write", {}).items() if _at_work(one, written)}
        mended = {"read": {path: by for path, by in reading.items() if by}, "write": writing}
        if mended != said:
            write_json(table, mended)


def _at_work(holder: Json, written: float) -> bool:
    """True if the process that the table names may still run: not one that only waits to be reaped or is younger."""
    import psutil

    try:
        process = psutil.Process(holder["pid"])
        return bool(process.cmdline()) and process.create_time() <= written
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # somebody else's
        return True


def is_whole(lock: Path) -> bool:
    """False for a dvc.lock that was cut off while DVC wrote it."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    try:
        COMPILED_LOCKFILE_SCHEMA(yaml.safe_load(lock.read_text(encoding="utf-8")))
    except (yaml.YAMLError, Invalid):
        return False
    return True


def _said(root: Path, *arguments: str) -> str:
    done = _ask(root, *arguments)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise DvcError(f"dvc {arguments[0]}: {lines[0].removeprefix('ERROR: ')}; run `dvc {arguments[0]}` to see all")
    return done.stdout


def _ask(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Wait for the command of a call that was killed, which DVC would only complain of."""
    with alone(root / ".luna" / "dvc.lock", lambda: say("dvc  another luna's dvc is at work here; waiting")) as held:
        return subprocess.run(
            _command(*arguments),
            cwd=root,
            env=_environment(),
            pass_fds=[held],
            capture_output=True,
            text=True,
            check=False,
        )


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dvc", *arguments]


def _environment() -> dict[str, str]:
    """Stages call `python`: it must be the one that runs this.

    No analytics: DVC sends them from a process of its own, which would keep an inherited lock while the net is slow.
    """
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return os.environ | {"PATH": programs, "DVC_NO_ANALYTICS": "1"}

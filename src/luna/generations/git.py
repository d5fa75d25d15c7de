"""The few git commands that generations need, with git's complaints as one-line errors."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from luna.alone import alone
from luna.errors import LunaError
from luna.outputs import replacing
from luna.progress import say


class GitError(LunaError):
    """Git refused, or the repository is not in a state to go on from."""


def git(root: Path, *arguments: str, stdin: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """What git prints, without the last line break.

    Raises:
        GitError: git refused; its own last line is told.
    """
    return _said(arguments[0], _run(root, arguments, stdin, env))


def git_or_none(root: Path, *arguments: str) -> str | None:
    """What git prints, or None where it says no."""
    done = _run(root, arguments, None, None)
    return None if done.returncode else done.stdout.rstrip("\n")


def commit_of(root: Path, name: str) -> str | None:
    """The commit of a tag, None where there is no such tag."""
    return git_or_none(root, "rev-parse", "-q", "--verify", f"refs/tags/{name}^{{commit}}")


def is_ancestor(root: Path, older: str, younger: str = "HEAD") -> bool:
    """True if `younger` descends from `older` or is it."""
    return git_or_none(root, "merge-base", "--is-ancestor", older, younger) is not None


def tags(root: Path, pattern: str) -> list[str]:
    """The tags that match a shell pattern, by name."""
    found = git(root, "for-each-ref", "--sort=refname", "--format=%(refname)", f"refs/tags/{pattern}")
    return [line.removeprefix("refs/tags/") for line in found.splitlines()]


def file_at(root: Path, commit: str, path: str) -> str | None:
    """The text of a file in a commit, None where it has no such file."""
    return git_or_none(root, "show", f"{commit}:{path}")


def changed_paths(root: Path) -> list[str]:
    """Paths that differ from HEAD, in the index or the work tree, and those that git does not know yet."""
    entries = git(root, "status", "--porcelain", "-z", "-uall", "--no-renames").split("\0")
    return [entry[3:] for entry in entries if entry]


def git_locking(root: Path, locked: Sequence[str], *arguments: str, stdin: str | None = None) -> str:
    """A git command that takes locks: they are noted first, so that those which a kill leaves are known to be ours.

    Git's locks are files that outlive it. A note that was not cleared tells the next call which ones to remove; the
    command holds the note's own lock, so the next call cannot take one from a git that still runs.

    Args:
        locked: what is locked, as paths below .git: `index`, `refs/heads/main`.

    Raises:
        GitError: git refused, or another process holds such a lock.
    """
    with alone(root / ".luna" / "git.lock", lambda: say("git  an interrupted call's git is at work; waiting")) as held:
        note = root / ".luna" / "git.locked"
        _remove_left_behind(note)
        paths = [_lock_file(root, name) for name in locked]
        for path in paths:
            if path.exists():
                raise GitError(f"{path}: another git is at work; wait for it, or remove the file if there is none")
        with replacing(note) as aside:
            aside.write_text("\n".join(map(str, paths)), encoding="utf-8")
        done = _run(root, arguments, stdin, None, held)
        if done.returncode >= 0:  # else git itself was killed
            note.unlink()
        return _said(arguments[0], done)


def _remove_left_behind(note: Path) -> None:
    if note.is_file():
        for line in note.read_text(encoding="utf-8").splitlines():
            Path(line).unlink(missing_ok=True)
        note.unlink()


def _lock_file(root: Path, name: str) -> Path:
    return (root / git(root, "rev-parse", "--git-path", f"{name}.lock")).absolute()


def move_refs(root: Path, updates: Mapping[str, str]) -> None:
    """Move several refs at once, or none.

    Args:
        updates: what becomes of each ref, as `git update-ref --stdin` says it: `create {} OBJECT`.
    """
    lines = ["start", *(line.format(ref) for ref, line in updates.items()), "prepare", "commit", ""]
    git_locking(root, ["HEAD", *updates], "update-ref", "--stdin", stdin="\n".join(lines))


def _said(command: str, done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode:
        silent = f"was killed by signal {-done.returncode}" if done.returncode < 0 else "no reason given"
        lines = (done.stderr or done.stdout).strip().splitlines() or [silent]
        raise GitError(f"git {command}: {lines[-1]}; see `git status`")
    return done.stdout.rstrip("\n")


def _run(
    root: Path, arguments: Sequence[str], stdin: str | None, env: Mapping[str, str] | None, held: int | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", "-C", str(root), *arguments],
        input=stdin,
        env={**os.environ, **(env or {}), "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"},
        pass_fds=[] if held is None else [held],
        capture_output=True,
        text=True,
        check=False,
    )

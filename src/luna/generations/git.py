"""The few git commands that generations need, with git's complaints as one-line errors."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from luna.errors import LunaError


class GitError(LunaError):
    """Git refused, or the repository is not in a state to go on from."""


def git(root: Path, *arguments: str, stdin: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """What git prints, without the last line break.

    Raises:
        GitError: git refused; its own last line is told.
    """
    done = _run(root, arguments, stdin, env)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise GitError(f"git {arguments[0]}: {lines[-1]}; see `git status`")
    return done.stdout.rstrip("\n")


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


def move_refs(root: Path, updates: Sequence[str]) -> None:
    """Move several refs at once, or none: lines as `git update-ref --stdin` reads them."""
    git(root, "update-ref", "--stdin", stdin="\n".join(["start", *updates, "prepare", "commit", ""]))


def _run(
    root: Path, arguments: Sequence[str], stdin: str | None, env: Mapping[str, str] | None
) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(root), *arguments]
    environment = {**os.environ, **(env or {}), "LC_ALL": "C"}
    return subprocess.run(command, input=stdin, env=environment, capture_output=True, text=True, check=False)

"""A commit of exactly the files that a run wrote, made beside the user's index and work tree."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from luna.generations.git import git
from luna.generations.tree import written_files


def snapshot(root: Path, message: str) -> str:
    """A commit on top of HEAD that differs from it in the run's own files alone. No ref points to it yet."""
    with tempfile.TemporaryDirectory() as folder:
        aside = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        git(root, "read-tree", "HEAD", env=aside)
        git(root, "add", "--force", "--", *_present(root), env=aside)
        tree = git(root, "write-tree", env=aside)
    return git(root, "commit-tree", tree, "-p", "HEAD", "-m", message)


def annotated_tag(root: Path, name: str, commit: str, message: str) -> str:
    """The object of an annotated tag; no ref points to it yet."""
    who = git(root, "var", "GIT_COMMITTER_IDENT")
    body = f"object {commit}\ntype commit\ntag {name}\ntagger {who}\n\n{message}\n"
    return git(root, "mktag", stdin=body)


def settle_index(root: Path) -> None:
    """After HEAD moved: the index holds the run's files as HEAD does. What else is staged stays staged."""
    git(root, "reset", "-q", "--", *written_files(root))


def restore(root: Path) -> None:
    """The run's own files as HEAD has them; those that HEAD does not have are removed."""
    known = set(git(root, "ls-tree", "-r", "--name-only", "HEAD", "--", *written_files(root)).splitlines())
    settle_index(root)
    if known:
        git(root, "checkout", "-q", "HEAD", "--", *sorted(known))
    for path in _present(root):
        if path not in known:
            (root / path).unlink()


def _present(root: Path) -> Sequence[str]:
    return [path for path in written_files(root) if (root / path).is_file()]

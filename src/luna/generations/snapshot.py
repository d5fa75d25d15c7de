"""A commit of exactly the files that a run wrote, made beside the user's index and work tree."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from luna.generations.git import git, git_locking
from luna.generations.tree import LOCK, written_files


def snapshot(root: Path, message: str) -> str:
    """A commit on top of HEAD that differs from it in the run's own files alone. No ref points to it yet.

    HEAD itself where nothing differs: a kill between git's writing of two refs can leave the branch moved and no tag.
    """
    with tempfile.TemporaryDirectory() as folder:
        aside = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        git(root, "read-tree", "HEAD", env=aside)
        git(root, "add", "--force", "--", *_present(root), env=aside)
        tree = git(root, "write-tree", env=aside)
    if tree == git(root, "rev-parse", "HEAD^{tree}"):
        return git(root, "rev-parse", "HEAD")
    return git(root, "commit-tree", tree, "-p", "HEAD", "-m", message)


def annotated_tag(root: Path, name: str, commit: str, message: str) -> str:
    """The object of an annotated tag; no ref points to it yet."""
    who = git(root, "var", "GIT_COMMITTER_IDENT")
    body = f"object {commit}\ntype commit\ntag {name}\ntagger {who}\n\n{message}\n"
    return git(root, "mktag", stdin=body)


def settle_index(root: Path) -> None:
    """After HEAD moved: the index holds the run's files as HEAD does. What else is staged stays staged."""
    git_locking(root, ["index"], "reset", "-q", "--", *written_files(root))


def restore(root: Path) -> None:
    """The run's own files as HEAD has them; those that HEAD does not have are removed.

    dvc.lock is the last: as long as it is the run's, a call that was cut off is known to have more to restore.
    """
    settle_index(root)
    for path in sorted(written_files(root), key=LOCK.__eq__):
        restore_file(root, path)


def restore_file(root: Path, path: str) -> None:
    """A file as HEAD has it; removed where HEAD does not have it."""
    if git(root, "ls-tree", "--name-only", "HEAD", "--", path):
        git_locking(root, ["index"], "checkout", "-q", "HEAD", "--", path)
    else:
        (root / path).unlink(missing_ok=True)


def _present(root: Path) -> Sequence[str]:
    return [path for path in written_files(root) if (root / path).is_file()]

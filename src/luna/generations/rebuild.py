"""Growing a released generation once more from its commit, in a tree of its own, and comparing every byte."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from luna.alone import alone
from luna.errors import LunaError
from luna.generations.at_tag import GenerationMissing, at_tag
from luna.generations.dvc import cache_folder, repro, share_cache
from luna.generations.git import commit_of, file_at, git, git_or_none
from luna.generations.tree import LOCK
from luna.progress import say

Json = dict[str, Any]
TREES = Path(".luna") / "rebuild"


class NotTheSame(LunaError):
    """A generation grew again, but to other bytes."""


@dataclass(frozen=True)
class Rebuilt:
    """A generation that grew to the same bytes again: its tag and the hash of its weights."""

    tag: str
    weights_sha256: str


def rebuild(root: Path, tag: str) -> Iterator[Rebuilt]:
    """Grow a tag again with the code of its own commit; ancestors whose weights are lost come first.

    What is grown is put into this repository's cache, so that a lost generation can teach again.

    Raises:
        LunaError: there is no such tag, or its commit is no generation.
        DvcError: a stage failed.
        NotTheSame: the bytes differ; names the stages.
    """
    waiting = "rebuild  another luna rebuild is at work here; waiting"
    with alone(root / ".luna" / "rebuild.lock", lambda: say(waiting)) as held:
        yield from _rebuild(root, tag, held)


def _rebuild(root: Path, tag: str, held: int) -> Iterator[Rebuilt]:
    generation = _generation(root, tag)
    for ancestor in (generation["grandparent"], generation["parent"]):
        if ancestor and not _at_hand(root, ancestor):
            say(f"rebuild  {ancestor} teaches {tag} and its weights are lost: it comes first")
            yield from _rebuild(root, ancestor, held)
    say(f"rebuild  {tag}")
    with _own_tree(root, tag) as tree:
        repro(tree, force=True, held=held)
        differing = _differences(tree, root, tag)
    if differing:
        raise NotTheSame(
            f"{tag}: {', '.join(differing)}: grew to other bytes than its commit says; compare the machine, the"
            " package versions and `threads`"
        )
    yield Rebuilt(tag, generation["weights_sha256"])


def _at_hand(root: Path, tag: str) -> bool:
    """True if cache or remote still have a generation's weights."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with at_tag(root, tag, "its weights are") as there:
                there.files.get("models/luna", f"{folder}/luna", recursive=True)
        except GenerationMissing:
            return False
    return True


def _generation(root: Path, tag: str) -> Json:
    if commit_of(root, tag) is None:
        raise LunaError(f"there is no git tag {tag}; run `git fetch --tags` or see `luna ladder`")
    text = file_at(root, f"refs/tags/{tag}", "generation.json")
    if text is None:
        raise LunaError(f"{tag}: its commit holds no generation.json; name the tag of a generation")
    value: Json = json.loads(text)
    return value


@contextmanager
def _own_tree(root: Path, tag: str) -> Iterator[Path]:
    """A work tree of the tag that shares this repository's cache. It is removed whatever happens."""
    tree = (root / TREES / tag).resolve()
    _remove(root, tree)  # what a killed call left
    tree.parent.mkdir(parents=True, exist_ok=True)
    git(root, "worktree", "add", "--quiet", "--detach", str(tree), f"refs/tags/{tag}")
    try:
        share_cache(tree, cache_folder(root))
        yield tree
    finally:
        _remove(root, tree)


def _remove(root: Path, tree: Path) -> None:
    if tree.exists():
        git(root, "worktree", "remove", "--force", "--force", str(tree))
    git_or_none(root, "worktree", "prune")


def _differences(tree: Path, root: Path, tag: str) -> list[str]:
    """The stages whose outputs in the regrown tree are others than the tag's dvc.lock says."""
    said = yaml.safe_load(file_at(root, f"refs/tags/{tag}", LOCK) or "{}").get("stages", {})
    grown = yaml.safe_load((tree / LOCK).read_text(encoding="utf-8"))["stages"]
    return [name for name, stage in said.items() if _hashes(stage) != _hashes(grown.get(name, {}))]


def _hashes(stage: Json) -> dict[str, str]:
    return {out["path"]: out.get("md5", "") for out in stage.get("outs", [])}

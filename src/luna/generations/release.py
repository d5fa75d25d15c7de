"""Turning a finished run into history: a promoted generation into a commit and a tag, a rejected one into an archive.

Everything before the one ref transaction can be lost without harm, and everything after it is done again by the next
call; so a release that was killed is finished by running it once more.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luna.errors import LunaError
from luna.generations.dvc import changed_stages, check_out, is_whole, mend_lock_table, push_data
from luna.generations.git import commit_of, file_at, git, git_or_none, move_refs, tags
from luna.generations.guards import check_ancestor, check_repository
from luna.generations.opening import failed_tries, following, generation_at, next_failure
from luna.generations.snapshot import annotated_tag, restore, restore_file, settle_index, snapshot
from luna.generations.tree import LOCK, unsaved_inputs
from luna.promote.run import PROMOTED
from luna.settings import Params, load_settings

Json = dict[str, Any]


class NotReleasable(LunaError):
    """The tree holds no finished run of the open generation."""


@dataclass(frozen=True)
class Outcome:
    """What became of a generation, and the tag under which that is kept."""

    name: str
    tag: str
    promoted: bool
    failed: tuple[str, ...] = ()


def release(root: Path, *, push: bool = False) -> Outcome:
    """Release the open generation: data to the remote, then commit and tag in one transaction.

    A rejected generation becomes a DVC experiment and a tag `failed/NAME.k`, and the tree goes back to its parent.
    Called once more there, where nothing is open, it tells of that rejection again.

    Args:
        push: also push the branch and the tag to `origin`, both or none.

    Raises:
        NotReleasable: the pipeline is not up to date, or it depended on files that are not committed.
        GitError, DvcError: git or DVC refused; nothing was released.
    """
    check_repository(root)
    mend_half_written(root)
    params = load_settings(root).params
    name = params.generation
    if commit_of(root, name) is not None:
        released = _released_before(root, name, push=push)
        return _last_rejected(root, name) or released
    generation = _finished(root, params)
    push_data(root)  # first, so that a tag that can be seen has its bytes
    if generation["verdict"] != PROMOTED:
        return _put_back(root, _same_try(root, name) or _tag_failure(root, name, generation))
    _commit_and_tag(root, name, generation)
    settle_index(root)
    return _pushed(root, name, push=push)


def mend_half_written(root: Path) -> None:
    """Files that DVC writes in place, cut off by a kill: DVC's run cache knows what a lost dvc.lock told."""
    mend_lock_table(root)
    if (root / LOCK).is_file() and not is_whole(root / LOCK):
        restore_file(root, LOCK)


def _finished(root: Path, params: Params) -> Json:
    """generation.json of a run that is complete, of these params, and can be grown again from its commit."""
    for ancestor in (params.parent, params.grandparent):
        check_ancestor(root, ancestor)
    stale = changed_stages(root)
    if stale:
        raise NotReleasable(f"{', '.join(stale)}: not up to date; run `dvc repro`")
    refuse_unsaved(root)
    generation: Json = json.loads((root / "generation.json").read_text(encoding="utf-8"))
    if generation["generation"] != params.generation or generation["parent"] != params.parent:
        raise NotReleasable("generation.json: is of another generation than params.yaml; run `dvc repro`")
    return generation


def refuse_unsaved(root: Path) -> None:
    """Refuse a tree with changed files that the last run depended on: asked before a run too, which may take hours.

    Raises:
        NotReleasable: names them.
    """
    unsaved = unsaved_inputs(root) if (root / LOCK).is_file() else []
    if unsaved:
        raise NotReleasable(f"{', '.join(unsaved)}: the run depends on it and git does not have it; commit it first")


def _commit_and_tag(root: Path, name: str, generation: Json) -> None:
    message = _message(name, generation)
    commit = snapshot(root, message)
    tag = annotated_tag(root, name, commit, message)
    branch, before = git(root, "symbolic-ref", "HEAD"), git(root, "rev-parse", "HEAD")
    move_refs(root, {branch: f"update {{}} {commit} {before}", f"refs/tags/{name}": f"create {{}} {tag}"})


def _message(name: str, generation: Json) -> str:
    gates = generation["gates"]
    figures = ", ".join(f"{gate} {gates[gate]['value']}" for gate in gates)
    facts = {"Parent": generation["parent"] or "the base", "Weights-SHA256": generation["weights_sha256"]}
    trailer = "\n".join(f"Luna-{key}: {value}" for key, value in facts.items())
    return f"{name}: {generation['verdict']}\n\n{figures}\n\n{trailer}"


def _released_before(root: Path, name: str, *, push: bool) -> Outcome:
    """What remains once the tag stands: the index, and the way to remote and origin."""
    generation_at(root, name)
    if commit_of(root, name) == git(root, "rev-parse", "HEAD"):
        settle_index(root)
    if push:
        push_data(root)
    return _pushed(root, name, push=push)


def _last_rejected(root: Path, parent: str) -> Outcome | None:
    """What became of the generation after this one, where it was tried and is not there."""
    child = following(parent)
    tries = failed_tries(root, child)
    if not tries or commit_of(root, child) is not None:
        return None
    outcome, before = _rejection(root, f"failed/{child}.{tries}")
    return outcome if before == parent else None


def _pushed(root: Path, name: str, *, push: bool) -> Outcome:
    if push:
        branch = git(root, "symbolic-ref", "--short", "HEAD")
        git(root, "push", "--quiet", "--atomic", "origin", branch, f"refs/tags/{name}")
    return Outcome(name, name, promoted=True)


def finish(root: Path, trying: str | None, *, push: bool = False) -> Outcome | None:
    """Do what is left of a release or an archiving that was cut off; None where the open generation has neither.

    Args:
        trying: the tag that the interrupted call was to keep its try under, had it been rejected.
        push: as in `release`.
    """
    if trying and commit_of(root, trying) is not None:
        return _put_back(root, trying)
    name = load_settings(root).params.generation
    if commit_of(root, name) is not None:
        return _released_before(root, name, push=push)
    tag = _same_try(root, name)
    return None if tag is None else _put_back(root, tag)


def _put_back(root: Path, tag: str) -> Outcome:
    """The tree as its parent left it, once the tag keeps the rejected try."""
    outcome, _ = _rejection(root, tag)
    if _is_of(root, tag):
        restore(root)
    if (root / LOCK).is_file():
        check_out(root)
    return outcome


def _rejection(root: Path, tag: str) -> tuple[Outcome, str | None]:
    """What a rejected try's own generation.json tells, and its parent."""
    said = json.loads(git(root, "show", f"refs/tags/{tag}:generation.json"))
    return Outcome(said["generation"], tag, promoted=False, failed=tuple(said["failed"])), said["parent"]


def _same_try(root: Path, name: str) -> str | None:
    """The tag of this very run, where a killed call had already archived it."""
    return next((tag for tag in tags(root, f"failed/{name}.*") if _is_of(root, tag)), None)


def _is_of(root: Path, tag: str) -> bool:
    """True if this tree's dvc.lock is the tag's."""
    lock = root / LOCK
    return lock.is_file() and lock.read_text(encoding="utf-8").rstrip("\n") == file_at(root, f"refs/tags/{tag}", LOCK)


def _tag_failure(root: Path, name: str, generation: Json) -> str:
    from dvc.repo.experiments.refs import ExpRefInfo

    tag = next_failure(root, name)
    message = f"{_message(name, generation)}\nLuna-Failed: {', '.join(generation['failed'])}"
    commit = snapshot(root, message)
    experiment = ExpRefInfo(git(root, "rev-parse", "HEAD"), tag.replace("/", "-").replace(".", "-"))
    created = {}
    if git_or_none(root, "rev-parse", "-q", "--verify", str(experiment)) is None:
        created[str(experiment)] = f"create {{}} {commit}"
    created[f"refs/tags/{tag}"] = f"create {{}} {annotated_tag(root, tag, commit, message)}"
    move_refs(root, created)
    return tag

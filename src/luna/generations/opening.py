"""Opening the next generation: params.yaml names it and its teachers, nothing else changes."""

import json
from pathlib import Path
from typing import Any

from luna.errors import LunaError
from luna.generations.git import GitError, commit_of, file_at, tags
from luna.generations.guards import check_ancestor, check_repository
from luna.generations.params_file import edit_params
from luna.generations.tree import PARAMS
from luna.settings import Params, load_settings


def open_next(root: Path, *, new_seed: bool = False) -> str:
    """Name the next generation and its teachers in params.yaml; an open generation stays as it is.

    Args:
        new_seed: for another try after a rejection, draw with another seed than the tries before.

    Returns:
        the name of the generation that is now open.

    Raises:
        GitError: the repository is in no state to go on from, or the next name is taken.
    """
    check_repository(root)
    params = load_settings(root).params
    changes: dict[str, Any] = {}
    if commit_of(root, params.generation) is None:
        for ancestor in (params.parent, params.grandparent):
            check_ancestor(root, ancestor)
        name = params.generation
    else:
        check_ancestor(root, params.generation)
        name = following(params.generation)
        changes = _lineage(root, name, params)
    if commit_of(root, name) is not None:
        raise GitError(f"the tag {name} exists already and this is an older tree; run `git switch` to its branch")
    tries = failed_tries(root, name)
    changes["attempt"] = tries + 1
    opened = name == params.generation and params.attempt == tries + 1
    if new_seed and not opened:
        changes["seed"] = params.seed + tries
    edit_params(root / PARAMS, changes)
    return name


def _lineage(root: Path, name: str, params: Params) -> dict[str, Any]:
    return {
        "generation": name,
        "parent": params.generation,
        "grandparent": params.parent,
        "parent_sha256": sha256_of(root, params.generation),
        "grandparent_sha256": sha256_of(root, params.parent) if params.parent else None,
    }


def following(name: str) -> str:
    """Luna-G003 for Luna-G002."""
    prefix, _, number = name.rpartition("-G")
    return f"{prefix}-G{int(number) + 1:0{len(number)}d}"


def failed_tries(root: Path, name: str) -> int:
    """How often a generation was tried and rejected."""
    return len(tags(root, f"failed/{name}.*"))


def next_failure(root: Path, name: str) -> str:
    """The tag that the next try of a generation is kept under if it is rejected."""
    return f"failed/{name}.{failed_tries(root, name) + 1}"


def generation_at(root: Path, tag: str) -> dict[str, Any]:
    """What the generation.json of a tag's commit tells.

    Raises:
        LunaError: it holds none, or that of another generation.
    """
    text = file_at(root, f"refs/tags/{tag}", "generation.json")
    said: dict[str, Any] = json.loads(text) if text else {}
    if said.get("generation") != tag:
        holds = said.get("generation") or "no generation"
        raise LunaError(f"{tag}: the tag stands on a commit that holds {holds}; run `git tag -d {tag}`")
    return said


def sha256_of(root: Path, tag: str) -> str:
    """The weights hash that a generation's own commit tells, so that a moved tag is noticed.

    Raises:
        LunaError: the tag's commit holds no generation.json of it with one.
    """
    found = generation_at(root, tag).get("weights_sha256")
    if not isinstance(found, str):
        raise LunaError(f"{tag}: weights_sha256 is missing in its generation.json; release that generation again")
    return found

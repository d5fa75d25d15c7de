"""Which files of a tree belong to the pipeline: what a run writes, and what it depends on."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from luna.errors import LunaError
from luna.generations.git import changed_paths

LOCK, PARAMS = "dvc.lock", "params.yaml"
Json = dict[str, Any]


def written_files(root: Path) -> list[str]:
    """What a generation's commit holds beside the code: dvc.lock, params.yaml and the outputs that git keeps."""
    stages = _read(root / "dvc.yaml")["stages"]
    outputs = [path for stage in stages.values() for path in _kept_by_git(stage)]
    return [LOCK, PARAMS, *sorted(outputs)]


def _kept_by_git(stage: Mapping[str, Any]) -> Iterator[str]:
    for kind in ("outs", "metrics", "plots"):
        for entry in stage.get(kind, []):
            if isinstance(entry, dict):
                yield from (path for path, how in entry.items() if how and how.get("cache") is False)


def unsaved_inputs(root: Path) -> list[str]:
    """Changed files that the run depended on and that the generation's commit would not hold.

    A commit without them could not be grown again. Other changed files are the user's own and none of our business.
    """
    inputs = {"dvc.yaml", *_inputs(_read(root / LOCK))} - {PARAMS}
    written = set(written_files(root))
    return [path for path in changed_paths(root) if path not in written and _below(path, inputs)]


def _inputs(lock: Mapping[str, Any]) -> Iterator[str]:
    for stage in lock.get("stages", {}).values():
        yield from (dep["path"] for dep in stage.get("deps", []))
        yield from stage.get("params", {})


def _below(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def _read(path: Path) -> Json:
    if not path.is_file():
        raise LunaError(f"{path}: no such file; run `dvc repro` from the root of the repo")
    value: Json = yaml.safe_load(path.read_text(encoding="utf-8"))
    return value

"""Materialise parent and grandparent below models/teachers, verified against what their tags say.

`teachers.json` names each: {"gen": tag or null, "source": "tag" or "base", "path": ..., "weights_sha256": ...,
"eval_set_sha256": of the eval set that promoted it}. A null tag is the base model, which stays where it is.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

from luna.errors import LunaError
from luna.lm.weights import weights_sha256
from luna.outputs import replacing
from luna.settings import Settings

Json = dict[str, Any]
TEACHERS = "teachers.json"


class TeacherMissing(LunaError):
    """A generation that should teach cannot be brought back."""


def base_path(settings: Settings) -> str:
    """Where the base model is: the pretrain stage's output, or the name the preset gives."""
    return "models/base" if settings.preset.model.base == "scratch" else settings.preset.model.base


def bring_teachers(settings: Settings, root: Path, folder: Path) -> Json:
    """Write the teachers that params.yaml names into `folder`.

    Raises:
        TeacherMissing: a tag does not exist here, its weights are in no cache or remote, or they do not verify.
    """
    tags = {"parent": settings.params.parent, "grandparent": settings.params.grandparent}
    with replacing(folder) as aside:
        aside.mkdir()
        teachers = {
            role: _base(settings) if tag is None else _bring(root, tag, aside / role, f"{folder}/{role}")
            for role, tag in tags.items()
        }
        (aside / TEACHERS).write_text(json.dumps(teachers, indent=2) + "\n", encoding="utf-8")
    return teachers


def _base(settings: Settings) -> Json:
    return {"gen": None, "source": "base", "path": base_path(settings)}


def _bring(root: Path, tag: str, target: Path, path: str) -> Json:
    from dvc.api import DVCFileSystem
    from dvc.repo import Repo

    repo, commit = _find_tag(root.resolve(), tag)
    try:
        with Repo(str(repo)) as here:  # today's remotes and cache: the tag may be older than they are
            config = {key: here.config[key] for key in ("core", "remote", "cache")}
        files = DVCFileSystem(str(repo), rev=commit, config=config)
        files.get("models/luna", str(target), recursive=True)
        said = json.loads(files.read_text("generation.json"))
    except Exception as error:  # DVC and its remotes raise errors of many libraries
        raise TeacherMissing(
            f"params.yaml: {tag}: its weights are in no cache and no remote ({error}); run `dvc fetch -T`"
        ) from error
    found = weights_sha256(target)
    if said.get("weights_sha256") != found or said.get("generation") != tag:
        raise TeacherMissing(f"params.yaml: {tag}: the weights do not match its generation.json; run `dvc fetch -T`")
    asked = said.get("eval_set_sha256")
    known = {"commit": commit, "weights_sha256": found, "eval_set_sha256": asked}
    return {"gen": tag, "source": "tag", "path": path, **known}


def _find_tag(start: Path, tag: str) -> tuple[Path, str]:
    """The repo that holds a tag, and its commit. The work trees of `dvc exp run --temp` have no tags: look above."""
    for folder in (start, *start.parents):
        if (folder / ".git").exists():
            command = ["git", "-C", str(folder), "rev-parse", "-q", "--verify", f"refs/tags/{tag}^{{commit}}"]
            found = subprocess.run(command, capture_output=True, text=True, check=False)
            if found.returncode == 0:
                return folder, found.stdout.strip()
    raise TeacherMissing(f"params.yaml: there is no git tag {tag}; run `git fetch --tags`")

"""Materialise parent and grandparent below models/teachers, verified against what their tags say.

`teachers.json` names each: {"gen": tag or null, "source": "tag" or "base", "path": ..., "weights_sha256": ...}.
A null tag is the base model, which stays where it is.
"""

import json
from pathlib import Path
from typing import Any

from luna.generations.at_tag import GenerationMissing, at_tag
from luna.lm.weights import weights_sha256
from luna.outputs import replacing
from luna.settings import Settings

Json = dict[str, Any]
TEACHERS = "teachers.json"


def base_path(settings: Settings) -> str:
    """Where the base model is: the pretrain stage's output, or the name the preset gives."""
    return "models/base" if settings.preset.model.base == "scratch" else settings.preset.model.base


def bring_teachers(settings: Settings, root: Path, folder: Path) -> Json:
    """Write the teachers that params.yaml names into `folder`.

    Raises:
        GenerationMissing: a tag does not exist here, its weights are in no cache or remote, or they do not verify.
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
    with at_tag(root, tag, "its weights are") as generation:
        generation.files.get("models/luna", str(target), recursive=True)
        said = json.loads(generation.files.read_text("generation.json"))
    found = weights_sha256(target)
    if said.get("weights_sha256") != found or said.get("generation") != tag:
        raise GenerationMissing(f"params.yaml: {tag}: the weights do not match its generation.json; run `dvc fetch -T`")
    return {"gen": tag, "source": "tag", "path": path, "commit": generation.commit, "weights_sha256": found}

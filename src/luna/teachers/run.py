"""Materialise parent and grandparent below models/teachers, verified against what their tags say.

`teachers.json` names each: {"gen": tag or null, "source": "tag" or "base", "path": ..., "weights_sha256": ...,
"eval_set_sha256": of the eval set that promoted it}. A null tag is the base model, which stays where it is.
"""

import json
from pathlib import Path
from typing import Any

from luna.generations.at_tag import GenerationMissing
from luna.generations.weights_at_tag import bring_weights
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
        GenerationMissing: a tag does not exist here, its weights are in no cache or remote, or they are others than
            its generation.json or params.yaml say.
    """
    params = settings.params
    named = {
        "parent": (params.parent, params.parent_sha256),
        "grandparent": (params.grandparent, params.grandparent_sha256),
    }
    with replacing(folder) as aside:
        aside.mkdir()
        teachers = {
            role: _base(settings) if tag is None else _bring(root, tag, noted, aside / role, f"{folder}/{role}")
            for role, (tag, noted) in named.items()
        }
        (aside / TEACHERS).write_text(json.dumps(teachers, indent=2) + "\n", encoding="utf-8")
    return teachers


def _base(settings: Settings) -> Json:
    return {"gen": None, "source": "base", "path": base_path(settings)}


def _bring(root: Path, tag: str, noted: str | None, target: Path, path: str) -> Json:
    said = bring_weights(root, tag, target)
    found = said["weights_sha256"]
    if noted is not None and noted != found:
        raise GenerationMissing(
            f"params.yaml: {tag}: the tag was moved to other weights since `luna next` named it; set its sha256 to null"
            " to take the new ones"
        )
    asked = said.get("eval_set_sha256")
    return {"gen": tag, "source": "tag", "path": path, "weights_sha256": found, "eval_set_sha256": asked}

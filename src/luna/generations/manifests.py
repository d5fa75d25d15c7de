"""Growing from a manifest that somebody hands in: what it asks for becomes the dials of params.yaml."""

import json
from collections.abc import Mapping
from functools import reduce
from operator import getitem
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from luna.errors import LunaError
from luna.generations.git import commit_of, is_ancestor
from luna.generations.history import HistoryError, read_release
from luna.generations.opening import sha256_of
from luna.generations.params_file import edit_params
from luna.outputs import read_json
from luna.progress import say
from luna.promote.manifest import Manifest, ManifestError, Teacher, read_manifest
from luna.promote.run import PROMOTED
from luna.settings import Params, Settings, explain, load_settings
from luna.teachers.run import base_path

_LINE = {"generation", "parent", "grandparent", "parent_sha256", "grandparent_sha256"}  # of every generation anew
_PLACES = {"sft": "models/sft", "parent": "models/teachers/parent", "grandparent": "models/teachers/grandparent"}


def manifest_of(root: Path, tag: str | None) -> dict[str, Any]:
    """The manifest of a generation by its tag, or of the one in this tree, as generation.json holds it.

    Raises:
        LunaError: there is no such generation, or it holds no manifest.
    """
    path = root / "generation.json"
    generation = read_json(path) if tag is None else read_release(root, tag).generation
    if not isinstance(generation, dict) or not isinstance(generation.get("manifest"), dict):
        raise ManifestError(f"{path}: manifest: is missing; run `dvc repro --force promote`")
    manifest: dict[str, Any] = generation["manifest"]
    return manifest


def params_from(manifest: Manifest) -> dict[str, Any]:
    """The edits of params.yaml, nested keys with dots, that grow this manifest. The student starts from T1.

    A manifest says neither the gates nor the data of a generation: whatever it does not say stays as it is.

    Raises:
        ManifestError: a teacher is neither the SFT rung of the run nor the parent or grandparent.
    """
    request, training, stabilizers = manifest.evolution_request, manifest.training_params, manifest.stabilizers
    wired = {teacher.role: _wired(manifest, teacher) for teacher in manifest.teachers}
    return {
        "generation": request.child_gen,
        "parent": request.parent_gen,
        "grandparent": request.grandparent_gen,
        "student_init": wired["primary"],
        "teachers.primary": wired["primary"],
        "teachers.critic": wired["stabilizing_critic"],
        **{name: getattr(training, name) for name in ("alpha", "beta", "gamma", "temperature")},
        "distill.max_steps": training.steps,
        "distill.learning_rate": training.lr,
        "distill.ema": stabilizers.ema,
        "distill.ema_decay": stabilizers.ema_decay,
        "distill.taboo.enabled": stabilizers.token_masking,
        "replay.enabled": stabilizers.replay_buffer,
        **({"replay.size": stabilizers.replay_size} if stabilizers.replay_size else {}),
    }


def apply_manifest(root: Path, path: Path) -> Manifest:
    """Read the manifest at `path`, hold it against the repo at `root`, and write what it asks for into params.yaml.

    Nothing is written unless everything fits. Edits of `replay` are left out where params have no such section. Dials
    that change are told, since they stay for the generations that follow.

    Raises:
        BadSettings: params.yaml or its preset cannot be read as it is.
        ManifestError: the manifest does not hold together, its ancestors are no promoted generations of this branch,
            its child exists already, or its teachers cannot be wired; one line that names file and key.
    """
    settings = load_settings(root)
    manifest = read_manifest(path)
    try:
        edits = _that_exist(settings.params, params_from(manifest))
        _check_values(settings.params, edits)
        _check_line(root, manifest)
        _check_paths(settings, manifest)
        edits |= _hashes(root, manifest)
    except LunaError as error:
        raise ManifestError(f"{path}: {error}") from error
    try:
        edit_params(root / "params.yaml", edits)
    except KeyError as error:
        raise ManifestError(f"{root / 'params.yaml'}: {error.args[0]}: is missing; add it") from error
    _tell_what_stays(settings.params, edits)
    return manifest


def _tell_what_stays(before: Params, edits: Mapping[str, Any]) -> None:
    dials = before.model_dump()
    changes = [(key, reduce(getitem, key.split("."), dials), new) for key, new in edits.items() if key not in _LINE]
    told = ", ".join(f"{key} {_in_yaml(old)} -> {_in_yaml(new)}" for key, old, new in changes if old != new)
    if told:
        say(f"grow  the manifest changes {told}; later generations keep this unless params.yaml is changed back")


def _in_yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _wired(manifest: Manifest, teacher: Teacher) -> str:
    """The name in params.yaml of a teacher; the base is the first ancestor that is null."""
    request = manifest.evolution_request
    if teacher.source == "sft":
        return "sft"
    if teacher.gen == request.parent_gen:
        return "parent"
    if teacher.gen == request.grandparent_gen:
        return "grandparent"
    raise ManifestError(
        f"teachers: {teacher.gen} is neither parent_gen ({request.parent_gen or 'the base'}) nor grandparent_gen"
        f" ({request.grandparent_gen or 'the base'}); name it as one of them or choose another teacher"
    )


def _that_exist(params: Params, edits: Mapping[str, Any]) -> dict[str, Any]:
    known = params.model_dump()
    return {key: value for key, value in edits.items() if key.partition(".")[0] in known}


def _check_values(params: Params, edits: Mapping[str, Any]) -> None:
    """Params are stricter than a manifest, about names for one; that must show before the file is written."""
    changed = params.model_dump()
    for key, value in edits.items():
        *sections, name = key.split(".")
        section = changed
        for part in sections:
            section = section[part]
        section[name] = value
    try:
        Params.model_validate(changed)
    except ValidationError as error:
        raise ManifestError(f"does not fit params.yaml: {explain(error, Params)}") from error


def _check_line(root: Path, manifest: Manifest) -> None:
    request = manifest.evolution_request
    for key in ("parent_gen", "grandparent_gen"):
        if tag := getattr(request, key):
            _check_ancestor(root, tag, f"evolution_request.{key}")
    if commit_of(root, request.child_gen):
        raise ManifestError(f"evolution_request.child_gen: the tag {request.child_gen} exists; name a new generation")


def _check_ancestor(root: Path, tag: str, key: str) -> None:
    try:
        released = read_release(root, tag)
    except HistoryError as error:
        raise ManifestError(f"{key}: {error}") from error
    if released.verdict != PROMOTED:
        raise ManifestError(f"{key}: {tag} was rejected; name a promoted generation")
    if not is_ancestor(root, released.commit):
        raise ManifestError(f"{key}: {tag} is no ancestor of this branch; switch to a branch that descends from it")


def _hashes(root: Path, manifest: Manifest) -> dict[str, str | None]:
    line = {"parent": manifest.evolution_request.parent_gen, "grandparent": manifest.evolution_request.grandparent_gen}
    return {f"{place}_sha256": sha256_of(root, tag) if tag else None for place, tag in line.items()}


def _check_paths(settings: Settings, manifest: Manifest) -> None:
    """A path is not obeyed, since teachers come from tags; one that means another model must not be passed over."""
    for number, teacher in enumerate(manifest.teachers):
        place = base_path(settings) if teacher.source == "base" else _PLACES[_wired(manifest, teacher)]
        path = PurePosixPath(teacher.path)
        if path != PurePosixPath(place) and teacher.gen not in path.parts:
            raise ManifestError(
                f"teachers.{number}.path: {teacher.path} is not the {teacher.gen or teacher.source} model;"
                f" write {place}"
            )

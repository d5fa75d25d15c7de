"""What the tags of a repo say about its generations, read from their commits without a checkout."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from luna.errors import LunaError
from luna.generations.git import commit_of, file_at, git, git_or_none, tags
from luna.promote.manifest import Manifest, number_of
from luna.settings import explain, load_settings

Json = dict[str, Any]
METRICS = ("eval", "enhance", "distill", "judge")

_TAG = re.compile(r"(?P<promoted>[\w.-]+-G\d+)|failed/(?P<failed>[\w.-]+-G\d+)\.(?P<attempt>\d+)")
_MEND = "delete the tag or release that generation again"


class HistoryError(LunaError):
    """A tag does not hold a generation."""


class _Part(BaseModel):
    """Whatever else a generation.json holds is not looked at: an older Luna may have said less or more."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Figure(_Part):
    """The value of one gate; None where it could not be measured."""

    value: int | float | None


class Change(_Part):
    """A paired difference and its 95 % interval."""

    delta: float
    low: float
    high: float


class Suites(_Part):
    """Differences by suite; only the one on new kinds of questions is shown."""

    generalize: Change | None = None


class Enhanced(_Part):
    """How the loop of attempts and hints went."""

    convergence_rate: float | None = None


class Data(_Part):
    """How much the generation was grown from."""

    examples: int | None = None


class Told(_Part):
    """What generation.json says, as far as it is read here. `evidence` has a key for each model compared with."""

    generation: str
    verdict: Literal["PROMOTED", "REJECTED"]
    gates: dict[str, Figure]
    failed: list[str]
    evidence: dict[str, Suites] = {}
    enhance: Enhanced = Enhanced()
    data: Data = Data()
    manifest: Manifest


@dataclass(frozen=True)
class Released:
    """A generation behind a tag.

    `generation` is its generation.json as it stands and `told` what is read of it; `metrics` has those of eval,
    enhance, distill and judge that the commit holds. `attempt` counts the rejected tries at a name from 1; it is None
    for a promoted generation. `date` is that of the commit, ISO 8601.
    """

    name: str
    tag: str
    attempt: int | None
    commit: str
    date: str
    generation: Json
    told: Told
    metrics: Mapping[str, Json]

    @property
    def verdict(self) -> str:
        return self.told.verdict


def read_history(root: Path) -> list[Released]:
    """The generations of this ladder, oldest first, the rejected tries at a number before the one that was promoted.

    The ladder's name is what stands before `-G` in the `generation` of params.yaml. Only annotated tags whose commit
    holds a generation.json count.

    Raises:
        BadSettings: params.yaml or its preset cannot be read.
        HistoryError: a tag's generation.json or metrics are broken.
    """
    ladder = load_settings(root).params.generation.rpartition("-G")[0]
    found = [*tags(root, f"{ladder}-G*"), *tags(root, f"failed/{ladder}-G*")]
    history = [_read(root, tag) for tag in found if _TAG.fullmatch(tag) and _is_release(root, tag)]
    return sorted(history, key=lambda one: (number_of(one.name), one.attempt is None, one.attempt or 0))


def read_release(root: Path, tag: str) -> Released:
    """The generation behind one tag, promoted or failed.

    Raises:
        HistoryError: there is no such tag, or no sound generation in its commit.
    """
    if not _TAG.fullmatch(tag):
        raise HistoryError(f"{tag!r} names no generation; write it like Luna-G001 or failed/Luna-G001.1")
    commit = commit_of(root, tag)
    if commit is None:
        raise HistoryError(f"there is no git tag {tag}; run `git fetch --tags` or choose one of `luna ladder`")
    if not _holds_generation(root, commit):
        raise HistoryError(f"{tag}: its commit holds no generation.json; choose one of `luna ladder`")
    return _read(root, tag)


def _is_release(root: Path, tag: str) -> bool:
    annotated = git(root, "cat-file", "-t", f"refs/tags/{tag}") == "tag"
    commit = commit_of(root, tag)
    return annotated and commit is not None and _holds_generation(root, commit)


def _holds_generation(root: Path, commit: str) -> bool:
    return git_or_none(root, "cat-file", "-e", f"{commit}:generation.json") is not None


def _read(root: Path, tag: str) -> Released:
    form = _TAG.fullmatch(tag)
    assert form, "tags are matched before they are read"
    name, attempt = form["promoted"] or form["failed"], form["attempt"]
    commit = git(root, "rev-parse", f"refs/tags/{tag}^{{commit}}")
    generation = _json(root, tag, commit, "generation.json") or {}
    metrics = {part: _json(root, tag, commit, f"metrics/{part}.json") for part in METRICS}
    return Released(
        name=name,
        tag=tag,
        attempt=int(attempt) if attempt else None,
        commit=commit,
        date=git(root, "show", "-s", "--format=%cI", commit),
        generation=generation,
        told=_told(generation, tag, name),
        metrics={part: values for part, values in metrics.items() if values is not None},
    )


def _told(generation: Json, tag: str, name: str) -> Told:
    try:
        told = Told.model_validate(generation)
    except ValidationError as error:
        what = explain(error, Told).rpartition(";")[0]
        raise HistoryError(f"{tag}: generation.json: {what}; {_MEND}") from error
    if told.generation != name:
        raise HistoryError(f"{tag}: generation.json: it is that of {told.generation}; {_MEND}")
    return told


def _json(root: Path, tag: str, commit: str, path: str) -> Json | None:
    try:
        text = file_at(root, commit, path)
        value = None if text is None else json.loads(text)
    except ValueError as error:  # no JSON, or no UTF-8
        raise HistoryError(f"{tag}: {path}: is broken JSON ({error}); {_MEND}") from error
    if text is not None and not isinstance(value, dict):
        raise HistoryError(f"{tag}: {path}: is no JSON object; {_MEND}")
    return value

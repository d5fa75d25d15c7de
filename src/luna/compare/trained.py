"""What models trained on the approaches can do: from generation tags and from the trees of other runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from luna.errors import BadSettings
from luna.generate.mix import MIXES, shares_of
from luna.generations.git import file_at, git_or_none
from luna.generations.history import read_history
from luna.outputs import read_json
from luna.settings import Approach

SUITES = ("recall", "generalize")


class Trained(NamedTuple):
    """A model, the shares of approaches in the data it was grown from, and its accuracy on both suites."""

    name: str
    mix: str | Mapping[Approach, float]
    recall: float
    generalize: float

    @property
    def approach(self) -> str | None:
        """The approach, where it was grown from one alone."""
        shares = [name for name, share in shares_of(self.mix).items() if share > 0]
        return shares[0] if len(shares) == 1 else None


def trained_models(root: Path, runs: Sequence[Path] = ()) -> list[Trained]:
    """The generations behind the tags of a repo and the trees of `runs`, as far as they tell mix and accuracy.

    Raises:
        BadSettings: the tree of a run lacks its params.
        LunaError: the tree of a run has no evaluation.
    """
    return [*(_of_run(run) for run in runs), *_of_tags(root)]


def _of_run(run: Path) -> Trained:
    params = run / "params.yaml"
    if not params.is_file():
        raise BadSettings(f"--run: {params}: no such file; give the root of a tree in which `dvc repro` ran")
    found = _trained(str(run), params.read_text(encoding="utf-8"), read_json(run / "metrics" / "eval.json"))
    if found is None:
        raise BadSettings(f"--run: {run}: tells neither its mix nor its accuracy; run `dvc repro` there")
    return found


def _of_tags(root: Path) -> list[Trained]:
    if git_or_none(root, "rev-parse", "--git-dir") is None:
        return []
    told = []
    for released in read_history(root):
        params = file_at(root, released.commit, "params.yaml")
        told.append(_trained(released.tag, params or "", released.metrics.get("eval", {})))
    return [one for one in told if one is not None]


def _trained(name: str, params: str, evaluation: Mapping[str, Any]) -> Trained | None:
    mix = ((yaml.safe_load(params) or {}).get("generate") or {}).get("mix")
    if not (isinstance(mix, dict) or mix in MIXES) or not all(suite in evaluation for suite in SUITES):
        return None
    return Trained(name, mix, *(evaluation[suite] for suite in SUITES))

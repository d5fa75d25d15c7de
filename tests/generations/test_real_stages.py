"""The pipeline itself under `luna grow`, killed on its way; what it grew is grown again, and tried out.

The model is as small as the stages allow: it learns nothing, and its gates let everything pass.
"""

import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

KILLS, LONGEST = 3, 14  # how often, and seconds after which each call is killed at the latest
PARAMS = {
    "preset": "smoke",
    "threads": 1,
    "generate": {"num_examples": 12},
    "enhance": {"blind_retries": 4},
    "evaluate": {"recall_items": 14, "generalize_items": 14, "bootstrap_samples": 20},
    "gates": {
        "recall_drop": 1.0,
        "generalize_gain": -1.0,
        "tone_drift": 1.0,
        "law_violations": 10**6,
        "require_evidence": False,
    },
}
SHAPE = {"hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 64}
PRESET = {
    "pretrain": {"scratch": {"vocab_size": 400, **SHAPE}, "window": None},
    "student": {"max_new_tokens": 24},
    "sft": {"max_steps": 3},
    "distill": {"max_steps": 3},
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def change_yaml(path: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Set keys; a section keeps the keys that are not named."""
    value: dict[str, Any] = yaml.safe_load(path.read_text())
    for key, new in changes.items():
        value[key] = value[key] | new if isinstance(new, dict) else new
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    return value


@pytest.fixture(scope="module")
def start(fresh, copy_of_luna: Callable[[Path], None], tmp_path_factory: pytest.TempPathFactory):
    """A clone of Luna that is told from the one under test by the title of its base, with a change of the user's."""
    repo = type(fresh)(tmp_path_factory.mktemp("real") / "luna")
    copy_of_luna(repo.root)
    change_yaml(repo / "params.yaml", PARAMS)
    preset = change_yaml(repo / "presets" / "smoke.yaml", PRESET)
    change_yaml(
        repo / "presets" / "smoke.yaml",
        {"pretrain": {"rungs": [rung | {"steps": 4} for rung in preset["pretrain"]["rungs"]]}},
    )
    repo.change("src/luna/pretrain/run.py", '"Luna, age 2"', '"Luna of the clone"')
    repo.must("git", "init", "-q", "-b", "main")
    for key, value in (("user.name", "Luna"), ("user.email", "luna@localhost")):
        repo.must("git", "config", key, value)
    repo.must("git", "add", ".")
    repo.must("git", "commit", "-q", "-m", "start")
    (repo / "notes.txt").write_text("the user's own")
    return repo


def processes_in(root: Path) -> list[str]:
    """The command lines of all that runs below a folder."""
    return [
        " ".join(process.info["cmdline"] or [])
        for process in psutil.process_iter(["cwd", "cmdline"])
        if Path(process.info["cwd"] or "/").is_relative_to(root)
    ]


@dataclass(frozen=True)
class Grown:
    """A repository, and how often its growth was killed."""

    repo: Any
    kills: int


@pytest.fixture(scope="module")
def grown_through_kills(start) -> Grown:
    """One generation: every other call is killed with all of its processes, else Luna alone."""
    rng = random.Random(4)
    with (start.root.parent / "log").open("w") as log:
        for number in range(KILLS):
            process = start.start("luna", "grow", start_new_session=True, stdout=log, stderr=log)
            try:
                assert process.wait(rng.uniform(1, LONGEST)) == 0
                return Grown(start, number)
            except subprocess.TimeoutExpired:
                (os.killpg if number % 2 == 0 else os.kill)(process.pid, signal.SIGKILL)
                process.wait()
    start.must("luna", "grow")
    return Grown(start, KILLS)


def test_growth_through_kills_leaves_one_release_and_nothing_else(grown_through_kills: Grown) -> None:
    repo = grown_through_kills.repo
    assert grown_through_kills.kills == KILLS
    assert repo.tags() == ["Luna-G001"]
    assert repo.must("git", "rev-parse", "HEAD") == repo.must("git", "rev-parse", "Luna-G001^{commit}")
    assert repo.must("git", "log", "--format=%s").splitlines() == ["Luna-G001: PROMOTED", "start"]
    assert repo.must("git", "status", "--porcelain", "-uall") == "?? notes.txt\n"
    assert (repo / "notes.txt").read_text() == "the user's own"
    assert "up to date" in repo.must("dvc", "status")
    assert list((repo / ".git").rglob("*.lock")) == []
    assert processes_in(repo.root) == []


def test_undisturbed_it_grows_to_the_same_bytes_with_its_own_code(grown_through_kills: Grown, tmp_path: Path) -> None:
    """Without a cache, and with a tree that has moved on to the code under test, which gives the base another title."""
    repo = grown_through_kills.repo.copy(tmp_path)
    shutil.rmtree(repo / ".dvc" / "cache")
    repo.change("src/luna/pretrain/run.py", '"Luna of the clone"', '"Luna, age 2"')
    repo.must("git", "commit", "-q", "-am", "the code under test")
    assert "Luna-G001: the same bytes" in repo.must("luna", "rebuild", "Luna-G001")
    repo.must("dvc", "checkout", "--force")
    assert "Luna of the clone" in (repo / "models" / "base" / "README.md").read_text()


def test_an_experiment_in_a_tree_of_its_own_finds_the_tag_and_runs_its_own_code(
    grown_through_kills: Grown, tmp_path: Path
) -> None:
    repo = grown_through_kills.repo.copy(tmp_path)
    repo.must("luna", "next")
    repo.change("src/luna/teachers/run.py", '{"gen": tag, "source"', '{"gen": tag, "code": "its own", "source"')
    repo.must("dvc", "exp", "run", "--temp", "--name", "apart", "teachers")
    assert not (repo / "models" / "teachers" / "parent").exists()
    repo.must("dvc", "get", "-q", ".", "models/teachers", "--rev", "apart", "--out", str(tmp_path / "brought"))
    parent = json.loads((tmp_path / "brought" / "teachers.json").read_text())["parent"]
    assert (parent["gen"], parent["code"]) == ("Luna-G001", "its own")
    weights = (tmp_path / "brought" / "parent" / "model.safetensors").read_bytes()
    assert weights == (repo / "models" / "luna" / "model.safetensors").read_bytes()

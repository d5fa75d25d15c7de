"""The history of a repo's tags and the table of it, from real git repos with commits made by hand."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luna.generations.history import HistoryError, read_history, read_release
from luna.generations.ladder import NOTHING_YET, render, rows

REPO = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "litellm", "dvc", "trl", "peft", "datasets"}
SFT = {"gen": None, "source": "sft", "role": "primary", "path": "models/sft"}
Release = Callable[..., str]


def _git(root: Path, *command: str) -> str:
    who = ["-c", "user.name=Luna", "-c", "user.email=luna@localhost", "-c", "commit.gpgsign=false"]
    dated = {**os.environ, "GIT_COMMITTER_DATE": "2024-05-06T07:08:09+02:00"}
    done = subprocess.run(
        ["git", "-C", str(root), *who, *command], check=True, capture_output=True, text=True, env=dated
    )
    return done.stdout.strip()


def _line_of(name: str) -> list[str | None]:
    """Parent and grandparent of Luna-G00N when every number before it was promoted."""
    number = int(name[-3:])
    return [f"Luna-G{number - back:03d}" if number > back else None for back in (1, 2)]


def _generation(name: str, failed: list[str], **changes: Any) -> dict[str, Any]:
    parent, grandparent = _line_of(name)
    source = {} if parent else {"source": "base"}
    critic = {"gen": parent, **source, "role": "stabilizing_critic", "path": "models/teachers/parent"}
    change = {"delta": 0.0625, "low": -0.0125, "high": 0.1375, "p": 0.1, "detectable": 0.07}
    values = {"recall": 0.75, "generalize": 0.5, "tone_drift": 0.0123, "law_violations": 0}
    return {
        "generation": name,
        "parent": parent,
        "verdict": "REJECTED" if failed else "PROMOTED",
        "gates": {gate: {"value": value, "pass": gate not in failed} for gate, value in values.items()},
        "failed": failed,
        "evidence": {"sft": {"generalize": {**change, "delta": 0.9}}, "parent": {"generalize": change}},
        "manifest": {
            "evolution_request": {"parent_gen": parent, "grandparent_gen": grandparent, "child_gen": name},
            "teachers": [SFT, critic],
        },
        "data": {"examples": 1800},
        "enhance": {"convergence_rate": 0.875},
        **changes,
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty git repo with the settings of this one."""
    shutil.copy(REPO / "params.yaml", tmp_path)
    shutil.copytree(REPO / "presets", tmp_path / "presets")
    _git(tmp_path, "init", "-q", "-b", "main")
    return tmp_path


@pytest.fixture
def release(root: Path) -> Release:
    """Commits a generation under a tag, with its metrics, and gives the commit."""

    def make(
        tag: str, *failed: str, text: str | None = None, metrics: dict[str, str] | None = None, **said: Any
    ) -> str:
        name = tag.removeprefix("failed/").partition(".")[0]
        (root / "generation.json").write_text(text or json.dumps(_generation(name, list(failed), **said)))
        shutil.rmtree(root / "metrics", ignore_errors=True)
        (root / "metrics").mkdir()
        for part, value in (metrics or {}).items():
            (root / "metrics" / f"{part}.json").write_text(value)
        _git(root, "add", "-A")
        _git(root, "commit", "-q", "--allow-empty", "-m", tag)
        _git(root, "tag", "-a", tag, "-m", tag)
        return _git(root, "rev-parse", "HEAD")

    return make


def _luna(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(REPO / "src")}
    command = (sys.executable, "-m", "luna.cli", *command)
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)


def test_history_is_in_the_order_in_which_the_ladder_was_climbed(root: Path, release: Release) -> None:
    climbed = ["Luna-G001", "failed/Luna-G002.1", "failed/Luna-G002.2", "Luna-G002", "Luna-G010", "failed/Luna-G011.10"]
    for tag in reversed(climbed):
        release(tag, *(["generalize"] if tag.startswith("failed/") else []))
    assert [one.tag for one in read_history(root)] == climbed


def test_later_attempts_come_later_even_after_the_ninth(root: Path, release: Release) -> None:
    for attempt in (10, 9):
        release(f"failed/Luna-G001.{attempt}", "recall")
    assert [one.attempt for one in read_history(root)] == [9, 10]


def test_a_generation_is_read_from_its_own_commit(root: Path, release: Release) -> None:
    commit = release("Luna-G001", metrics={"eval": '{"recall": 0.75}', "judge": '{"total": 3}', "other": "{}"})
    release("Luna-G002")
    (root / "generation.json").write_text("being written")
    first = read_history(root)[0]
    assert (first.name, first.tag, first.commit) == ("Luna-G001", "Luna-G001", commit)
    assert first.date == "2024-05-06T07:08:09+02:00"
    assert first.verdict == "PROMOTED"
    assert first.generation == _generation("Luna-G001", [])
    assert first.metrics == {"eval": {"recall": 0.75}, "judge": {"total": 3}}


def test_other_tags_are_no_generations(root: Path, release: Release) -> None:
    release("Luna-G001")
    release("Other-G002")
    _git(root, "tag", "Luna-G003")  # no annotation: somebody's bookmark
    _git(root, "tag", "-a", "Luna-G004-draft", "-m", "draft")
    _git(root, "tag", "-a", "failed/Luna-G004", "-m", "no attempt")
    _git(root, "rm", "-q", "generation.json")
    _git(root, "commit", "-q", "-m", "nothing here")
    _git(root, "tag", "-a", "Luna-G005", "-m", "holds no generation")
    assert [one.tag for one in read_history(root)] == ["Luna-G001"]


BROKEN = {
    "no JSON": ({"text": '{"generation": '}, r"generation\.json: is broken JSON \(.+\)"),
    "no object": ({"text": "[]"}, r"generation\.json: is no JSON object"),
    "another name": ({"generation": "Luna-G001"}, r"generation\.json: it is that of Luna-G001"),
    "no verdict": ({"verdict": None}, r"generation\.json: verdict: .+"),
    "no manifest": ({"manifest": {}}, r"generation\.json: manifest\.evolution_request: is missing"),
    "words for figures": ({"gates": {"recall": {"value": "high"}}}, r"generation\.json: gates\.recall\.value.*"),
    "broken metrics": ({"metrics": {"eval": "{"}}, r"metrics/eval\.json: is broken JSON \(.+\)"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_generation_is_one_line_that_names_the_tag(root: Path, release: Release, case: str) -> None:
    said, complaint = BROKEN[case]
    release("Luna-G001")
    release("Luna-G002", **said)
    with pytest.raises(HistoryError, match=rf"^Luna-G002: {complaint}; delete the tag or release .+$") as refused:
        read_history(root)
    assert "\n" not in str(refused.value)


def test_bytes_that_are_no_text_are_told_too(root: Path, release: Release) -> None:
    release("Luna-G001")
    (root / "generation.json").write_bytes(b"\xff\xfe{}")
    _git(root, "commit", "-qam", "spoilt")
    _git(root, "tag", "-a", "Luna-G002", "-m", "spoilt")
    with pytest.raises(HistoryError, match=r"^Luna-G002: "):
        read_history(root)


@pytest.mark.parametrize(
    ("tag", "complaint"),
    [("Luna-G009", "there is no git tag Luna-G009; run `git fetch --tags`"), ("main", "'main' names no generation")],
)
def test_one_release_that_is_not_there(root: Path, tag: str, complaint: str) -> None:
    with pytest.raises(HistoryError, match=complaint):
        read_release(root, tag)


def test_an_old_generation_that_says_less_is_still_on_the_ladder(root: Path, release: Release) -> None:
    whole = _generation("Luna-G001", [])
    less = {key: whole[key] for key in ("generation", "verdict", "failed", "manifest")} | {"gates": {}}
    release("Luna-G001", text=json.dumps(less))
    row = rows(read_history(root))[0]
    assert [row[key] for key in ("recall", "change", "convergence_rate", "examples")] == [None] * 4
    assert render(read_history(root)).splitlines()[1].split()[:5] == ["Luna-G001", "PROMOTED", "-", "-", "-"]


def test_the_table_tells_figures_wiring_and_why_some_were_refused(root: Path, release: Release) -> None:
    release("Luna-G001")
    release("failed/Luna-G002.1", "recall", "generalize")
    head, first, second = render(read_history(root)).splitlines()
    shared = ["0.750", "0.500", "+0.062", "[-0.013,", "+0.138]", "0.0123", "0", "0.875"]
    assert first.split() == ["Luna-G001", "PROMOTED", *shared, "sft+base", "1800", "2024-05-06"]
    ending = ["sft+parent", "1800", "2024-05-06", "recall,", "generalize"]
    assert second.split() == ["Luna-G002.1", "REJECTED", *shared, *ending]
    for column in ("wiring", "date"):
        assert first[head.index(column) - 1] == second[head.index(column) - 1] == " "
        assert " " not in (first[head.index(column)], second[head.index(column)])


@pytest.mark.parametrize(
    ("primary", "critic", "expected"),
    [
        ("Luna-G003", "Luna-G002", "parent+grandparent"),
        ("Luna-G001", "Luna-G003", "Luna-G001+parent"),
        ("Luna-G002", "Luna-G002", "grandparent+grandparent"),
    ],
)
def test_teachers_are_named_by_their_place(
    root: Path, release: Release, primary: str, critic: str, expected: str
) -> None:
    taught = [("primary", primary), ("stabilizing_critic", critic)]
    manifest = _generation("Luna-G004", [])["manifest"]
    teachers = [{"gen": gen, "role": role, "path": gen} for role, gen in reversed(taught)]
    release("Luna-G004", manifest={**manifest, "teachers": teachers})
    assert rows(read_history(root))[0]["wiring"] == expected


def test_the_first_generation_is_held_against_the_base(root: Path, release: Release) -> None:
    change = {"delta": 0.25, "low": 0.125, "high": 0.375}
    release("Luna-G001", evidence={"sft": {}, "base": {"generalize": change}})
    release("Luna-G002", evidence={"base": {"generalize": change}})  # a base is no parent
    assert [row["change"] for row in rows(read_history(root))] == [change, None]


# ---------------------------------------------------------------- the commands


def test_luna_ladder_prints_the_table(root: Path, release: Release) -> None:
    release("Luna-G001")
    done = _luna(root, "ladder")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == render(read_history(root)) + "\n"


def test_luna_ladder_as_json(root: Path, release: Release) -> None:
    release("Luna-G001")
    commit = release("failed/Luna-G002.1", "generalize")
    first, second = json.loads(_luna(root, "ladder", "--json").stdout)
    assert (first["recall"], first["law_violations"], first["failed"]) == (0.75, 0, [])
    assert (second["tag"], second["commit"], second["failed"]) == ("failed/Luna-G002.1", commit, ["generalize"])
    assert second["change"] == {"delta": 0.0625, "low": -0.0125, "high": 0.1375}


def test_luna_ladder_before_the_first_generation(root: Path) -> None:
    done = _luna(root, "ladder")
    assert (done.returncode, done.stdout) == (0, NOTHING_YET + "\n")
    assert json.loads(_luna(root, "ladder", "--json").stdout) == []


def test_luna_ladder_with_a_broken_tag_is_one_line(root: Path, release: Release) -> None:
    release("Luna-G001", text="{")
    done = _luna(root, "ladder")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("luna ladder: Luna-G001: generation.json: is broken JSON (")
    assert done.stderr.count("\n") == 1


def test_luna_manifest_of_a_tag_and_of_this_tree(root: Path, release: Release) -> None:
    release("Luna-G001")
    release("failed/Luna-G002.1", "recall")
    (root / "generation.json").write_text(json.dumps(_generation("Luna-G003", [])))
    for command, name in (
        (["Luna-G001"], "Luna-G001"),
        (["failed/Luna-G002.1"], "Luna-G002"),
        ([], "Luna-G003"),
    ):
        done = _luna(root, "manifest", *command)
        assert json.loads(done.stdout) == _generation(name, [])["manifest"], done.stderr


@pytest.mark.parametrize(
    ("command", "text", "complaint"),
    [
        (["Luna-G007"], None, "there is no git tag Luna-G007; run `git fetch --tags` or choose one of `luna ladder`"),
        ([], None, "generation.json: no such file; run `dvc repro`"),
        ([], "{}", "generation.json: manifest: is missing; run `dvc repro --force promote`"),
    ],
)
def test_luna_manifest_of_nothing_is_one_line(root: Path, command: list[str], text: str | None, complaint: str) -> None:
    if text:
        (root / "generation.json").write_text(text)
    done = _luna(root, "manifest", *command)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"luna manifest: {complaint}\n")


@pytest.mark.parametrize("command", ["ladder", "manifest"])
def test_help_answers_without_heavy_imports(command: str) -> None:
    timed = [sys.executable, "-X", "importtime", "-m", "luna.cli", command, "--help"]
    env = {**os.environ, "PYTHONPATH": str(REPO / "src")}
    done = subprocess.run(timed, env=env, capture_output=True, text=True, check=True)
    assert "Usage:" in done.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & HEAVY

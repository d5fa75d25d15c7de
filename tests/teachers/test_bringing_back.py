"""Earlier generations come back from their git tags, byte by byte, or not at all."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from luna.generations.at_tag import GenerationMissing
from luna.lm.weights import weights_sha256
from luna.settings import Settings
from luna.teachers.run import TEACHERS, bring_teachers

Make = Callable[..., Settings]
FOLDER = Path("models/teachers")


def _git(root: Path, *command: str) -> str:
    who = ["-c", "user.name=Luna", "-c", "user.email=luna@localhost", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(root), *who, *command], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _grow(root: Path, dvc: Any, tag: str, value: float, **said: Any) -> None:
    """One generation: weights that all hold `value`, its generation.json with the changes in `said`, commit and tag."""
    folder = root / "models" / "luna"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_file({"w": torch.full((4,), value)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"value": value}))
    generation = {"generation": tag, "weights_sha256": weights_sha256(folder), **said}
    generation = {name: value for name, value in generation.items() if value is not None}
    (root / "generation.json").write_text(json.dumps(generation))
    dvc.add(str(folder))
    _git(root, "add", "-A")
    _git(root, "commit", "-q", "-m", tag)
    _git(root, "tag", "-a", tag, "-m", tag)


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repo with two sound generations and some that lie; the work tree holds none of their weights."""
    from dvc.repo import Repo

    root = tmp_path_factory.mktemp("ladder") / "repo"
    root.mkdir()
    _git(root, "init", "-q", "-b", "main")
    with Repo.init(str(root)) as dvc:
        _grow(root, dvc, "Luna-G001", 1.0, eval_set_sha256="e" * 64)
        _grow(root, dvc, "Luna-G002", 2.0)
        _grow(root, dvc, "Luna-G003", 3.0, weights_sha256="0" * 64)
        _grow(root, dvc, "Luna-G004", 4.0, generation="Luna-G002")
        _grow(root, dvc, "Luna-G005", 5.0, weights_sha256=None)
    shutil.rmtree(root / "models" / "luna")
    return root


@pytest.fixture
def repo(ladder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the ladder to work in, the working directory at once."""
    root = tmp_path / "repo"
    shutil.copytree(ladder, root, symlinks=True)
    monkeypatch.chdir(root)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc"))
    return root


def _value(folder: Path) -> float:
    return float(load_file(folder / "model.safetensors")["w"][0])


def _refused(settings: Settings, root: Path) -> str:
    """The one line of the refusal, which leaves nothing behind."""
    with pytest.raises(GenerationMissing) as refused:
        bring_teachers(settings, root, FOLDER)
    assert "\n" not in str(refused.value)
    assert not FOLDER.exists()
    assert list(FOLDER.parent.glob(".teachers*")) == []
    return str(refused.value)


def test_parent_and_grandparent_come_back_from_their_tags(repo: Path, tiny_settings: Make) -> None:
    teachers = bring_teachers(tiny_settings({"parent": "Luna-G002", "grandparent": "Luna-G001"}), Path(), FOLDER)
    assert json.loads((FOLDER / TEACHERS).read_text()) == teachers
    for role, tag, value in (("parent", "Luna-G002", 2.0), ("grandparent", "Luna-G001", 1.0)):
        teacher = teachers[role]
        assert (teacher["gen"], teacher["source"]) == (tag, "tag")
        assert Path(teacher["path"]) == FOLDER / role
        assert _value(Path(teacher["path"])) == value
        assert teacher["weights_sha256"] == weights_sha256(Path(teacher["path"]))
        assert teacher["eval_set_sha256"] == {"Luna-G001": "e" * 64, "Luna-G002": None}[tag]
        assert json.loads((FOLDER / role / "config.json").read_text()) == {"value": value}


def test_the_same_tags_give_the_same_bytes(repo: Path, tiny_settings: Make) -> None:
    settings = tiny_settings({"parent": "Luna-G002", "grandparent": "Luna-G001"})
    first = bring_teachers(settings, Path(), FOLDER)
    before = {path: path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()}
    assert bring_teachers(settings, Path(), FOLDER) == first
    assert {path: path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()} == before


def test_without_parents_the_base_teaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_settings: Make) -> None:
    """No repository is needed for that."""
    monkeypatch.chdir(tmp_path)
    base = {"gen": None, "source": "base", "path": "models/base"}
    assert bring_teachers(tiny_settings(), Path(), FOLDER) == {"parent": base, "grandparent": base}
    assert json.loads((FOLDER / TEACHERS).read_text()) == {"parent": base, "grandparent": base}
    model = tiny_settings().preset.model.model_copy(update={"base": "some/model"})
    hub = tiny_settings(None, {"model": model, "pretrain": None})
    assert bring_teachers(hub, Path(), FOLDER)["parent"]["path"] == "some/model"


def test_the_first_grandparent_is_the_base(repo: Path, tiny_settings: Make) -> None:
    teachers = bring_teachers(tiny_settings({"parent": "Luna-G001"}), Path(), FOLDER)
    assert (teachers["parent"]["gen"], teachers["grandparent"]["source"]) == ("Luna-G001", "base")
    assert not (FOLDER / "grandparent").exists()


def test_a_repo_inside_without_tags_looks_above(
    repo: Path, tiny_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work trees of `dvc exp run --temp` are repositories of their own, without the tags."""
    inner = repo / ".dvc" / "tmp" / "exps" / "one"
    inner.mkdir(parents=True)
    _git(inner, "init", "-q")
    monkeypatch.chdir(inner)
    teachers = bring_teachers(tiny_settings({"parent": "Luna-G001"}), Path(), FOLDER)
    assert _value(Path(teachers["parent"]["path"])) == 1.0


@pytest.mark.parametrize("tag", ["Luna-G003", "Luna-G004"])
def test_a_generation_json_that_does_not_fit_its_weights_is_refused(repo: Path, tiny_settings: Make, tag: str) -> None:
    said = _refused(tiny_settings({"parent": tag}), Path())
    assert said.startswith(f"params.yaml: {tag}: the weights do not match its generation.json; ")


def test_a_generation_json_without_a_hash_is_refused(repo: Path, tiny_settings: Make) -> None:
    said = _refused(tiny_settings({"parent": "Luna-G005"}), Path())
    assert said.startswith("params.yaml: Luna-G005: ")


def test_weights_that_were_changed_in_the_cache_are_refused(repo: Path, tiny_settings: Make) -> None:
    for path in (repo / ".dvc" / "cache" / "files").rglob("*"):
        if path.is_file() and torch.full((4,), 1.0).numpy().tobytes() in path.read_bytes():
            path.chmod(0o644)
            path.write_bytes(path.read_bytes().replace(torch.full((4,), 1.0).numpy().tobytes(), bytes(16)))
    assert "Luna-G001" in _refused(tiny_settings({"parent": "Luna-G001"}), Path())


def test_a_tag_that_does_not_exist_is_named(repo: Path, tiny_settings: Make) -> None:
    assert _refused(tiny_settings({"parent": "Luna-G099"}), Path()) == (
        "params.yaml: there is no git tag Luna-G099; run `git fetch --tags`"
    )


def test_a_tag_that_was_moved_is_refused(repo: Path, tiny_settings: Make) -> None:
    settings = tiny_settings({"generation": "Luna-G002", "parent": "Luna-G001", "parent_sha256": "0" * 64})
    with pytest.raises(GenerationMissing, match=r"Luna-G001: the tag was moved .* sha256 to null"):
        bring_teachers(settings, repo, repo / "models" / "teachers")


def test_a_branch_or_a_commit_is_no_tag(repo: Path, tiny_settings: Make) -> None:
    for name in ("main", _git(repo, "rev-parse", "HEAD")):
        assert f"there is no git tag {name}" in _refused(tiny_settings({"parent": name}), Path())


def test_an_emptied_cache_says_how_to_fill_it(repo: Path, tiny_settings: Make) -> None:
    shutil.rmtree(repo / ".dvc" / "cache")
    said = _refused(tiny_settings({"parent": "Luna-G001"}), Path())
    assert said.startswith("params.yaml: Luna-G001: its weights are in no cache and no remote (")
    assert said.endswith("run `dvc fetch -T`, or `luna rebuild Luna-G001` if they are lost")


def test_a_failure_leaves_the_teachers_that_were_there(repo: Path, tiny_settings: Make) -> None:
    bring_teachers(tiny_settings({"parent": "Luna-G001"}), Path(), FOLDER)
    with pytest.raises(GenerationMissing):
        bring_teachers(tiny_settings({"parent": "Luna-G003"}), Path(), FOLDER)
    assert _value(FOLDER / "parent") == 1.0


def test_a_remote_stands_in_for_the_cache(repo: Path, tmp_path: Path, tiny_settings: Make) -> None:
    """The remote is added after the tag was made: what the tag's own config says does not count."""
    from dvc.repo import Repo

    remote = tmp_path / "remote"
    shutil.copytree(repo / ".dvc" / "cache" / "files", remote / "files")
    shutil.rmtree(repo / ".dvc" / "cache")
    with (repo / ".dvc" / "config").open("a") as config:
        config.write(f"[core]\n    remote = here\n['remote \"here\"']\n    url = {remote}\n")
    with Repo(str(repo)) as dvc:
        assert dvc.config["core"]["remote"] == "here"
    teachers = bring_teachers(tiny_settings({"parent": "Luna-G001"}), Path(), FOLDER)
    assert _value(Path(teachers["parent"]["path"])) == 1.0

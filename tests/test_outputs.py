"""A run that fails leaves what stood there before."""

import os
import subprocess
import sys

import pytest

from luna.outputs import read_json, replacing, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_new_file_takes_the_place_of_the_old(tmp_path):
    target = tmp_path / "deep" / "a.txt"
    for text in ("old", "new"):
        with replacing(target) as aside:
            aside.write_text(text)
    assert target.read_text() == "new"
    assert names(target.parent) == ["a.txt"]


def test_failing_block_keeps_the_old_file(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail():
        with replacing(target) as aside:
            aside.write_text("half")
            raise RuntimeError("the power went")

    with pytest.raises(RuntimeError, match="the power went"):
        fail()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_new_folder_takes_the_place_of_the_old_whole(tmp_path):
    target = tmp_path / "model"
    for name in ("a", "b"):
        with replacing(target) as aside:
            aside.mkdir()
            (aside / name).touch()
    assert names(target) == ["b"]
    assert names(tmp_path) == ["model"]


def test_failing_block_keeps_the_old_folder(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "weights").write_text("old")

    def fail():
        with replacing(target) as aside:
            aside.mkdir()
            (aside / "weights").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (target / "weights").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_block_that_writes_nothing_keeps_the_old_folder(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "weights").write_text("old")
    with pytest.raises(FileNotFoundError), replacing(target):
        pass
    assert (target / "weights").read_text() == "old"


@pytest.fixture
def dead():
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_killed_processes_left_is_cleared_and_what_living_ones_write_is_not(tmp_path, dead):
    target = tmp_path / "model"
    target.mkdir()
    cleared = [f".model.{dead}.new", f".model.{dead}.old", f".model.{os.getpid()}.new"]
    kept = [f".model.{os.getppid()}.new", f".model.tar.{dead}.new", ".model.backup.old"]
    for name in cleared + kept:
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").touch()
    with replacing(target) as aside:
        aside.mkdir()
    assert names(tmp_path) == sorted([*kept, "model"])


def test_a_folder_that_a_killed_process_had_moved_aside_comes_back(tmp_path, dead):
    (tmp_path / f".model.{dead}.old").mkdir()
    (tmp_path / f".model.{dead}.old" / "weights").write_text("old")
    (tmp_path / f".model.{dead}.new").mkdir()
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "model"):
        pass
    assert (tmp_path / "model" / "weights").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_json_keeps_order_and_umlauts_and_refuses_what_json_cannot_say(tmp_path):
    target = tmp_path / "m.json"
    write_json(target, {"b": "ü", "a": 0.5})
    assert target.read_text(encoding="utf-8") == '{\n  "b": "ü",\n  "a": 0.5\n}\n'
    assert read_json(target) == {"b": "ü", "a": 0.5}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(target, {"loss": float("nan")})
    assert read_json(target)["a"] == 0.5

"""Growing a released generation again: from its own commit, with its own code, to the same bytes."""

import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two_once(grown_once, tmp_path_factory):
    """Luna-G001 and Luna-G002 released. For copying only."""
    repo = grown_once.copy(tmp_path_factory.mktemp("two"))
    repo.must("luna", "grow")
    return repo


@pytest.fixture
def two(two_once, tmp_path: Path):
    """A repository of one's own with Luna-G001 and Luna-G002 released."""
    return two_once.copy(tmp_path)


def same_bytes(output: str) -> list[str]:
    return [line.split(":")[0] for line in output.splitlines() if ": the same bytes (" in line]


def test_a_generation_grows_to_the_same_bytes_and_leaves_no_trace(two):
    before = two.refs()
    assert same_bytes(two.must("luna", "rebuild", "Luna-G002")) == ["Luna-G002"]
    assert two.refs() == before
    assert two.must("git", "status", "--porcelain") == ""
    assert len(two.must("git", "worktree", "list").splitlines()) == 1


def test_in_a_clone_without_cache_and_remote_lost_ancestors_come_first(two, tmp_path: Path):
    clone = two.copy(tmp_path / "clone")
    shutil.rmtree(clone / ".dvc" / "cache")
    shutil.rmtree(clone / "models" / "luna")
    assert same_bytes(clone.must("luna", "rebuild", "Luna-G002")) == ["Luna-G001", "Luna-G002"]
    clone.must("dvc", "checkout")
    assert clone.weights() == two.weights()


def test_it_runs_the_code_of_its_own_commit(two):
    """A stage that was changed and committed after the release takes no part."""
    two.change("stages/make.py", "seed {params", "another seed {params")
    two.must("git", "commit", "-qam", "change a stage")
    assert same_bytes(two.must("luna", "rebuild", "Luna-G001")) == ["Luna-G001"]


def test_other_bytes_are_told_by_stage(two):
    """The stage is the same, what it finds on the machine is not."""
    two.change("stages/make.py", "text = f", "import os\ntext = os.environ.get('NOISE', '') + f")
    two.must("git", "commit", "-qam", "listen to the machine")
    two.must("luna", "grow")
    line = two.run("luna", "rebuild", "Luna-G003", env={"NOISE": "x"}).stderr.splitlines()[-1]
    assert line.startswith("luna rebuild: Luna-G003: make, promote: grew to other bytes than its commit says")


@pytest.mark.parametrize("tag", ["Luna-G009", "v1"])
def test_what_is_no_generation_is_refused(two, tag):
    two.must("git", "tag", "v1", "main~2")
    assert tag in two.refused("luna", "rebuild", tag)

"""Repositories in which growing would lose or mistake something: refused in one line that ends with the way out."""

import resource

import pytest


def clone(repo, *options):
    target = repo.root.parent / "clone"
    repo.must("git", "clone", "-q", *options, f"file://{repo.root}", str(target))
    copy = type(repo)(target)
    for key, value in (("user.name", "Luna"), ("user.email", "luna@localhost")):
        copy.must("git", "config", key, value)
    return copy


def test_a_shallow_clone(grown):
    shallow = clone(grown, "--depth", "1")
    said = shallow.refused("luna", "next")
    assert said.endswith("run `git fetch --unshallow --tags`")
    shallow.must("git", "fetch", "-q", "--unshallow", "--tags")
    shallow.must("luna", "next")


def test_a_clone_without_tags(ready):
    ready.must("luna", "release")
    bare = clone(ready, "--no-tags")
    bare.change("params.yaml", "generation: Luna-G002", "generation: Luna-G003")
    bare.change("params.yaml", "parent: Luna-G001", "parent: Luna-G002")
    assert bare.refused("luna", "release").endswith("there is no git tag Luna-G002; run `git fetch --tags`")


@pytest.mark.parametrize("command", ["next", "grow"])
def test_a_clone_without_tags_does_not_grow_again_what_is_released(ready, command):
    ready.must("luna", "release")
    bare = clone(ready, "--no-tags")
    assert bare.refused("luna", command).endswith("there is no git tag Luna-G001; run `git fetch --tags`")
    bare.must("git", "fetch", "-q", "--tags")
    assert "Luna-G003 is open" in bare.must("luna", "next")


@pytest.mark.parametrize("command", ["next", "release", "grow"])
def test_a_tag_that_was_set_by_hand_is_no_release(ready, command):
    ready.must("git", "tag", "Luna-G002")
    said = ready.refused("luna", command)
    assert said.endswith("Luna-G002: the tag stands on a commit that holds Luna-G001; run `git tag -d Luna-G002`")
    ready.must("git", "tag", "-d", "Luna-G002")
    ready.must("luna", "release")
    assert ready.tags() == ["Luna-G001", "Luna-G002"]


def test_growth_refuses_a_changed_stage_before_it_runs(grown):
    stage = grown / "stages" / "make.py"
    stage.write_text(stage.read_text() + "# changed\n")
    assert grown.refused("luna", "grow").endswith(
        "stages/make.py: the run depends on it and git does not have it; commit it first"
    )
    assert not grown.run("git", "diff", "--quiet", "HEAD", "--", "dvc.lock").returncode
    grown.must("git", "commit", "-q", "-am", "own")
    grown.must("luna", "grow")


def test_a_detached_head_names_the_branch(grown):
    grown.must("git", "checkout", "-q", "--detach")
    said = grown.refused("luna", "grow")
    assert said.endswith("run `git switch main`")
    grown.must("git", "switch", "-q", "main")
    grown.must("luna", "next")


def test_a_branch_that_is_behind_its_upstream(grown):
    behind = clone(grown)
    (grown / "news.txt").write_text("news")
    grown.must("git", "add", "news.txt")
    grown.must("git", "commit", "-q", "-m", "news")
    behind.must("git", "fetch", "-q")
    said = behind.refused("luna", "next")
    assert said == "luna next: the branch is 1 commits behind its upstream; run `git pull --ff-only`"
    behind.must("git", "pull", "-q", "--ff-only")
    behind.must("luna", "next")


def test_a_tag_that_stands_on_another_branch(grown):
    grown.must("git", "switch", "-q", "-c", "side", "Luna-G001^")
    said = grown.refused("luna", "next")
    assert said.endswith("Luna-G001 is no ancestor of this branch; switch to a branch that descends from it")


def test_the_next_name_is_taken_elsewhere(grown):
    grown.must("git", "switch", "-q", "-c", "side")
    grown.must("git", "commit", "-q", "--allow-empty", "-m", "side")
    grown.must("git", "tag", "Luna-G002")
    grown.must("git", "switch", "-q", "main")
    assert "the tag Luna-G002 exists already" in grown.refused("luna", "next")
    assert grown.must("git", "status", "--porcelain") == ""


def test_no_repository_at_all(repo):
    (repo / ".git").rename(repo / "moved")
    assert repo.refused("luna", "next").endswith("is no git repository with a commit; run from a clone of Luna")


@pytest.mark.parametrize("command", [("luna", "release"), ("luna", "grow")])
def test_nobody_to_commit_as(ready, command):
    for key in ("user.name", "user.email"):
        ready.must("git", "config", "--unset", key)
    ready.must("git", "config", "user.useConfigOnly", "true")
    nobody = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "EMAIL": ""}
    stood = ready.refs()
    said = ready.refused(*command, env=nobody)
    assert said.endswith("run `git config user.name NAME` and `git config user.email ADDRESS`")
    assert ready.refs() == stood


def small_files():
    """As on a full disk: no file of a kilobyte can be written."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))


@pytest.mark.parametrize("writer", ["dvc", "add", "commit-tree", "mktag", "update-ref"])
def test_no_room_for_the_release(ready, writer):
    stood, files = ready.refs(), {name: (ready / name).read_bytes() for name in ("dvc.lock", "params.yaml")}
    if writer == "dvc":
        said = ready.refused("luna", "release", preexec_fn=small_files)
    else:
        no_room = ready.git_that_first(writer, "trap '' XFSZ; ulimit -f 0")
        said = ready.refused("luna", "release", env=no_room)
    assert said.startswith(f"luna release: {'dvc status' if writer == 'dvc' else f'git {writer}'}: ")
    assert ready.refs() == stood
    assert {name: (ready / name).read_bytes() for name in files} == files
    ready.must("luna", "release")
    assert ready.must("git", "status", "--porcelain") == ""

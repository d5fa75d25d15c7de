"""Releasing: one commit and one tag of exactly the run's own files, and nothing of the user's touched."""

import json

import pytest

RUN_FILES = ["dvc.lock", "generation.json", "metrics/eval.json", "params.yaml"]


def committed(repo, ref):
    return repo.must("git", "diff-tree", "-r", "--no-commit-id", "--name-only", f"{ref}^{{commit}}").split()


def bytes_of(repo, names):
    return {name: (repo / name).read_bytes() for name in names}


def test_commit_and_annotated_tag_stand_together_and_hold_the_runs_files_alone(ready):
    said = ready.must("luna", "release")
    assert said == "Luna-G002: promoted, tagged Luna-G002\n"
    assert ready.must("git", "cat-file", "-t", "Luna-G002") == "tag\n"
    same = ready.must("git", "rev-parse", "main", "Luna-G002^{commit}").split()
    assert same[0] == same[1]
    assert ready.must("git", "rev-parse", "main^") == ready.must("git", "rev-parse", "Luna-G001^{commit}")
    assert committed(ready, "main") == RUN_FILES
    assert ready.must("git", "status", "--porcelain") == ""
    sha256 = json.loads((ready / "generation.json").read_text())["weights_sha256"]
    assert f"Luna-Weights-SHA256: {sha256}" in ready.must("git", "cat-file", "tag", "Luna-G002")


def make_own_changes(repo):
    """Staged, changed and unknown files of the user's; one is staged with other bytes than it has now."""
    (repo / "staged.txt").write_text("staged")
    repo.must("git", "add", "staged.txt")
    (repo / "staged.txt").write_text("staged, then changed")
    repo.change(".gitignore", "/.luna/", "/.luna/\n/own/")
    (repo / "notes.txt").write_text("notes")
    return ["staged.txt", ".gitignore", "notes.txt"]


@pytest.mark.parametrize("kind", ["ready", "failing"])
def test_the_users_own_changes_stay_as_they_were(kind, request):
    repo = request.getfixturevalue(kind)
    names = make_own_changes(repo)
    before = bytes_of(repo, names)
    code = repo.run("luna", "release").returncode
    assert code == (0 if kind == "ready" else 2)
    assert bytes_of(repo, names) == before
    assert repo.must("git", "status", "--porcelain").splitlines() == [" M .gitignore", "AM staged.txt", "?? notes.txt"]
    assert repo.must("git", "show", ":staged.txt") == "staged"
    tag = "Luna-G002" if kind == "ready" else "failed/Luna-G002.1"
    assert committed(repo, tag) == RUN_FILES


def test_a_second_release_says_the_same_and_changes_nothing(ready):
    first = ready.must("luna", "release")
    stood, files = ready.refs(), bytes_of(ready, RUN_FILES)
    assert ready.must("luna", "release") == first
    assert (ready.refs(), bytes_of(ready, RUN_FILES)) == (stood, files)


def test_a_run_that_is_not_up_to_date_is_refused(ready):
    stood = ready.refs()
    ready.change("params.yaml", "beta: 0.5", "beta: 0.7")
    assert ready.refused("luna", "release") == "luna release: make, promote: not up to date; run `dvc repro`"
    assert ready.refs() == stood


def test_a_changed_stage_that_is_not_committed_is_refused_by_name(ready):
    stood = ready.refs()
    stage = ready / "stages" / "make.py"
    stage.write_text(stage.read_text() + "# changed\n")
    ready.must("dvc", "repro", "-q")
    said = ready.refused("luna", "release")
    assert "stages/make.py: the run depends on it" in said
    assert said.endswith("commit it first")
    assert ready.refs() == stood
    ready.must("git", "commit", "-q", "-m", "own", "stages/make.py")
    ready.must("luna", "release")
    assert committed(ready, "Luna-G002") == RUN_FILES


def test_a_changed_preset_that_the_run_read_is_refused_by_name(ready):
    stages = (ready / "dvc.yaml").read_text()
    reads = "    params:\n    - presets/embedded.yaml:\n      - subject\n"
    (ready / "dvc.yaml").write_text(stages.replace("    params:\n", reads))
    ready.must("git", "commit", "-q", "-m", "read the preset", "dvc.yaml")
    preset = ready / "presets" / "embedded.yaml"
    preset.write_text(preset.read_text() + "# changed\n")
    ready.must("dvc", "repro", "-q")
    assert "presets/embedded.yaml: the run depends on it" in ready.refused("luna", "release")


def test_a_result_of_other_params_is_refused(ready):
    text = (ready / "generation.json").read_text()
    (ready / "generation.json").write_text(text.replace("Luna-G002", "Luna-G007"))
    ready.must("dvc", "commit", "-f", "-q")
    assert "is of another generation than params.yaml" in ready.refused("luna", "release")


def test_a_rejected_generation_is_kept_as_tag_and_experiment_and_the_tree_goes_back(failing, grown_once):
    done = failing.run("luna", "release")
    assert done.returncode == 2
    assert "rejected (recall), kept as failed/Luna-G002.1" in done.stdout
    assert failing.tags() == ["Luna-G001", "failed/Luna-G002.1"]
    assert failing.must("git", "rev-parse", "HEAD") == grown_once.must("git", "rev-parse", "HEAD")
    assert bytes_of(failing, RUN_FILES) == bytes_of(grown_once, RUN_FILES)
    assert failing.weights() == grown_once.weights()
    assert failing.must("git", "status", "--porcelain") == ""
    assert "up to date" in failing.must("dvc", "status")
    assert "failed-Luna-G002-1" in failing.must("dvc", "exp", "list")
    difference = json.loads(failing.must("dvc", "metrics", "diff", "--json", "Luna-G001", "failed/Luna-G002.1"))
    beta = difference["metrics/eval.json"]["beta"]
    assert (beta["old"], beta["new"]) == (0.5, 2.5)


def test_the_same_try_is_not_archived_twice(failing):
    files = bytes_of(failing, RUN_FILES)
    assert failing.run("luna", "release").returncode == 2
    stood = failing.refs()
    for name, data in files.items():  # a kill before the tree went back
        (failing / name).write_bytes(data)
    failing.must("dvc", "checkout", "-q")
    assert failing.run("luna", "release").returncode == 2
    assert failing.refs() == stood
    assert failing.must("git", "status", "--porcelain") == ""


def test_a_second_release_after_a_rejection_tells_of_it_again(failing):
    first = failing.run("luna", "release")
    stood, files = failing.refs(), bytes_of(failing, RUN_FILES)
    again = failing.run("luna", "release")
    assert (again.returncode, again.stdout) == (2, first.stdout)
    assert (failing.refs(), bytes_of(failing, RUN_FILES)) == (stood, files)


def test_a_rejection_that_was_made_up_for_is_told_no_more(failing):
    failing.run("luna", "release")
    failing.must("luna", "grow")
    assert failing.must("luna", "release") == "Luna-G002: promoted, tagged Luna-G002\n"
    failing.must("git", "switch", "-q", "-c", "older", "Luna-G001")
    assert failing.must("luna", "release") == "Luna-G001: promoted, tagged Luna-G001\n"


def test_a_rejected_first_generation_leaves_no_trace_in_the_tree(repo):
    repo.change("params.yaml", "beta: 0.5", "beta: 2.5")
    repo.must("dvc", "repro", "-q")
    assert repo.run("luna", "release").returncode == 2
    assert repo.tags() == ["failed/Luna-G001.1"]
    assert repo.must("git", "status", "--porcelain") == ""
    assert not (repo / "dvc.lock").exists()
    assert not (repo / "generation.json").exists()


def with_origin(repo):
    origin = repo.root.parent / "origin.git"
    repo.must("git", "init", "-q", "--bare", str(origin))
    repo.must("git", "remote", "add", "origin", str(origin))
    repo.must("git", "push", "-q", "-u", "origin", "main", "Luna-G001")
    return origin


def with_remote(repo):
    folder = repo.root.parent / "remote"
    folder.mkdir()
    repo.must("dvc", "remote", "add", "-q", "--local", "-d", "here", str(folder))
    return folder


def stored(folder):
    return sorted(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_push_that_fails_leaves_data_and_tag_here_and_is_made_up_for(ready):
    origin, remote = with_origin(ready), with_remote(ready)
    hook = origin / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    before = ready.must("git", "-C", str(origin), "for-each-ref")
    assert ready.refused("luna", "release", "--push").startswith("luna release: git push: ")
    assert ready.weights() in stored(remote)
    assert ready.tags() == ["Luna-G001", "Luna-G002"]
    assert ready.must("git", "-C", str(origin), "for-each-ref") == before
    hook.unlink()
    ready.must("luna", "release", "--push")
    names = ["refs/heads/main", "refs/tags/Luna-G002"]
    there = ready.must("git", "-C", str(origin), "rev-parse", *names)
    assert there == ready.must("git", "rev-parse", *names)


def test_growth_that_could_not_push_pushes_all_when_called_again(ready):
    origin = with_origin(ready)
    away = origin.rename(origin.with_name("away.git"))
    assert "git push" in ready.run("luna", "grow", "--push").stderr.splitlines()[-1]
    away.rename(origin)
    ready.must("luna", "grow", "--push")
    assert ready.must("git", "-C", str(origin), "tag").split() == ["Luna-G001", "Luna-G002"]


def test_nothing_is_released_if_the_data_cannot_be_pushed(ready):
    remote = with_remote(ready)
    remote.rmdir()
    remote.write_text("a file in the folder's place")
    stood, files = ready.refs(), bytes_of(ready, RUN_FILES)
    assert ready.refused("luna", "release").startswith("luna release: dvc push: ")
    assert (ready.refs(), bytes_of(ready, RUN_FILES)) == (stood, files)
    remote.unlink()
    ready.must("luna", "release")
    assert ready.weights() in stored(remote)

"""Opening, running and releasing generations, one after the other."""

import json

import pytest
import yaml

from luna.alone import alone

pytestmark = pytest.mark.slow


def params(root):
    return yaml.safe_load((root / "params.yaml").read_text())


def params_at(root, tag):
    return yaml.safe_load(root.must("git", "show", f"{tag}:params.yaml"))


def commit_params(root, old, new):
    root.change("params.yaml", old, new)
    root.must("git", "commit", "-q", "-m", "other params", "params.yaml")


def sha256_at(root, tag):
    return json.loads(root.must("git", "show", f"{tag}:generation.json"))["weights_sha256"]


def test_next_names_the_parent_and_the_hash_of_its_weights_and_keeps_all_else(grown):
    before = (grown / "params.yaml").read_text().splitlines()
    assert "Luna-G002 is open" in grown.must("luna", "next")
    after = (grown / "params.yaml").read_text().splitlines()
    sha256 = sha256_at(grown, "Luna-G001")
    assert [new for old, new in zip(before, after, strict=True) if old != new] == [
        "generation: Luna-G002",
        "parent: Luna-G001",
        f"parent_sha256: {sha256} # of their weights, written by `luna next`; null: take the tags' word",
    ]


def test_next_leaves_an_open_generation_as_it_is(grown):
    grown.must("luna", "next")
    grown.change("params.yaml", "beta: 0.5", "beta: 0.8")
    before, stood = (grown / "params.yaml").read_bytes(), grown.refs()
    assert "Luna-G002 is open" in grown.must("luna", "next")
    assert (grown / "params.yaml").read_bytes() == before
    assert grown.refs() == stood


def test_growing_two_tags_both_and_the_third_has_a_grandparent(repo):
    said = repo.must("luna", "grow", "2").splitlines()
    ends = [line for line in said if "promoted" in line]
    assert ends == ["Luna-G001: promoted, tagged Luna-G001", "Luna-G002: promoted, tagged Luna-G002"]
    assert repo.must("git", "rev-parse", "HEAD", "HEAD^") == repo.must(
        "git", "rev-parse", "Luna-G002^{commit}", "Luna-G001^{commit}"
    )
    repo.must("luna", "next")
    names = ("generation", "parent", "grandparent", "parent_sha256", "grandparent_sha256")
    hashes = [sha256_at(repo, tag) for tag in ("Luna-G002", "Luna-G001")]
    assert [params(repo)[name] for name in names] == ["Luna-G003", "Luna-G002", "Luna-G001", *hashes]
    assert hashes[0] != hashes[1]


def test_growth_that_was_interrupted_goes_on_to_the_same_goal(repo):
    stumble = '\nif params["generation"] == "Luna-G002": pathlib.Path(".luna/mended").read_text()\n'
    make = repo / "stages" / "make.py"
    make.write_text(make.read_text() + stumble)
    repo.must("git", "commit", "-q", "-m", "stumble", "stages/make.py")
    first = repo.run("luna", "grow", "2")
    assert first.returncode == 1
    assert first.stderr.splitlines()[-1].startswith("luna grow: dvc repro: a stage failed")
    assert repo.tags() == ["Luna-G001"]
    (repo / ".luna" / "mended").touch()
    assert "goes on to Luna-G002" in repo.must("luna", "grow", "5")
    assert repo.tags() == ["Luna-G001", "Luna-G002"]
    assert not (repo / ".luna" / "growing").exists()


def test_a_rejection_ends_growth_and_the_next_call_counts_the_try(grown):
    commit_params(grown, "beta: 0.5", "beta: 2.5")
    done = grown.run("luna", "grow", "3")
    assert done.returncode == 2, done.stderr
    last = "Luna-G002: rejected (recall), kept as failed/Luna-G002.1; this tree is at its parent again"
    assert done.stdout.splitlines()[-1] == last
    assert grown.tags() == ["Luna-G001", "failed/Luna-G002.1"]
    grown.must("luna", "next")
    assert (params(grown)["generation"], params(grown)["attempt"], params(grown)["seed"]) == ("Luna-G002", 2, 0)


def test_retries_are_archived_each_with_its_attempt_and_a_seed_of_its_own(grown):
    commit_params(grown, "beta: 0.5", "beta: 2.5")
    bytes_before = grown.weights()
    done = grown.run("luna", "grow", "--retries", "2")
    assert done.returncode == 2, done.stderr
    tries = [params_at(grown, f"failed/Luna-G002.{number}") for number in (1, 2, 3)]
    assert [attempt["attempt"] for attempt in tries] == [1, 2, 3]
    assert len({attempt["seed"] for attempt in tries}) == 3
    assert grown.tags() == ["Luna-G001", *(f"failed/Luna-G002.{n}" for n in (1, 2, 3))]
    assert grown.weights() == bytes_before


def test_a_retry_that_passes_goes_on(grown):
    grown.change("stages/promote.py", 'params["beta"] <= 1', 'params["attempt"] == 2')
    grown.must("git", "commit", "-q", "-m", "lucky", "stages/promote.py")
    said = grown.must("luna", "grow", "--retries", "1")
    assert "Luna-G002: rejected" in said
    assert said.splitlines()[-1] == "Luna-G002: promoted, tagged Luna-G002"
    assert (params(grown)["attempt"], params(grown)["seed"]) == (2, 1)


@pytest.mark.parametrize("moment", ["tagged", "restored"])
def test_a_rejection_whose_end_was_cut_off_still_ends_growth(failing, moment):
    kept = failing.weights()
    (failing / ".luna" / "growing").write_text("Luna-G003\nfailed/Luna-G002.1\n")
    run_files = {name: (failing / name).read_bytes() for name in ("dvc.lock", "params.yaml", "generation.json")}
    assert failing.run("luna", "release").returncode == 2
    if moment == "tagged":
        for name, data in run_files.items():
            (failing / name).write_bytes(data)
    (failing / "models" / "luna" / "model.safetensors").unlink()
    (failing / "models" / "luna" / "model.safetensors").write_bytes(kept)
    stood = failing.refs()
    done = failing.run("luna", "grow")
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("Luna-G002: rejected (recall), kept as failed/Luna-G002.1")
    assert failing.refs() == stood
    assert failing.weights().startswith(b"Luna-G001 of None")
    assert failing.must("git", "status", "--short") == ""
    assert not (failing / ".luna" / "growing").exists()


@pytest.mark.parametrize("command", ["next", "release", "grow"])
def test_two_at_once_take_turns(grown, command):
    stood = grown.refs(), (grown / "params.yaml").read_bytes()
    with alone(grown / ".luna" / "grow.lock", pytest.fail):
        second = grown.start("luna", command)
        assert second.stdout.readline() == "luna  another luna is at work here; waiting\n"
        assert (grown.refs(), (grown / "params.yaml").read_bytes()) == stood
    second.communicate()
    assert second.returncode == 0

"""After a kill -9 at any moment the next call ends where an undisturbed one does."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

GROWTHS, KILLS = 4, 3  # each growth is killed that often, at moments all over it


@dataclass(frozen=True)
class End:
    """All that must be the same, however often growing was killed."""

    tags: list[str]
    trees: str
    commits: str
    weights: bytes
    git_status: str
    dvc_status: str
    locks: list[str]


def end_of(repo):
    tags = repo.tags()
    return End(
        tags=tags,
        trees=repo.must("git", "rev-parse", "HEAD^{tree}", *(f"{tag}^{{tree}}" for tag in tags)),
        commits=repo.must("git", "log", "--format=%s %D"),
        weights=repo.weights(),
        git_status=repo.must("git", "status", "--porcelain"),
        dvc_status=repo.must("dvc", "status"),
        locks=[path.name for path in (repo / ".git").rglob("*.lock")],
    )


@pytest.fixture(scope="module")
def undisturbed(fresh, tmp_path_factory):
    """The end of an undisturbed growth and the seconds it takes."""
    repo = fresh.copy(tmp_path_factory.mktemp("undisturbed"))
    begin = time.monotonic()
    repo.must("luna", "grow", "2")
    return end_of(repo), time.monotonic() - begin


def kill(process, *, group):
    (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdout, process.stderr):
        pipe.close()


def grown_through_kills(repo, delays):
    """The end of a growth that is killed again and again: every other time all of its processes, else Luna alone."""
    for number, delay in enumerate(delays):
        process = repo.start("luna", "grow", "2", start_new_session=True)
        try:
            said = process.communicate(timeout=delay)
        except subprocess.TimeoutExpired:
            kill(process, group=number % 2 == 0)
        else:  # the machine was faster than before
            assert process.returncode == 0, said
            return end_of(repo)
    done = repo.run("luna", "grow", "2")
    assert done.returncode == 0, f"killed after {delays}: {done.stdout}{done.stderr}"
    return end_of(repo)


@pytest.mark.slow
def test_growth_that_is_killed_at_any_moment_ends_as_if_it_had_not_been(fresh, undisturbed, tmp_path):
    expected, seconds = undisturbed
    rng = random.Random(20)
    delays = [[rng.uniform(0, 0.45 * seconds) for _ in range(KILLS)] for _ in range(GROWTHS)]
    with ThreadPoolExecutor(2) as pool:
        repos = [fresh.copy(tmp_path / str(number)) for number in range(GROWTHS)]
        ends = list(pool.map(grown_through_kills, repos, delays))
    assert ends == [expected] * GROWTHS


def released_after_a_kill(repo, env):
    repo.run("luna", "release", env=env, start_new_session=True)
    repo.must("luna", "release")
    assert repo.tags() == ["Luna-G001", "Luna-G002"]
    assert repo.must("git", "rev-parse", "HEAD", "HEAD^") == repo.must(
        "git", "rev-parse", "Luna-G002^{commit}", "Luna-G001^{commit}"
    )
    assert repo.must("git", "status", "--porcelain") == ""
    assert not list((repo / ".git").rglob("*.lock"))


def test_locks_of_refs_that_a_killed_release_left_are_removed(ready):
    hook = ready / ".git" / "hooks" / "reference-transaction"
    hook.write_text('#!/bin/sh\n[ "$1" != prepared ] || kill -9 0\n')
    hook.chmod(0o755)
    ready.run("luna", "release", start_new_session=True)
    left = {path.name for path in (ready / ".git").rglob("*.lock")}
    assert left == {"HEAD.lock", "main.lock", "Luna-G002.lock"}
    hook.unlink()
    released_after_a_kill(ready, {})


def test_a_lock_of_the_index_that_a_killed_release_left_is_removed(ready):
    released_after_a_kill(ready, ready.git_that_first("reset", "touch .git/index.lock; kill -9 0"))


def test_a_branch_that_moved_without_its_tag_is_tagged_where_it_is(ready):
    ready.must("luna", "release")
    ready.must("git", "update-ref", "-d", "refs/tags/Luna-G002")
    released_after_a_kill(ready, {})


def test_a_lock_that_is_not_ours_is_left_alone_and_named(ready):
    lock = ready / ".git" / "index.lock"
    lock.touch()
    said = ready.refused("luna", "release")
    assert str(lock) in said
    assert said.endswith("wait for it, or remove the file if there is none")
    assert lock.exists()
    lock.unlink()
    released_after_a_kill(ready, {})


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_files_that_dvc_was_killed_while_writing_do_not_stop_the_next_call(ready, undisturbed, share):
    lock = (ready / "dvc.lock").read_text()
    (ready / "dvc.lock").write_text(lock[: int(share * len(lock))])
    (ready / ".dvc" / "tmp" / "rwlock").write_text('{"write": {"/'[: int(share * 13)])
    ready.must("luna", "grow")
    assert end_of(ready) == undisturbed[0]


def lock_for(repo, pid):
    """DVC's table of locks as a `dvc repro` of this number leaves it that is killed while it writes an output."""
    table = repo / ".dvc" / "tmp" / "rwlock"
    holder = {"pid": pid, "cmd": "dvc repro"}
    stage, model = str(repo / "stages" / "make.py"), str(repo / "models" / "luna")
    table.write_text(json.dumps({"read": {stage: [holder]}, "write": {model: holder}}))
    return table


def test_locks_of_a_killed_process_that_nobody_has_reaped_do_not_stop_the_next_call(grown):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as unreaped:
        lock_for(grown, unreaped.pid)
        unreaped.kill()
        os.waitid(os.P_PID, unreaped.pid, os.WEXITED | os.WNOWAIT)
        grown.must("luna", "grow")


def test_locks_of_a_process_whose_number_another_one_has_by_now_do_not_stop_the_next_call(grown):
    os.utime(lock_for(grown, os.getpid()), (0, 0))
    grown.must("luna", "grow")


def test_locks_of_a_process_at_work_are_respected(grown):
    lock_for(grown, os.getpid())
    assert f"(PID {os.getpid()})" in grown.run("luna", "grow").stderr
    assert grown.tags() == ["Luna-G001"]

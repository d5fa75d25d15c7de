"""A lock lives as long as a process that holds it, whoever that is and however it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from luna.alone import alone

SRC = Path(__file__).parents[1] / "src"

# Holds the lock, lets a child inherit it, says "held" and waits to be killed; the child ends when its stdin does.
HOLDER = """
import subprocess, sys, time
from pathlib import Path
from luna.alone import alone
with alone(Path(sys.argv[1]), lambda: print("waiting", flush=True)) as held:
    if sys.argv[2] == "child":
        subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], pass_fds=[held])
    print("held", flush=True)
    time.sleep(60)
"""


def hold(lock, child="none"):
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock), child],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def must_wait(lock):
    """True if somebody else has the lock; does not wait for it."""

    class Waited(Exception):
        pass

    def stop():
        raise Waited

    try:
        with alone(lock, stop):
            return False
    except Waited:
        return True


def test_the_folder_is_made_and_the_lock_is_free_after_the_block(tmp_path):
    lock = tmp_path / "deep" / "a.lock"
    with pytest.raises(RuntimeError), alone(lock, pytest.fail):
        raise RuntimeError
    assert not must_wait(lock)


def test_a_second_process_waits_and_goes_on_when_the_first_is_killed(tmp_path):
    lock = tmp_path / "a.lock"
    first = hold(lock)
    assert first.stdout.readline() == "held\n"
    second = hold(lock)
    assert second.stdout.readline() == "waiting\n"
    first.kill()
    assert second.stdout.readline() == "held\n"
    second.kill()
    for process in (first, second):
        process.communicate()


def test_a_child_that_inherits_the_lock_keeps_it_after_a_kill(tmp_path):
    lock = tmp_path / "a.lock"
    holder = hold(lock, "child")
    assert holder.stdout.readline() == "held\n"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert must_wait(lock)
    holder.communicate()  # the child's stdin ends, and so the child
    with alone(lock, lambda: None):
        pass
    assert not must_wait(lock)

"""Real processes that are killed, interrupted and run side by side: nothing is lost, nothing is paid twice."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from asking import ask

COUNT, AT_ONCE = 60, 6


@pytest.fixture
def asking(processes, chat_server, tmp_path):
    """Starts a process that asks for `COUNT` replies; how it ended stands in tmp_path/notes."""

    def start(**settings: Any) -> Any:
        endpoint = chat_server.endpoint(**{"concurrency": AT_ONCE, **settings}).model_dump()
        process = processes.Process(target=ask, args=(tmp_path, endpoint, COUNT, tmp_path / "notes"))
        process.start()
        return process

    return start


def _repeated(chat_server: Any) -> int:
    """How many calls were sent although the same one had been sent before."""
    return len(chat_server.requests) - len({body["messages"][-1]["content"] for body in chat_server.requests})


def _until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.002)


def _end_of(process: Any) -> int:
    process.join(30)
    assert process.exitcode is not None
    return process.exitcode


def test_a_kill_at_any_moment_repeats_at_most_the_calls_in_flight(asking, chat_server, tmp_path):
    chat_server.latency = 0.05
    rng = random.Random(5)
    for kills in range(1, 4):
        process, before = asking(), len(chat_server.requests)
        wanted = before + rng.randint(3, 15)
        _until(lambda wanted=wanted: len(chat_server.requests) >= wanted)
        time.sleep(rng.random() * 0.05)
        process.kill()
        assert _end_of(process) == -signal.SIGKILL
        _until(lambda: chat_server.running == 0)
        assert _repeated(chat_server) <= (kills - 1) * AT_ONCE
    assert _end_of(asking()) == 0
    assert _repeated(chat_server) <= 3 * AT_ONCE
    assert chat_server.counts["repeated"] == _repeated(chat_server)
    assert len(chat_server.requests) >= COUNT
    paid = len(chat_server.requests)
    assert _end_of(asking()) == 0
    assert len(chat_server.requests) == paid, "all is in the journal now"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupt_waits_for_what_is_out_and_repeats_nothing(asking, chat_server, tmp_path, number):
    chat_server.latency = 0.2
    # Half of the calls are asleep between tries when the signal comes; they must not be sent again.
    chat_server.choose = lambda body: "500" if body["seed"] % 2 and len(chat_server.requests) < 20 else "none"
    process = asking()
    _until(lambda: len(chat_server.requests) >= 15)
    os.kill(process.pid, number)
    assert _end_of(process) == 1
    kept = chat_server.counts["none"]
    assert len(chat_server.requests) <= 15 + AT_ONCE
    assert (tmp_path / "notes").read_text() == (
        f"teacher.model: hosted_vllm/m: interrupted; {kept} of {COUNT} replies are there and kept in "
        f"{tmp_path}/.luna/calls.sqlite; run it again to go on"
    )
    chat_server.choose = lambda body: "none"
    assert _end_of(asking()) == 0
    assert chat_server.counts["none"] == COUNT, "no answered call was repeated"


def test_two_processes_share_a_journal_and_pay_once(asking, chat_server):
    chat_server.latency = 0.02
    both = [asking(), asking()]
    assert [_end_of(process) for process in both] == [0, 0]
    assert len(chat_server.requests) == COUNT
    assert chat_server.most_at_once <= AT_ONCE


def test_two_processes_with_two_models_write_one_journal_at_once(asking, chat_server):
    chat_server.latency = 0.02
    both = [asking(), asking(model="hosted_vllm/other")]
    assert [_end_of(process) for process in both] == [0, 0]
    assert Counter(body["model"] for body in chat_server.requests) == {"m": COUNT, "other": COUNT}
    assert chat_server.most_at_once > AT_ONCE
    assert [_end_of(process) for process in (asking(), asking(model="hosted_vllm/other"))] == [0, 0]
    assert len(chat_server.requests) == 2 * COUNT


def test_what_a_killed_process_had_reserved_stays_spent(asking, chat_server, tmp_path):
    """Nobody knows what became of its calls, so a cap counts them in full."""
    chat_server.latency = 1.0
    asks = 8 + len("message 0") // 3 + 10  # tokens of a prompt and max_tokens
    cap = {"max_tokens": 10, "max_tokens_total": 8 * asks, "concurrency": 4}
    process = asking(**cap)
    _until(lambda: len(chat_server.requests) == 4)
    process.kill()
    _end_of(process)
    chat_server.latency = 0.0
    assert _end_of(asking(**cap)) == 1
    # 4 calls of 5 tokens each fit beside the 4 lost ones, and then as many as their real cost leaves room for.
    assert len(chat_server.requests) == 4 + 1 + (4 * asks - asks) // 5
    assert "max_tokens_total: " in (tmp_path / "notes").read_text()

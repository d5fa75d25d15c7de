"""How many calls are let in: fewer while the server pushes back, more again when it does not, so many a minute."""

import asyncio
import time
from itertools import pairwise

import pytest
from asking import requests as _requests

from luna.llm import admission
from luna.llm.admission import Admission
from luna.llm.calls import Failure
from luna.llm.client import Client
from luna.settings import Endpoint

ENDPOINT = Endpoint(model="m", concurrency=16)


def _outcomes(admitted: Admission, count: int, *, pushed_back: bool) -> None:
    async def one() -> None:
        slot = await admitted.enter(1)
        admitted.pushed_back(slot, None) if pushed_back else admitted.answered(slot, 1)
        admitted.leave()

    async def all_() -> None:
        for _ in range(count):
            await one()

    asyncio.run(all_())


def test_the_number_at_once_falls_under_pushback_and_recovers():
    admitted = Admission(ENDPOINT)
    _outcomes(admitted, 5, pushed_back=True)
    assert admitted.limit == 8
    _outcomes(admitted, 40, pushed_back=True)
    assert admitted.limit == 1
    _outcomes(admitted, 8, pushed_back=False)
    assert admitted.limit == 3
    _outcomes(admitted, 200, pushed_back=False)
    assert admitted.limit == 16


def test_a_few_refusals_among_many_replies_change_nothing():
    admitted = Admission(ENDPOINT)
    for _ in range(30):
        _outcomes(admitted, 7, pushed_back=False)
        _outcomes(admitted, 1, pushed_back=True)
    assert admitted.limit == 16


def test_one_burst_halves_once():
    """Calls that were out when the number fell say nothing about the lower number."""
    admitted = Admission(ENDPOINT)

    async def burst() -> None:
        slots = [await admitted.enter(1) for _ in range(16)]
        for slot in slots:
            admitted.pushed_back(slot, None)
            admitted.leave()

    asyncio.run(burst())
    assert admitted.limit == 8


def test_a_server_that_takes_four_at_once_gets_few_and_later_many(chat_server, monkeypatch):
    monkeypatch.setattr(admission, "FIRST_PAUSE", 0.1)
    chat_server.latency, chat_server.retry_after = 0.1, None
    chat_server.choose = lambda body: "429" if chat_server.running >= 4 else "none"
    client = Client(chat_server.endpoint(concurrency=32, max_retries=30))
    limits = []
    replies = client.ask_all(_requests(60), on_done=lambda count: limits.append(client._caller._admission.limit))
    assert not any(isinstance(reply, Failure) for reply in replies)
    assert sorted(limits[20:])[20] <= 12, "the median once it has settled"
    chat_server.choose = lambda body: "none"
    client.ask_all(_requests(150))
    assert client._caller._admission.limit >= 24


def test_a_pause_asked_of_everybody_is_everybodys(chat_server):
    chat_server.retry_after, chat_server.latency = 1.0, 0.02
    began = time.monotonic()
    chat_server.choose = lambda body: "429" if time.monotonic() < began + 0.5 else "none"
    Client(chat_server.endpoint(concurrency=4)).ask_all(_requests(30))
    assert not [at for at in chat_server.times if began + 0.4 < at < began + 1.0]
    assert chat_server.counts["429"] <= 6


def test_one_pause_is_that_calls_alone(chat_server):
    chat_server.retry_after = 1.0
    chat_server.faults = ["none", "429"]
    began = time.monotonic()
    Client(chat_server.endpoint(concurrency=2)).ask_all(_requests(20))
    assert sum(at < began + 0.9 for at in chat_server.times) == 20
    assert len(chat_server.requests) == 21


def test_a_few_refusals_in_a_wave_pause_nobody_else():
    """Of 32 calls sent at once three may be refused before any of the others has its reply."""
    admitted = Admission(ENDPOINT.model_copy(update={"concurrency": 32}))

    async def lets_in_after(refusals: int) -> bool:
        slots = [await admitted.enter(1) for _ in range(refusals)]
        for slot in slots:
            admitted.pushed_back(slot, 60.0)
            admitted.leave()
        try:
            await asyncio.wait_for(admitted.enter(1), 0.1)
        except TimeoutError:
            return False
        admitted.leave()
        return True

    assert asyncio.run(lets_in_after(3))
    assert not asyncio.run(lets_in_after(8))


def test_calls_that_are_tried_again_go_before_new_ones():
    admitted = Admission(ENDPOINT.model_copy(update={"concurrency": 1}))
    came: list[str] = []

    async def call(name: str, *, again: bool) -> None:
        await admitted.enter(1, again=again)
        came.append(name)
        await asyncio.sleep(0)
        admitted.leave()

    async def all_() -> None:
        await admitted.enter(1)
        async with asyncio.TaskGroup() as group:
            for name in ("new 1", "new 2", "again 1", "again 2"):
                group.create_task(call(name, again=name.startswith("again")))
            await asyncio.sleep(0.01)
            admitted.leave()

    asyncio.run(asyncio.wait_for(all_(), 5))
    assert came == ["again 1", "again 2", "new 1", "new 2"]


@pytest.mark.parametrize("others", [True, False])
def test_pauses_grow_only_where_others_get_no_reply_either(chat_server, monkeypatch, others):
    monkeypatch.setattr(admission, "FIRST_PAUSE", 0.2)
    chat_server.latency = 0.02
    unlucky = []

    def choose(body):
        if body["messages"][0]["content"] != "message 0":
            return "none"
        unlucky.append(time.monotonic())
        return "empty" if len(unlucky) <= 3 else "none"

    chat_server.choose = choose
    Client(chat_server.endpoint(concurrency=2)).ask_all(_requests(120 if others else 1))
    pauses = [later - earlier for earlier, later in pairwise(unlucky)]
    assert len(pauses) == 3
    assert (pauses[2] < 0.35) == others, pauses


def _let_in(admitted: Admission, count: int, guess: int, used: int) -> list[float]:
    """When calls are let in that are guessed to need so many tokens and turn out to need others."""

    async def all_() -> list[float]:
        times = []
        for _ in range(count):
            slot = await admitted.enter(guess)
            times.append(time.monotonic())
            admitted.answered(slot, used)
            admitted.leave()
        return times

    return asyncio.run(all_())


def test_requests_a_minute_are_kept(monkeypatch):
    monkeypatch.setattr(admission, "MINUTE", 0.3)
    times = _let_in(Admission(ENDPOINT.model_copy(update={"requests_per_minute": 5})), 13, 1, 1)
    assert all(later - earlier >= 0.29 for earlier, later in zip(times, times[5:], strict=False))
    assert times[-1] - times[0] < 1.5


def test_tokens_a_minute_are_kept_by_what_replies_have_used(monkeypatch):
    monkeypatch.setattr(admission, "MINUTE", 0.3)
    times = _let_in(Admission(ENDPOINT.model_copy(update={"tokens_per_minute": 40})), 5, guess=30, used=5)
    assert times[2] - times[0] < 0.2, "two replies of 5 tokens leave room for a guess of 30"
    assert times[3] - times[0] >= 0.29


def test_a_call_larger_than_the_minute_goes_alone(monkeypatch):
    monkeypatch.setattr(admission, "MINUTE", 0.1)
    assert len(_let_in(Admission(ENDPOINT.model_copy(update={"tokens_per_minute": 40})), 2, guess=90, used=90)) == 2


@pytest.mark.parametrize("ceiling", [1, 2])
def test_small_ceilings_never_close(ceiling):
    admitted = Admission(ENDPOINT.model_copy(update={"concurrency": ceiling}))
    _outcomes(admitted, 50, pushed_back=True)
    assert admitted.limit == 1
    _outcomes(admitted, 50, pushed_back=False)
    assert admitted.limit == ceiling

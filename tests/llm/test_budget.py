"""Caps that hold: over many calls at once, over restarts, over calls whose reply was lost."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from asking import requests as _requests
from hypothesis import given, settings
from hypothesis import strategies as st

from luna.errors import TeacherError
from luna.llm.budget import Budget, rate_of
from luna.llm.calls import Reply
from luna.llm.client import Client
from luna.llm.faults import Refusal, Setback
from luna.llm.journal import Journal, journal_file
from luna.settings import Endpoint, load_preset

PRESETS = sorted((Path(__file__).parents[2] / "presets").glob("*.yaml"))

# A reply of the test server has 3 + 2 tokens; a call is reserved with 8 + 3 + max_tokens.
PRICE = {"prompt": 1000.0, "completion": 1000.0}  # 5,000 USD a million calls: 0.005 USD each
RESERVED = 8 + 3 + 9


def _client(chat_server, root, **settings):
    return Client(
        chat_server.endpoint(price=PRICE, max_tokens=9, **settings), "teacher", Journal(journal_file(root)), "G1"
    )


@pytest.mark.parametrize(
    ("cap", "says"),
    [
        (
            {"max_usd": 0.1},
            r"teacher\.max_usd: 0\.0850 of 0\.1 USD are spent, a call may cost 0\.0200; 17 of 50 replies",
        ),
        (
            {"max_tokens_total": 100},
            r"teacher\.max_tokens_total: 85 of 100 tokens are used, a call may need 20; 17 of 50",
        ),
    ],
)
def test_a_cap_ends_the_run_in_one_line_and_keeps_what_came_in(chat_server, tmp_path, cap, says):
    chat_server.latency = 0.01
    with pytest.raises(TeacherError, match=says) as error:
        _client(chat_server, tmp_path, **cap).ask_all(_requests(50))
    assert "\n" not in str(error.value)
    assert str(error.value).endswith("and run again")
    assert len(chat_server.requests) == 17  # the largest number for which 5 * (n - 1) + RESERVED <= 100
    with pytest.raises(TeacherError, match="17 of 50"):
        _client(chat_server, tmp_path, **cap).ask_all(_requests(50))
    assert len(chat_server.requests) == 17, "the cap counts over restarts"


CALLS = st.tuples(st.integers(0, 30), st.sampled_from(["replied", "lost", "refused"]), st.integers(0, 3))


@settings(max_examples=15)  # each writes a journal of its own to the disk
@given(st.lists(CALLS, min_size=1, max_size=25), st.integers(1, 8), st.integers(20, 300))
def test_a_cap_is_never_exceeded_however_many_are_out_and_however_they_end(tmp_path_factory, calls, at_once, cap):
    """Replies take up to what was set aside for them, in any order; the journal counts what is out too."""
    journal = Journal(journal_file(tmp_path_factory.mktemp("run")))
    endpoint = Endpoint(model="m", max_tokens=30, max_tokens_total=cap)
    budget, request = Budget(endpoint, "teacher", None, journal, "G1"), _requests(1)[0]
    spent = []

    async def one(number: int, tokens: int, end: str, turns: int) -> None:
        async with slots:
            held = await budget.reserve(request)
            spent.append(journal.spent("G1/teacher")[0])
            for _ in range(turns):
                await asyncio.sleep(0)
            if end == "replied":
                budget.keep(held, str(number), Reply("text", request.tokens, tokens))
            else:
                budget.write_off(held, Setback("", lost=True) if end == "lost" else Refusal("", 400, False))

    async def all_() -> None:
        await asyncio.gather(*[one(number, *call) for number, call in enumerate(calls)], return_exceptions=True)
        spent.append(journal.spent("G1/teacher")[0])

    slots = asyncio.Semaphore(at_once)
    asyncio.run(all_())
    journal.close()
    assert max(spent) <= cap
    assert len(spent) > 1 or request.tokens + 30 > cap, "what fits is let in"


def test_a_reply_dearer_than_was_set_aside_is_the_last_one(chat_server, tmp_path):
    """The server counts more tokens than anybody could tell; what was out goes over the cap, and nothing after it."""
    client = _client(chat_server, tmp_path, max_tokens_total=2 * RESERVED, concurrency=1)
    kept = client._caller.budget.keep
    client._caller.budget.keep = lambda held, key, reply: kept(held, key, replace(reply, prompt_tokens=50))
    with pytest.raises(TeacherError, match="52 of 40 tokens are used"):
        client.ask_all(_requests(9))
    assert len(chat_server.requests) == 1


def test_more_room_goes_on_from_where_it_ended(chat_server, tmp_path):
    with pytest.raises(TeacherError):
        _client(chat_server, tmp_path, max_usd=0.1).ask_all(_requests(30))
    assert len(_client(chat_server, tmp_path, max_usd=1.0).ask_all(_requests(30))) == 30
    assert len(chat_server.requests) == 30


def test_another_generation_and_another_role_have_their_own(chat_server, tmp_path):
    endpoint = chat_server.endpoint(max_tokens=9, max_tokens_total=100)
    journal = Journal(journal_file(tmp_path))
    Client(endpoint, "teacher", journal, "G1").ask_all(_requests(17))
    for role, generation in (("judge", "G1"), ("teacher", "G2")):
        other = endpoint.model_copy(update={"temperature": float(len(role))})  # other requests
        other = other.model_copy(update={"max_tokens": 9, "model": f"hosted_vllm/{role}{generation}"})
        assert len(Client(other, role, journal, generation).ask_all(_requests(17))) == 17


def test_lost_replies_count_in_full_and_refused_calls_nothing(chat_server, tmp_path, short_pauses):
    chat_server.faults = ["429", "500", "reset", "truncated", "empty", "none"]
    _client(chat_server, tmp_path, max_usd=10.0, concurrency=1).ask_all(_requests(1))
    tokens, nano_usd = Journal(journal_file(tmp_path)).spent("G1/teacher")
    assert tokens == RESERVED + RESERVED + 5 + 5  # reset, truncated, empty (its usage is known), the reply
    assert nano_usd == tokens * 1_000_000


def test_a_server_that_is_not_there_costs_nothing(tmp_path, short_pauses):
    endpoint = Endpoint(model="hosted_vllm/m", api_base="http://127.0.0.1:9/v1", max_retries=3, max_tokens_total=100000)
    with pytest.raises(TeacherError, match="no reply in 4 tries"):
        Client(endpoint, "teacher", Journal(journal_file(tmp_path)), "G1").ask_all(_requests(1))
    assert Journal(journal_file(tmp_path)).spent("G1/teacher") == (0, 0)


def test_a_cap_in_usd_needs_a_price(chat_server):
    with pytest.raises(TeacherError, match=r"^teacher\.max_usd: nobody knows the price of hosted_vllm/m; write .*free"):
        Client(chat_server.endpoint(max_usd=1.0))
    assert Client(chat_server.endpoint(max_usd=1.0, price="free")).bill()["usd"] == 0.0


def test_an_unknown_price_is_unknown_in_the_metrics(chat_server):
    client = Client(chat_server.endpoint())
    client.ask_all(_requests(1))
    assert client.bill()["usd"] is None


def test_known_prices_come_from_litellm(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    rate = rate_of(Endpoint(model="openai/gpt-4o-mini"), "teacher")
    assert rate is not None
    assert rate.of(1_000_000, 1_000_000) == 750_000_000


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_the_prices_of_every_preset_are_known(path):
    preset = load_preset(path)
    judge = [] if preset.judge == "exact" else [preset.judge]
    for endpoint in [preset.teacher, *judge]:
        free = endpoint.model.startswith("luna-tutor/")
        assert free or endpoint.max_usd is not None
        assert rate_of(endpoint, "teacher", embedded=free) is not None


def test_sums_of_cost_do_not_depend_on_the_order_of_replies(chat_server, tmp_path):
    """Metrics are tracked by their bytes, and replies come in another order every time."""
    endpoint = chat_server.endpoint(price={"prompt": 0.1, "completion": 0.7}, concurrency=16)
    said = set()
    for run in range(3):
        client = Client(endpoint, "teacher", Journal(journal_file(tmp_path / str(run))))
        client.ask_all(_requests(40))
        said.add(repr(client.bill()))
    assert len(said) == 1

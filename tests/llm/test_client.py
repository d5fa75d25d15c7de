"""The client against a real server that fails in every way it is meant to survive, and in those it is not."""

import asyncio
import time
from email.utils import formatdate

import pytest

from luna.errors import TeacherError
from luna.llm import admission
from luna.llm.client import Client, Request
from luna.llm.faults import one_line, retry_after
from luna.settings import Endpoint


def _requests(n: int) -> list[Request]:
    return [Request([{"role": "user", "content": f"message {i}"}], seed=i) for i in range(n)]


pytestmark = pytest.mark.usefixtures("short_pauses")


def test_replies_keep_the_order_of_requests_and_usage_is_counted(chat_server):
    client = Client(chat_server.endpoint(temperature=0.3, max_tokens=77))
    done = []
    replies = client.ask_all(_requests(20), on_done=done.append)
    assert [reply.text for reply in replies] == [f"message {i}" for i in range(20)]
    assert sum(done) == 20
    assert (client.usage.calls, client.usage.prompt_tokens, client.usage.completion_tokens) == (20, 60, 40)
    body = chat_server.requests[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.3, 77)
    assert sorted(body["seed"] for body in chat_server.requests) == list(range(20))


@pytest.mark.parametrize("fault", ["429", "500", "503", "529", "reset", "truncated", "torn", "empty", "html", "slow"])
def test_a_passing_fault_is_retried(chat_server, fault):
    chat_server.faults = [fault, fault]
    client = Client(chat_server.endpoint(timeout=0.5))
    reply = client.ask_all(_requests(1))[0]
    assert reply.text == "message 0"
    assert client.usage.retries == 2
    assert client.usage.calls == 1


def test_many_faults_at_once_lose_nothing(chat_server):
    chat_server.faults = ["429", "500", "reset", "truncated", "empty"] * 3
    replies = Client(chat_server.endpoint(concurrency=8)).ask_all(_requests(40))
    assert [reply.text for reply in replies] == [f"message {i}" for i in range(40)]


def test_retry_after_is_honoured(chat_server):
    chat_server.faults = ["429"]
    Client(chat_server.endpoint()).ask_all(_requests(1))
    assert chat_server.times[1] - chat_server.times[0] >= 0.3


def test_a_sleeping_request_gives_its_slot_to_others(chat_server):
    chat_server.faults = ["429"]
    replies = Client(chat_server.endpoint(concurrency=1)).ask_all(_requests(4))
    assert len(replies) == 4
    assert chat_server.requests[-1]["messages"][0]["content"] == "message 0"
    assert chat_server.most_at_once == 1


def test_concurrency_is_the_endpoints(chat_server):
    chat_server.latency = 0.1
    started = time.monotonic()
    Client(chat_server.endpoint(concurrency=6)).ask_all(_requests(18))
    assert chat_server.most_at_once == 6
    assert time.monotonic() - started < 1.5


@pytest.mark.parametrize(
    ("fault", "words"), [("401", "key is refused"), ("404", "check judge.model"), ("400", "mend the settings")]
)
def test_a_refusal_fails_at_once_inone_line(chat_server, fault, words):
    chat_server.faults = [fault] * 10
    with pytest.raises(TeacherError) as error:
        Client(chat_server.endpoint(), role="judge").ask_all(_requests(1))
    assert len(chat_server.requests) == 1
    assert str(error.value).startswith("judge.model: hosted_vllm/m: HTTP " + fault)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_tries_are_bounded_and_the_error_says_what_happened(chat_server):
    chat_server.faults = ["500"] * 10
    with pytest.raises(TeacherError, match=r"no reply in 3 tries \(HTTP 500.*teacher\.concurrency"):
        Client(chat_server.endpoint(max_retries=2)).ask_all(_requests(1))
    assert len(chat_server.requests) == 3


def test_a_server_that_is_not_there_is_an_error_not_a_hang():
    endpoint = Endpoint(model="hosted_vllm/m", api_base="http://127.0.0.1:9/v1", max_retries=1)
    with pytest.raises(TeacherError, match="no reply in 2 tries"):
        Client(endpoint).ask_all(_requests(1))


def test_a_missing_key_is_named_before_any_call(chat_server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(TeacherError, match=r"^teacher\.model: openai/gpt-4o-mini needs OPENAI_API_KEY; export it"):
        Client(Endpoint(model="openai/gpt-4o-mini"))
    with pytest.raises(TeacherError, match="hosted_vllm"):
        Client(chat_server.endpoint(model="openai/m"))
    assert not chat_server.requests


def test_errors_hold_no_key(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "abcdefgh12345")
    assert one_line(ValueError("bad key abcdefgh12345\nsent"), 400) == "HTTP 400: bad key $SOME_API_KEY sent"
    assert len(one_line(ValueError("x" * 1000), None)) == 200


def test_a_reply_that_ran_into_max_tokens_says_so(chat_server):
    chat_server.faults = ["cut", "none"]
    client = Client(chat_server.endpoint())
    assert client.ask_all(_requests(1))[0].cut
    assert not client.ask_all(_requests(1))[0].cut


def test_one_client_serves_several_loops_and_async_callers(chat_server):
    chat_server.latency = 0.02
    client = Client(chat_server.endpoint(concurrency=2))
    for _ in range(3):
        assert len(client.ask_all(_requests(6))) == 6
    assert asyncio.run(client.ask_many(_requests(6)))[5].text == "message 5"


def test_retry_after_as_number_date_or_nonsense():
    assert retry_after({"Retry-After": "7"}) == 7.0
    assert 25 < retry_after({"retry-after": formatdate(time.time() + 30, usegmt=True)}) <= 30
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({"retry-after": "-3"}) == 0.0
    assert retry_after(None) is None


def test_the_cap_on_retry_after(monkeypatch):
    monkeypatch.setattr(admission, "LONGEST_RETRY_AFTER", 2.0)
    assert 2.0 <= admission.pause_before(1, 3600.0) <= 2.1
    assert admission.pause_before(50, None) <= admission.LONGEST_PAUSE

"""The protocol over real HTTP with a tiny real model: replies, refusals, keys, and a good end."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from luna.errors import LunaError
from luna.lm.chat import prompt_ids
from luna.lm.sample import Decoding, sample_replies
from luna.serve.server import ChatServer
from luna.serve.speaker import Speaker

QUESTION = [{"role": "user", "content": "What is 12+13?"}]
JSON = {"content-type": "application/json"}


def _ask(server: ChatServer, body: Any, headers: dict[str, str] = JSON, path: str = "/chat/completions") -> Any:
    """Status and body of an answer; a body of bytes is sent as it is, a dict with its model filled in."""
    host, port = server.server_address[:2]
    connection = HTTPConnection(str(host), port, timeout=60)
    if isinstance(body, dict):
        body = json.dumps({"model": server.speaker.name, "messages": QUESTION, **body})
    connection.request("GET" if body is None else "POST", f"/v1{path}", body, headers)
    answer = connection.getresponse()
    status, told = answer.status, json.loads(answer.read())
    connection.close()
    return status, told


def _text(server: ChatServer, **body: Any) -> str:
    status, told = _ask(server, body)
    assert status == 200, told
    return str(told["choices"][0]["message"]["content"])


def test_a_reply_is_the_models_own_and_its_tokens_are_counted(served: Any, speaker: Speaker) -> None:
    server = served(speaker)
    status, told = _ask(server, {"temperature": 0, "max_tokens": 9})
    prompt = prompt_ids(speaker.tokenizer, QUESTION)
    [expected] = sample_replies(speaker.model, speaker.tokenizer, [prompt], Decoding(0.0, 9), 0)
    assert (status, told["object"], told["model"]) == (200, "chat.completion", speaker.name)
    [choice] = told["choices"]
    assert choice["message"] == {"role": "assistant", "content": expected}
    assert choice["finish_reason"] == "length"
    assert told["usage"] == {"prompt_tokens": len(prompt), "completion_tokens": 9, "total_tokens": len(prompt) + 9}
    assert _ask(server, None, {}, "/models")[1]["data"][0]["id"] == speaker.name


def test_a_seed_gives_its_reply_whoever_else_asks(served: Any, speaker: Speaker) -> None:
    server = served(speaker)
    alone = [_text(server, seed=seed, max_tokens=12) for seed in range(8)]
    assert len(set(alone)) == 8
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda seed: _text(server, seed=seed, max_tokens=12), range(8)))
    assert together == alone
    assert _text(server, max_tokens=12) != _text(server, max_tokens=12), "without a seed, each reply has its own"
    assert _text(server, seed=1, temperature=0, max_tokens=12) == _text(server, temperature=0, max_tokens=12)


def test_a_reply_ends_before_a_stop(served: Any, speaker: Speaker) -> None:
    server = served(speaker)
    whole = _text(server, seed=3, max_tokens=30)
    middle = whole[len(whole) // 2 : len(whole) // 2 + 2]
    _, told = _ask(server, {"seed": 3, "max_tokens": 30, "stop": [middle, "never said"]})
    assert told["choices"][0]["message"]["content"] == whole[: whole.index(middle)]
    assert told["choices"][0]["finish_reason"] == "stop"
    assert told["usage"]["completion_tokens"] < 30, "nothing is drawn after it"


def test_a_reply_gets_what_room_the_context_leaves(served: Any, speaker: Speaker) -> None:
    prompt = prompt_ids(speaker.tokenizer, QUESTION)
    server = served(replace(speaker, context=len(prompt) + 5))
    for asked in ({"max_tokens": 4000}, {"max_completion_tokens": 4000}, {}):
        status, told = _ask(server, asked)
        assert (status, told["usage"]["completion_tokens"]) == (200, 5)
    status, told = _ask(server, {"messages": QUESTION * 3})
    assert (status, told["error"]["code"]) == (400, "context_length_exceeded")


BAD: list[tuple[dict[str, Any] | bytes, int, str]] = [
    (b"not JSON", 400, "the body is no JSON"),
    (b"\xff\xfe", 400, "the body is no JSON"),
    (b"[]", 400, "the body: "),
    ({"model": "other"}, 404, "there is no 'other' here; ask for "),
    ({"messages": []}, 400, "messages: "),
    ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0.role: "),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages.0.content: "),
    ({"temperature": -1}, 400, "temperature: "),
    ({"temperature": float("nan")}, 400, "temperature: "),
    ({"max_tokens": 0}, 400, "max_tokens: "),
    ({"seed": 2**80}, 400, "seed: "),
    ({"n": 2}, 400, "n: "),
    ({"stream": True}, 400, "stream: "),
    ({"top_p": 0.5}, 400, "top_p: "),
    ({"tools": []}, 400, "tools: is not known here; leave it out"),
]


@pytest.mark.parametrize(("body", "status", "says"), BAD)
def test_what_cannot_be_answered_is_refused_by_name(
    served: Any, speaker: Speaker, body: Any, status: int, says: str
) -> None:
    server = served(speaker)
    found, told = _ask(server, body)
    assert (found, told["error"]["type"]) == (status, "invalid_request_error")
    assert says in told["error"]["message"]
    assert not server.requests
    assert _text(server, n=1, top_p=1, stream=False, presence_penalty=0, user="me", max_tokens=2)


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        ({"content-type": "text/plain"}, "/chat/completions", 415),
        ({**JSON, "content-length": "many"}, "/chat/completions", 411),
        ({**JSON, "content-length": str(10**9)}, "/chat/completions", 413),
        ({**JSON, "host": "evil.example:80"}, "/chat/completions", 403),
        (JSON, "/completions", 404),
    ],
)
def test_what_is_no_request_of_ours_is_refused_unread(
    served: Any, speaker: Speaker, headers: dict[str, str], path: str, status: int
) -> None:
    server = served(speaker)
    found, told = _ask(server, b"{}", headers, path)
    assert (found, told["error"]["type"]) == (status, "invalid_request_error")
    assert not server.requests


def test_a_key_is_asked_for_where_there_is_one(served: Any, speaker: Speaker) -> None:
    server = served(speaker, key="open sesame")
    for headers in (JSON, {**JSON, "authorization": "Bearer open"}):
        status, told = _ask(server, {"max_tokens": 2}, headers)
        assert (status, told["error"]["code"]) == (401, "invalid_api_key")
        assert "sesame" not in str(told)
    assert _ask(server, {"max_tokens": 2}, {**JSON, "authorization": "Bearer open sesame"})[0] == 200


def test_others_than_this_machine_need_a_key(speaker: Speaker) -> None:
    with pytest.raises(LunaError, match=r"^--host: 0\.0\.0\.0 can be reached by others; export LUNA_SERVE_KEY"):
        ChatServer(speaker, "0.0.0.0", 0)
    ChatServer(speaker, "0.0.0.0", 0, key="k").server_close()


def test_a_port_that_is_taken_is_one_line(served: Any, speaker: Speaker) -> None:
    port = served(speaker).server_address[1]
    with pytest.raises(LunaError, match=rf"^127\.0\.0\.1:{port} is taken; give another --port$"):
        ChatServer(speaker, "127.0.0.1", port)


def test_a_model_that_fails_ends_one_request_alone(served: Any, speaker: Speaker, monkeypatch: Any) -> None:
    server = served(speaker)
    monkeypatch.setattr(speaker.model, "forward", None)
    status, told = _ask(server, {"max_tokens": 2})
    assert (status, told["error"]["type"]) == (500, "server_error")
    monkeypatch.undo()
    assert _text(server, max_tokens=2)


class Slow(Speaker):
    """Takes as long for a reply as the test wants."""

    begun, go_on = threading.Event(), threading.Event()

    def say(self, *given: Any, **more: Any) -> Any:
        self.begun.set()
        self.go_on.wait(60)
        return super().say(*given, **more)


def test_at_the_end_the_reply_under_way_is_sent_and_those_in_line_are_told(served: Any, speaker: Speaker) -> None:
    server = served(Slow(speaker.name, speaker.model, speaker.tokenizer, speaker.context))
    idle = HTTPConnection(*server.server_address[:2])
    idle.connect()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(_ask, server, {"max_tokens": 2})
        assert Slow.begun.wait(60)
        second = pool.submit(_ask, server, {"max_tokens": 2})
        while len(server.requests) < 2:
            time.sleep(0.01)
        server.end()
        Slow.go_on.set()
        assert (first.result()[0], second.result()[0]) == (200, 503)


def test_nothing_is_said_to_a_client_that_has_gone(served: Any, speaker: Speaker) -> None:
    Slow.begun.clear()
    Slow.go_on.clear()
    server = served(Slow(speaker.name, speaker.model, speaker.tokenizer, speaker.context))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(_ask, server, {"max_tokens": 2})
        assert Slow.begun.wait(60)
        gone = HTTPConnection(*server.server_address[:2])
        gone.request("POST", "/v1/chat/completions", json.dumps({"model": speaker.name, "messages": QUESTION}), JSON)
        while len(server.requests) < 2:
            time.sleep(0.01)
        gone.close()
        Slow.begun.clear()
        Slow.go_on.set()
        assert first.result()[0] == 200
    server.end()
    assert not Slow.begun.wait(0.5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_and_ends_in_good_order(tiny_model_folder: Path, number: int) -> None:
    command = [sys.executable, "-m", "luna.cli", "serve", str(tiny_model_folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        found = re.fullmatch(r"(model-\w{8}) answers at http://127\.0\.0\.1:(\d+)/v1 \(context 512 .*\); .*\n", first)
        assert found, first
        connection = HTTPConnection("127.0.0.1", int(found[2]), timeout=60)
        body = json.dumps({"model": found[1], "messages": QUESTION, "max_tokens": 3, "temperature": 0})
        connection.request("POST", "/v1/chat/completions", body, JSON)
        assert connection.getresponse().read()
        os.kill(process.pid, number)  # while the connection stays open
        rest = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert process.returncode == 0
    assert re.fullmatch(
        r"POST /v1/chat/completions  200  \d+ \+ 3 tokens  [\d.]+ s\nended; every reply that was begun is sent\n", rest
    )


def test_the_command_line_comes_without_what_is_heavy() -> None:
    heavy = ["torch", "transformers", "litellm", "pydantic", "http.server", "luna.serve.server"]
    check = f"import luna.cli, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

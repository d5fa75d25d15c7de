"""A tiny random model behind the real server, on loopback."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luna.serve.protocol import ChatRequest
from luna.serve.server import ChatServer
from luna.serve.speaker import Said, Speaker, load_speaker
from luna.settings import Endpoint


class Heard(ChatServer):
    """A server that remembers what it was asked."""

    def __init__(self, *given: Any, **more: Any) -> None:
        self.requests: list[ChatRequest] = []
        super().__init__(*given, **more)

    def ask(self, request: ChatRequest, is_gone: Callable[[], bool]) -> Said:
        self.requests.append(request)
        return super().ask(request, is_gone)

    def endpoint(self, **settings: Any) -> Endpoint:
        given = {"model": f"hosted_vllm/{self.speaker.name}", "api_base": self.api_base, "max_tokens": 12}
        return Endpoint.model_validate({**given, "concurrency": 4, **settings})


@pytest.fixture(scope="session")
def speaker(tiny_model_folder: Path) -> Speaker:
    """With room for the prompts of teachers and judges, which are longer than what the tiny model was made for."""
    return replace(load_speaker([str(tiny_model_folder)]), context=4096)


Serve = Callable[..., Heard]


@pytest.fixture
def served() -> Iterator[Serve]:
    """Serves a speaker from a thread until the test is over."""
    running: list[tuple[Heard, threading.Thread]] = []

    def start(speaker: Speaker, **settings: Any) -> Heard:
        server = Heard(speaker, "127.0.0.1", 0, **settings)
        thread = threading.Thread(target=server.run)
        thread.start()
        running.append((server, thread))
        return server

    yield start
    for server, thread in running:
        server.end()
        thread.join()

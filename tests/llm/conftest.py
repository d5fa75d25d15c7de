"""A chat server on loopback that fails on demand, and clients of it that are processes of their own."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luna.llm import admission
from luna.settings import Endpoint

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from fault_server import FaultServer


class ChatServer(FaultServer):
    def endpoint(self, **settings: Any) -> Endpoint:
        return Endpoint.model_validate(
            {"model": "hosted_vllm/m", "api_base": self.api_base, "timeout": 5.0, **settings}
        )


@pytest.fixture
def chat_server() -> Iterator[ChatServer]:
    server = ChatServer()
    server.start()
    yield server
    server.close()


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "FIRST_PAUSE", 0.02)

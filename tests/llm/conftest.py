"""A chat server on loopback that fails on demand, and processes that ask it."""

import multiprocessing
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luna.llm import admission
from luna.llm.transport import load_litellm
from luna.settings import Endpoint

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parents[1] / "benchmarks")]  # processes of the tests get this path too
from fault_server import FaultServer  # noqa: E402


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


@pytest.fixture(scope="session")
def processes() -> Any:
    """A maker of processes that have LiteLLM imported already, and so begin to ask at once."""
    load_litellm()  # sets what keeps its import off the network, for the processes too
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["litellm", "luna.llm.client"])
    return context

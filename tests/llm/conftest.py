"""A chat server on loopback that answers in OpenAI's protocol and fails on demand."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from luna.settings import Endpoint


class ChatServer:
    """Faults are taken from `faults` one a request; then every request is answered with its own last message."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.latency = 0.0
        self.running = self.most_at_once = 0
        self.lock = threading.Lock()
        self.http = _Http(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def endpoint(self, **settings: Any) -> Endpoint:
        port = self.http.server_address[1]
        return Endpoint.model_validate(
            {"model": "hosted_vllm/m", "api_base": f"http://127.0.0.1:{port}/v1", "timeout": 5.0, **settings}
        )

    def take_fault(self, body: dict[str, Any]) -> str:
        with self.lock:
            self.requests.append(body)
            self.times.append(time.monotonic())
            self.running += 1
            self.most_at_once = max(self.most_at_once, self.running)
            return self.faults.pop(0) if self.faults else "none"


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Lost connections are what the tests are about."""


def _handler(server: ChatServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            fault = server.take_fault(body)
            time.sleep(server.latency)
            try:
                self._answer(body, fault)
            finally:
                with server.lock:
                    server.running -= 1

        def _answer(self, body: dict[str, Any], fault: str) -> None:
            if fault == "reset":
                self.connection.close()
                return
            if fault.isdigit():
                self._send(int(fault), json.dumps({"error": {"message": f"fault {fault}"}}), {"retry-after": "0.3"})
                return
            if fault == "slow":
                time.sleep(1.0)
            text = "" if fault == "empty" else body["messages"][-1]["content"]
            reason = "length" if fault == "cut" else "stop"
            reply = json.dumps(
                {
                    "id": "x",
                    "object": "chat.completion",
                    "created": 1,
                    "model": "m",
                    "choices": [
                        {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text}}
                    ],
                    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
                }
            )
            self._send(200, reply[: len(reply) // 2] if fault == "truncated" else reply, {})

        def _send(self, status: int, text: str, headers: dict[str, str]) -> None:
            data = text.encode()
            self.send_response(status)
            for name, value in {
                **headers,
                "content-type": "application/json",
                "content-length": str(len(data)),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    return Handler


@pytest.fixture
def chat_server() -> Iterator[ChatServer]:
    server = ChatServer()
    yield server
    server.http.shutdown()
    server.http.server_close()

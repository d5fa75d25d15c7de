"""A chat server on loopback that answers in OpenAI's protocol and fails on demand.

    python benchmarks/fault_server.py --latency 0.3 --shares 429=0.05 --shares 500=0.05

prints its port and serves until it is killed; `GET /counts` tells what was asked and how it was answered. The n-th time
that a text is asked it meets the same fault, whoever asks and in whatever order. Tests run `FaultServer` in a thread of
their own and choose faults one by one.
"""

import asyncio
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

HTML = "<html><body><h1>502 Bad Gateway</h1></body></html>"


class FaultServer:
    """Answers every request with what `say` makes of it, its own last message by default, unless a fault is due.

    Faults: an HTTP status (429, 500, ...), `reset` (the connection breaks), `truncated` (half of the JSON), `torn`
    (the connection breaks within the reply), `empty`, `html` (a page instead of JSON), `slow` (a second late), `cut`
    (finish_reason length).

    Attributes:
        faults: taken one a request, before `choose` is asked.
        choose: the fault of a request, by its body.
        retry_after: what a 429 or 503 asks for, in seconds; None: nothing.
        requests: the bodies, if `remember`; `times` when they came.
        counts: requests by fault (`none` included), `all`, `paid` (no error status answers it, though the reply may
            break on its way) and `repeated` (paid although the same messages had been paid before).
    """

    def __init__(self, latency: float = 0.0, *, remember: bool = True) -> None:
        self.latency = latency
        self.remember = remember
        self.faults: list[str] = []
        self.choose: Callable[[dict[str, Any]], str] = lambda body: "none"
        self.say: Callable[[dict[str, Any]], str] = lambda body: str(body["messages"][-1]["content"])
        self.retry_after: float | None = 0.3
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.counts: Counter[str] = Counter()
        self._paid: set[int] = set()
        self.running = self.most_at_once = self.port = 0
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve(self._ready.set)), daemon=True)
        self._ready = threading.Event()

    def start(self) -> "FaultServer":
        """Serve from a thread."""
        self._thread.start()
        self._ready.wait()
        return self

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()

    @property
    def api_base(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def serve(self, ready: Callable[[], None]) -> None:
        """Serve until it is closed; `ready` is called once the port is known."""
        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        ready()
        await self._closing.wait()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                if head.startswith("get /counts"):
                    _send(writer, 200, json.dumps(self.counts))
                    continue
                length = int(head.partition("content-length:")[2].partition("\r\n")[0])
                body = json.loads(await reader.readexactly(length))
                if not body["messages"]:  # some clients ask this to read limits from the headers; it costs nothing
                    _send(writer, 400, json.dumps({"error": {"message": "messages: must not be empty"}}))
                elif not await self._answer(body, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()

    async def _answer(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        """True if the connection lives on."""
        fault = self.faults.pop(0) if self.faults else self.choose(body)
        self._note(body, fault)
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        await asyncio.sleep(self.latency + (fault == "slow"))
        self.running -= 1
        reply = _reply(self.say(body), fault)
        if fault == "reset":
            return _break(writer)
        if fault == "torn":
            _send(writer, 200, reply, shown=len(reply) // 2)
            await writer.drain()
            return _break(writer)
        if fault.isdigit():
            waits = fault in ("429", "503") and self.retry_after is not None
            asked = {"retry-after": str(self.retry_after)} if waits else {}
            _send(writer, int(fault), json.dumps({"error": {"message": f"fault {fault}"}}), asked)
        elif fault == "html":
            _send(writer, 200, HTML)
        else:
            _send(writer, 200, reply[: len(reply) // 2] if fault == "truncated" else reply)
        return True

    def _note(self, body: dict[str, Any], fault: str) -> None:
        self.counts[fault] += 1
        self.counts["all"] += 1
        if not fault.isdigit():
            said = hash(str(body["messages"]))
            self.counts["paid"] += 1
            self.counts["repeated"] += said in self._paid
            self._paid.add(said)
        if self.remember:
            self.requests.append(body)
            self.times.append(time.monotonic())


def _reply(said: str, fault: str) -> str:
    text = "" if fault == "empty" else said
    choice = {
        "index": 0,
        "finish_reason": "length" if fault == "cut" else "stop",
        "message": {"role": "assistant", "content": text},
    }
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    whole = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(whole)


def _send(
    writer: asyncio.StreamWriter, status: int, text: str, more: dict[str, str] | None = None, shown: int | None = None
) -> None:
    data = text.encode()
    head = {"content-type": "application/json", "content-length": str(len(data)), **(more or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    writer.write(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + data[:shown])


def _break(writer: asyncio.StreamWriter) -> bool:
    """End the connection with a reset."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--retry-after", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shares", action="append", default=[], help="FAULT=SHARE, as often as needed")
    given = parser.parse_args()
    names, shares = zip(*[share.split("=") for share in given.shares], strict=True) if given.shares else ((), ())
    weights = [float(share) for share in shares]
    asked: Counter[str] = Counter()

    def draw(body: dict[str, Any]) -> str:
        text = str(body["messages"][-1]["content"])
        asked[text] += 1
        rng = random.Random(f"{given.seed} {asked[text]} {text}")
        fault: str = rng.choices([*names, "none"], [*weights, 1 - sum(weights)])[0]
        return fault

    server = FaultServer(given.latency, remember=False)
    server.retry_after = given.retry_after
    server.choose = draw
    asyncio.run(server.serve(lambda: print(server.port, flush=True)))


if __name__ == "__main__":
    main()

"""The HTTP server: connections have threads of their own, and the model has one, which answers in turn.

One request after the other, so that a seed gives the same reply whatever else is asked.
"""

import errno
import hmac
import json
import select
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from queue import Empty, SimpleQueue
from random import Random
from typing import Any, NamedTuple
from weakref import WeakSet

from luna.errors import LunaError
from luna.progress import say
from luna.serve.protocol import ChatRequest, Json, Refused, completion, model_list, read_request
from luna.serve.speaker import ContextFull, Said, Speaker

LARGEST_BODY = 4 << 20  # bytes
IDLE = 120.0  # seconds after which a silent connection is closed
LONGEST_WAIT = 0.2  # seconds until a signal is seen
ENDING = "the server is ending; ask again later"


class _Job(NamedTuple):
    """A request in line, where its answer goes, and whether its client has gone meanwhile."""

    request: ChatRequest
    answer: "Future[Said]"
    is_gone: Callable[[], bool]


class ChatServer(ThreadingHTTPServer):
    """Serves a speaker.

    Args:
        host: a name or address of this machine; one that others can reach needs a key.
        port: 0 takes a free one.
        key: what clients have to send as a bearer token; None: nobody is asked.
        seed: requests without a seed get one after the other from it.

    Raises:
        LunaError: the address cannot be had, or is open to others and there is no key.
    """

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, speaker: Speaker, host: str, port: int, key: str | None = None, seed: int = 0) -> None:
        self.speaker = speaker
        self.key = key
        self.loopback = is_loopback(host)
        if not self.loopback and not key:
            raise LunaError(f"--host: {host} can be reached by others; export LUNA_SERVE_KEY, which they have to send")
        self._seeds = Random(seed)
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._joining = threading.Lock()
        self._ending = False
        self._connections: WeakSet[socket.socket] = WeakSet()
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            taken = "is taken; give another --port" if error.errno == errno.EADDRINUSE else f"cannot be had ({error})"
            raise LunaError(f"{host}:{port} {taken}") from error

    @property
    def api_base(self) -> str:
        """The address that clients are given."""
        host, port = self.server_address[:2]
        name = f"[{host!s}]" if self.address_family == socket.AF_INET6 else str(host)
        return f"http://{name}:{port}/v1"

    def run(self) -> None:
        """Answer until `end` is called; the model runs in the thread that calls this."""
        accepting = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1})
        accepting.start()
        try:
            while (job := self._next()) is not None:
                self._work(job)
        finally:
            self.shutdown()
            accepting.join()
            for connection in list(self._connections):
                with suppress(OSError):  # it is closed already
                    connection.shutdown(socket.SHUT_RD)  # those that wait for a next request see the end
            self.server_close()  # waits until every answer is written

    def end(self) -> None:
        """Let `run` return after the reply that it is at; those in line are told to come again. For signals too."""
        with self._joining:
            self._ending = True
            self._jobs.put(None)

    def ask(self, request: ChatRequest, is_gone: Callable[[], bool]) -> Said:
        """The reply to a request, when its turn has come."""
        answer: Future[Said] = Future()
        with self._joining:
            if self._ending:
                raise Refused(503, ENDING)
            self._jobs.put(_Job(request, answer, is_gone))
        return answer.result()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def _next(self) -> _Job | None:
        """The next job, None at the end; in short waits, as a signal that comes just as one begins does not end it."""
        while True:
            with suppress(Empty):
                return self._jobs.get(timeout=LONGEST_WAIT)

    def _work(self, job: _Job) -> None:
        try:
            if self._ending:
                raise Refused(503, ENDING)
            if job.is_gone():
                raise Refused(499, "the client has gone")
            job.answer.set_result(self._reply(job.request))
        except Exception as error:  # noqa: BLE001  # whatever one request runs into must not end the others
            job.answer.set_exception(error)

    def _reply(self, request: ChatRequest) -> Said:
        seed = self._seeds.getrandbits(31) if request.seed is None else request.seed
        try:
            return self.speaker.say(
                request.turns,
                temperature=request.sampling,
                max_tokens=request.most_tokens,
                seed=seed,
                stop=request.stops,
            )
        except ContextFull as error:
            raise Refused(400, f"messages: {error}", "context_length_exceeded", "messages") from error
        except ValueError as error:
            raise Refused(400, f"messages: {error}", param="messages") from error


def is_loopback(host: str) -> bool:
    """True if only this machine can reach an address."""
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer
    protocol_version = "HTTP/1.1"
    server_version = "Luna"
    sys_version = ""
    timeout = IDLE
    disable_nagle_algorithm = True  # head and body are two writes, and the second would wait for the first's receipt

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, make: Callable[[], Json]) -> None:
        began = time.monotonic()
        try:
            self._refuse_strangers()
            status, body = 200, make()
        except Refused as refused:
            status, body = refused.status, refused.body()
        except Exception as error:  # noqa: BLE001  # whatever the model ran into is told to whoever asked
            reason = " ".join(str(error).split())[:200]
            status, body = 500, Refused(500, f"{type(error).__name__}: {reason}").body()
        if status >= 400 and self.command == "POST":
            self.close_connection = True  # the body may be unread, and would be taken for the next request
        with suppress(ConnectionError):  # the client has gone
            self._send(status, body)
        self._log(status, body, time.monotonic() - began)

    def _get(self) -> Json:
        if self.path != "/v1/models":
            raise Refused(404, f"there is no {self.path} here; GET /v1/models or POST /v1/chat/completions")
        return model_list(self.server.speaker.name)

    def _post(self) -> Json:
        if self.path != "/v1/chat/completions":
            raise Refused(404, f"there is no {self.path} here; GET /v1/models or POST /v1/chat/completions")
        name = self.server.speaker.name
        said = self.server.ask(read_request(self._body(), name), self._is_gone)
        return completion(said, name)

    def _body(self) -> bytes:
        # A page in a browser may send anything here but JSON without asking first.
        if self.headers.get_content_type() != "application/json":
            raise Refused(415, "the body must be JSON; send content-type: application/json")
        length = self.headers.get("content-length", "")
        if not length.isdecimal():
            raise Refused(411, "the body must come in one piece; send content-length")
        if int(length) > LARGEST_BODY:
            raise Refused(413, f"the body has {length} bytes, more than {LARGEST_BODY}; make it shorter")
        return self.rfile.read(int(length))

    def _refuse_strangers(self) -> None:
        """Whoever lacks the key, and on loopback pages of the web whose names were pointed at this machine."""
        host = self.headers.get("host", "localhost")
        if self.server.loopback and not is_loopback(host if host.endswith("]") else host.rpartition(":")[0] or host):
            raise Refused(403, f"host: {host} is not this machine; ask {self.server.api_base}")
        given = self.headers.get("authorization", "").removeprefix("Bearer ")
        if self.server.key is not None and not hmac.compare_digest(given.encode(), self.server.key.encode()):
            raise Refused(401, "the key is missing or wrong; send authorization: Bearer KEY", "invalid_api_key")

    def _is_gone(self) -> bool:
        """True if the client closed the connection while it stood in line."""
        with suppress(OSError):
            readable, _, _ = select.select([self.connection], [], [], 0)
            return bool(readable) and self.connection.recv(1, socket.MSG_PEEK) == b""
        return True

    def _send(self, status: int, body: Json) -> None:
        data = json.dumps(body, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def _log(self, status: int, body: Json, seconds: float) -> None:
        """A line without a word of what was said."""
        usage = body.get("usage")
        tokens = f"  {usage['prompt_tokens']} + {usage['completion_tokens']} tokens" if usage else ""
        why = f"  {body['error']['message']}" if "error" in body else ""
        say(f"{self.command} {self.path}  {status}{tokens}  {seconds:.2f} s{why}")

    def log_message(self, format: str, *args: Any) -> None:
        """Said by `_log`, once a request."""

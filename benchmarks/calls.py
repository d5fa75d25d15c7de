"""What Luna's client adds to bare LiteLLM: time, CPU, memory, and what comes through a server that fails.

    python benchmarks/calls.py

starts a server of its own (fault_server.py, another process) for each row and a fresh process for each client, and
prints a Markdown table:

* `ideal` is calls x latency / concurrency; `bare LiteLLM` is `acompletion(max_retries=0)` under a semaphore;
* `CPU` is that of the client's process from the first call to the last, after one call that warms it up;
* `faults` answers 5 % with 429 (Retry-After 2 s), 5 % with 500, and 3 % each with a reset, half a JSON, an empty text;
* `again` runs the same requests once more on the journal of the row above;
* `growth` is how much the process grew between a tenth of the calls and the last.
"""

import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any
from urllib.request import urlopen

import typer

HERE = Path(__file__).resolve().parent
FAULTS = {"429": 0.05, "500": 0.05, "reset": 0.03, "truncated": 0.03, "empty": 0.03}
PROMPT = "Write a problem about trains. " * 10

app = typer.Typer(add_completion=False)


@app.command()
def compare(latency: float = 0.3, calls: int = 500, many: int = 10_000, seed: int = 0) -> None:
    """Run every row and print the table, row by row."""
    columns = ["run", "client", "at once", "calls", "sent", "usable", "seconds", "of ideal", "CPU ms/call", "growth MB"]
    print("| " + " | ".join(columns) + " |\n| --- | --- |" + " ---: |" * (len(columns) - 2), flush=True)
    for at_once, count in ((32, calls), (128, 4 * calls)):
        for client in ("bare LiteLLM", "Luna"):
            _run(["clean"], client, at_once, count, latency, {}, seed)
    _run(["faults", "again"], "Luna", 32, calls, latency, FAULTS, seed)
    _run(["many"], "Luna", 128, many, 0.05, {}, seed)


def _run(
    kinds: list[str], client: str, at_once: int, calls: int, latency: float, faults: dict[str, float], seed: int
) -> None:
    """One server, and on it one process for each kind of run; prints their rows."""
    shares = [f"--shares={fault}={share}" for fault, share in faults.items()]
    command = [sys.executable, str(HERE / "fault_server.py"), f"--latency={latency}", f"--seed={seed}", *shares]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
    ):
        try:
            assert server.stdout is not None
            port, sent = int(server.stdout.readline()), 0
            for kind in kinds:
                asked = [sys.executable, __file__, "ask", client, str(port), str(at_once), str(calls), folder]
                told = json.loads(subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True).stdout)
                before, sent = sent, _sent(port)
                ratio = "" if kind == "again" else f"{told['seconds'] * at_once / (calls * latency):.2f}"
                cells = [kind, client, at_once, calls, sent - before, told["usable"], f"{told['seconds']:.2f}", ratio]
                cells += [f"{1000 * told['cpu'] / calls:.2f}", f"{told['growth']:.1f}"]
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)
        finally:
            server.kill()


def _sent(port: int) -> int:
    """How many calls the server has had, those that warmed a client up included."""
    with urlopen(f"http://127.0.0.1:{port}/counts") as counts:
        all_: int = json.load(counts)["all"]
    return all_


@app.command()
def ask(client: str, port: int, at_once: int, calls: int, folder: Annotated[Path, typer.Argument()]) -> None:
    """One client against a server that runs; prints what it measured as JSON."""
    run = {"Luna": _luna, "bare LiteLLM": _bare}[client]
    print(json.dumps(run(f"http://127.0.0.1:{port}/v1", at_once, calls, folder)))


class _Gauge:
    """Time and CPU since it was made, and memory since a tenth of the calls was done."""

    def __init__(self, calls: int) -> None:
        self.began, self.cpu = time.monotonic(), time.process_time()
        self.tenth, self.done, self.early = calls // 10, 0, 0

    def count(self, done: int = 1) -> None:
        self.done += done
        if self.done == self.tenth:
            self.early = _peak()

    def read(self, usable: int) -> dict[str, Any]:
        seconds, cpu = time.monotonic() - self.began, time.process_time() - self.cpu
        return {"usable": usable, "seconds": seconds, "cpu": cpu, "growth": (_peak() - self.early) / 1024}


def _peak() -> int:
    """The largest resident size so far, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _messages(number: int) -> list[Any]:
    return [{"role": "user", "content": f"{number}: {PROMPT}"}]


def _luna(base: str, at_once: int, calls: int, folder: Path) -> dict[str, Any]:
    from luna.llm.client import Client, Reply, Request
    from luna.llm.journal import Journal, journal_file
    from luna.settings import Endpoint

    endpoint = Endpoint(model="hosted_vllm/m", api_base=base, concurrency=at_once, price="free", max_tokens=256)
    client = Client(endpoint, "teacher", Journal(journal_file(folder)), "benchmark")
    requests = [Request(_messages(i), seed=i) for i in range(calls)]
    Client(endpoint).ask_all([Request(_messages(-1))])
    gauge = _Gauge(calls)
    replies = client.ask_all(requests, on_done=gauge.count)
    return gauge.read(sum(isinstance(reply, Reply) for reply in replies))


def _bare(base: str, at_once: int, calls: int, folder: Path) -> dict[str, Any]:
    from luna.llm.transport import load_litellm

    litellm = load_litellm()
    settings = {"model": "hosted_vllm/m", "api_base": base, "max_tokens": 256, "max_retries": 0, "timeout": 120.0}

    async def all_() -> list[Any]:
        slots = asyncio.Semaphore(at_once)

        async def one(number: int) -> Any:
            async with slots:
                answer = await litellm.acompletion(messages=_messages(number), seed=number, **settings)
            gauge.count()
            return answer

        return await asyncio.gather(*[one(number) for number in range(calls)], return_exceptions=True)

    asyncio.run(litellm.acompletion(messages=_messages(-1), **settings))
    gauge = _Gauge(calls)
    answers = asyncio.run(all_())
    return gauge.read(sum(not isinstance(answer, BaseException) for answer in answers))


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "ask":
        app()
    else:
        app(["compare", *sys.argv[1:]])

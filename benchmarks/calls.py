"""What Luna's client adds to bare LiteLLM: time, CPU, memory, and what comes through a server that fails.

    python benchmarks/calls.py

starts a server of its own (fault_server.py, another process) for each row and a fresh process for each client, and
prints a Markdown table:

* `ideal` is calls x latency / concurrency; `bare LiteLLM` is `acompletion(max_retries=0)` under a semaphore;
* `CPU` is that of the client's process from the first call to the last, after one call that warms it up;
* `faults` answers 5 % with 429 (Retry-After 2 s), 5 % with 500, and 3 % each with a reset, half a JSON, an empty text;
  a row for each seed of the faults, since one call that meets two 429 late decides how long all takes;
* `again` runs the same requests once more on the journal of the row above;
* `growth` is how much the process grew between a tenth of the calls and the last.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from measuring import (
    FAULTS,
    MAX_TOKENS,
    TIMEOUT,
    Gauge,
    counts,
    measured,
    prompt,
    serving,
    table_head,
    table_row,
    usable,
)

app = typer.Typer(add_completion=False)


@app.command()
def compare(latency: float = 0.3, calls: int = 500, many: int = 10_000, seed: int = 0, fault_seeds: int = 5) -> None:
    """Run every row and print the table, row by row."""
    columns = ["run", "client", "at once", "calls", "sent", "usable", "seconds", "of ideal", "CPU ms/call", "growth MB"]
    print(table_head(columns, 2), flush=True)
    for at_once, count in ((32, calls), (128, 4 * calls)):
        for client in ("bare LiteLLM", "Luna"):
            _run(["clean"], client, at_once, count, latency, {}, seed)
    for other in range(seed, seed + fault_seeds):
        _run(["faults", "again"], "Luna", 32, calls, latency, FAULTS, other)
    _run(["many"], "Luna", 128, many, 0.05, {}, seed)


def _run(
    kinds: list[str], client: str, at_once: int, calls: int, latency: float, faults: dict[str, float], seed: int
) -> None:
    """One server, and on it one process for each kind of run; prints their rows."""
    with tempfile.TemporaryDirectory() as folder, serving(latency, faults, seed) as port:
        sent = 0
        for kind in kinds:
            subprocess.run(
                [sys.executable, __file__, "ask", client, str(port), str(at_once), str(calls), folder], check=True
            )
            told = measured(Path(folder))
            before, sent = sent, counts(port)["all"]
            ratio = "" if kind == "again" else f"{told['seconds'] * at_once / (calls * latency):.2f}"
            cells = [kind, client, at_once, calls, sent - before, usable(Path(folder)), f"{told['seconds']:.2f}", ratio]
            cells += [f"{1000 * told['cpu'] / calls:.2f}", f"{told['growth']:.1f}"]
            print(table_row(cells), flush=True)


@app.command()
def ask(
    client: str,
    port: int,
    at_once: int,
    calls: int,
    folder: Annotated[Path, typer.Argument()],
    warm: Annotated[bool, typer.Option(help="Make one call before the clock starts.")] = True,
) -> None:
    """One client against a server that runs; leaves rows.jsonl and measured.json in the folder."""
    run = {"Luna": _luna, "bare LiteLLM": _bare}[client]
    run(f"http://127.0.0.1:{port}/v1", at_once, calls, folder, warm)


def _messages(number: int) -> list[Any]:
    return [{"role": "user", "content": prompt(number)}]


def _luna(base: str, at_once: int, calls: int, folder: Path, warm: bool) -> None:
    from luna.llm.client import Client, Reply, Request
    from luna.llm.journal import Journal, journal_file
    from luna.llm.transport import load_litellm
    from luna.settings import Endpoint

    load_litellm()
    endpoint = Endpoint(model="hosted_vllm/m", api_base=base, concurrency=at_once, price="free", max_tokens=MAX_TOKENS)
    if warm:
        Client(endpoint).ask_all([Request(_messages(-1))])
    gauge = Gauge(calls)
    client = Client(endpoint, "teacher", Journal(journal_file(folder)), "benchmark")
    replies = client.ask_all([Request(_messages(i), seed=i) for i in range(calls)], on_done=gauge.count)
    gauge.write(folder, {i: reply.text for i, reply in enumerate(replies) if isinstance(reply, Reply)})


def _bare(base: str, at_once: int, calls: int, folder: Path, warm: bool) -> None:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    litellm.suppress_debug_info = True
    settings: dict[str, Any] = {"model": "hosted_vllm/m", "api_base": base, "max_retries": 0}
    settings["max_tokens"] = MAX_TOKENS
    settings["timeout"] = TIMEOUT

    async def all_() -> list[Any]:
        slots = asyncio.Semaphore(at_once)

        async def one(number: int) -> str | None:
            async with slots:
                answer = await litellm.acompletion(messages=_messages(number), seed=number, **settings)
            gauge.count()
            text: str | None = answer.choices[0].message.content
            return text

        return await asyncio.gather(*[one(number) for number in range(calls)], return_exceptions=True)

    if warm:
        asyncio.run(litellm.acompletion(messages=_messages(-1), **settings))
    gauge = Gauge(calls)
    texts = asyncio.run(all_())
    gauge.write(folder, {i: text for i, text in enumerate(texts) if not isinstance(text, BaseException)})


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "ask":
        app()
    else:
        app(["compare", *sys.argv[1:]])

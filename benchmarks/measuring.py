"""What calls.py and peers.py share: a server, the prompts, and what a client writes of its run.

Peers import this in environments of their own, so it needs nothing but the standard library. A client is a script that
takes PORT AT_ONCE CALLS FOLDER and leaves two files in the folder: `rows.jsonl`, what it got, and `measured.json`.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

HERE = Path(__file__).resolve().parent
FAULTS = {"429": 0.05, "500": 0.05, "reset": 0.03, "truncated": 0.03, "empty": 0.03}
MAX_TOKENS = 256
TIMEOUT = 120.0


def prompt(number: int) -> str:
    """The text of a call; the server answers with the same."""
    return f"{number}: " + "Write a problem about trains. " * 10


@contextmanager
def serving(latency: float, faults: Mapping[str, float], seed: int) -> Iterator[int]:
    """A fault server in a process of its own; gives its port."""
    shares = [f"--shares={fault}={share}" for fault, share in faults.items()]
    command = [sys.executable, str(HERE / "fault_server.py"), f"--latency={latency}", f"--seed={seed}", *shares]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield int(server.stdout.readline())
        finally:
            server.kill()


def counts(port: int) -> dict[str, int]:
    """What the server has been asked so far."""
    with urlopen(f"http://127.0.0.1:{port}/counts") as answer:
        found: dict[str, int] = json.load(answer)
    return {"all": 0, "paid": 0, "repeated": 0} | found


class Gauge:
    """Time and CPU since it was made, that of ended child processes included, and memory since a tenth of the calls."""

    def __init__(self, calls: int) -> None:
        self.calls, self.done, self.early = calls, 0, 0
        self.began, self.cpu = time.monotonic(), _cpu()

    def count(self, done: int = 1) -> None:
        self.done += done
        if self.done == self.calls // 10:
            self.early = _peak()

    def write(self, folder: Path, texts: Mapping[int, str | None]) -> None:
        """Write the rows that have a text, and only then stop the clock; `texts` are by number of the call."""
        with (folder / "rows.jsonl").open("w") as file:
            for number, text in texts.items():
                if text:
                    file.write(json.dumps({"number": number, "text": text}) + "\n")
        seconds, cpu = time.monotonic() - self.began, _cpu() - self.cpu
        told = {"seconds": seconds, "cpu": cpu, "growth": (_peak() - self.early) / 1024}
        (folder / "measured.json").write_text(json.dumps(told))


def usable(folder: Path) -> int:
    """How many of the rows a client wrote are whole and right."""
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    return len({row["number"] for row in rows if row["text"] == prompt(row["number"])})


def measured(folder: Path) -> dict[str, float]:
    """Seconds, CPU seconds and growth in MiB of the client that ended last."""
    told: dict[str, float] = json.loads((folder / "measured.json").read_text())
    return told


def arguments(argv: Sequence[str]) -> tuple[str, int, int, Path]:
    """The server's address, how many calls at once, how many in all, and the folder of a client script."""
    port, at_once, calls, folder = argv[1:]
    return f"http://127.0.0.1:{port}/v1", int(at_once), int(calls), Path(folder)


def table_row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def table_head(columns: Sequence[str], texts: int) -> str:
    """Names of the columns and the line below; the first `texts` of them are not numbers."""
    return table_row(columns) + "\n" + table_row(["---"] * texts + ["---:"] * (len(columns) - texts))


def _cpu() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def _peak() -> int:
    """The largest resident size so far, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

"""Luna's client beside bare LiteLLM, curator and distilabel: clean, through a server that fails, and killed.

    python benchmarks/peers.py --work /tmp/peers

gives each peer an environment of its own under `--work` (made once, with pip), then lets everybody make the same calls
to the same server, in turns, `--rounds` times, and prints one Markdown table of medians:

* `clean`; `faults`: 5 % 429 (Retry-After 2 s), 5 % 500, 3 % each reset, half a JSON, empty text, and everybody meets
  the same faults; `killed`: the client and its children are killed with SIGKILL within the run and started again;
* `usable` rows are in the file that the client wrote, with the right text;
* `seconds` run from the end of the imports to the written rows, `process s` from start to end of the process; `of
  ideal` is seconds over calls x latency / at once; `killed` shows the second process;
* `CPU` is that of the client and its children, from the end of the imports on;
* `paid` are the calls that reached the server and got no error status, and `repeated` are those of them whose prompt
  had been paid before.

Peers run with their documented settings that do best here: ten retries, their own caches, no limit but calls at once.
distilabel loses a batch if one reply is no JSON, so `faults` shows it with four processes and smaller batches, too.
LiteLLM stands bare, without retries and with nothing to restart from. Telemetry is off, and nothing is downloaded but
packages.
"""

import math
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import typer
from measuring import FAULTS, HERE, counts, measured, serving, table_head, table_row, usable

QUIET = {
    "DO_NOT_TRACK": "1",
    "TELEMETRY_ENABLED": "false",  # curator's
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "DISTILABEL_LOG_LEVEL": "ERROR",
    "OMP_NUM_THREADS": "1",
}
KINDS = ("clean", "faults", "killed")
COLUMNS = ["run", "client", "usable", "seconds", "of ideal", "process s", "CPU ms/call", "paid", "repeated"]


@dataclass(frozen=True)
class Peer:
    """A package with a client script; `packages` are what pip is told, versions of its time where it needs them."""

    name: str
    script: str
    packages: tuple[str, ...]


PEERS = (
    Peer("curator 0.1.31", "peer_curator.py", ("bespokelabs-curator==0.1.31", "openai==2.30.0", "datasets==3.6.0")),
    Peer(
        "distilabel 1.5.3",
        "peer_distilabel.py",
        (
            *("distilabel[openai]==1.5.3", "openai==1.61.0", "datasets==3.2.0"),
            *("huggingface_hub==0.28.1", "pydantic==2.10.6"),
        ),
    ),
)


@dataclass(frozen=True)
class Load:
    """What everybody has to do; latency and patience are in seconds."""

    calls: int
    at_once: int
    latency: float
    seed: int
    patience: float


@dataclass
class Outcome:
    """What one process did; its times are None if it hung or failed, and `trouble` says which."""

    usable: int = 0
    seconds: float | None = None
    process: float | None = None
    cpu: float | None = None
    paid: int = 0
    repeated: int = 0
    trouble: str = ""


@dataclass
class Client:
    """How to start a client: its command takes PORT AT_ONCE CALLS FOLDER."""

    name: str
    command: list[str]
    options: list[str] = field(default_factory=list)
    kinds: tuple[str, ...] = KINDS

    @contextmanager
    def started(self, load: Load, port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
        """The client's process; at the end it is killed, and whatever it started."""
        numbers = [str(number) for number in (port, load.at_once, load.calls)]
        command = [*self.command, *numbers, str(folder), *self.options]
        environment = os.environ | QUIET | {"HOME": str(folder)}
        with (folder / "log").open("a") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main(
    work: Annotated[Path, typer.Option(help="Where the peers' environments are kept.")],
    calls: int = 500,
    at_once: int = 32,
    latency: float = 0.3,
    rounds: int = 3,
    seed: int = 0,
    patience: Annotated[float, typer.Option(help="A client that makes no call for so many seconds hangs.")] = 20.0,
) -> None:
    """Install, run in turns, print the table."""
    ours = [sys.executable, str(HERE / "calls.py"), "ask"]
    clients = [
        Client("bare LiteLLM", [*ours, "bare LiteLLM"], ["--no-warm"], ("clean", "faults")),
        Client("Luna", [*ours, "Luna"], ["--no-warm"]),
    ]
    missing = []
    for peer in PEERS:
        python, reason = install(peer, work)
        if reason:
            missing.append(f"{peer.name} is missing: {reason}")
        else:
            clients.append(Client(peer.name, [str(python), str(HERE / peer.script)]))
            if peer.script == "peer_distilabel.py":
                clients.append(replace(clients[-1], name=f"{peer.name}, 4 replicas", options=["4"], kinds=("faults",)))
    load = Load(calls, at_once, latency, seed, patience)
    print(render(run_rounds(clients, load, rounds), load))
    print("".join(f"\n{line}" for line in missing))


def install(peer: Peer, work: Path) -> tuple[Path, str]:
    """The Python of the peer's environment, made if it is not there; and why it could not be made."""
    folder = work.resolve() / peer.name.replace(" ", "-")
    python, done = folder / "bin" / "python", folder / "installed.txt"
    wanted = "\n".join(peer.packages)
    if done.exists() and done.read_text() == wanted:
        return python, ""
    print(f"installing {peer.name} ...", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peer.packages]
    told = subprocess.run(pip, stderr=subprocess.PIPE, text=True)
    if told.returncode:
        return python, f"pip on Python {sys.version.split()[0]}: {told.stderr.strip().splitlines()[-1]}"
    done.write_text(wanted)
    return python, ""


def run_rounds(clients: list[Client], load: Load, rounds: int) -> dict[tuple[str, str], list[Outcome]]:
    """Outcomes by kind of run and client; who begins changes from round to round."""
    outcomes: dict[tuple[str, str], list[Outcome]] = {}
    for number in range(rounds):
        first = number % len(clients)
        for kind in KINDS:
            for client in [one for one in clients[first:] + clients[:first] if kind in one.kinds]:
                faults = FAULTS if kind == "faults" else {}
                with (
                    tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
                    serving(load.latency, faults, load.seed + number) as port,
                ):
                    if kind != "killed" or kill_halfway(client, load, port, Path(folder), load.seed + number):
                        found = run(client, load, port, Path(folder))
                    else:
                        found = Outcome(trouble="could not be killed at work")
                outcomes.setdefault((kind, client.name), []).append(found)
                print(f"round {number + 1} {kind} {client.name}: {found}", file=sys.stderr, flush=True)
    return outcomes


def run(client: Client, load: Load, port: int, folder: Path) -> Outcome:
    """One process from start to end."""
    began = time.monotonic()
    with client.started(load, port, folder) as process:
        alive = watch(process, port, load.patience)
        trouble = "hangs" if alive else "fails" if process.poll() else ""
    whole, asked = time.monotonic() - began, counts(port)
    if trouble:
        print((folder / "log").read_text()[-2000:], file=sys.stderr)
        return Outcome(paid=asked["paid"], repeated=asked["repeated"], trouble=trouble)
    told = measured(folder)
    return Outcome(usable(folder), told["seconds"], whole, told["cpu"], asked["paid"], asked["repeated"])


def kill_halfway(client: Client, load: Load, port: int, folder: Path, seed: int) -> bool:
    """Kill the client after 0.3 to 0.7 of the calls, and let the server finish them; False if it never came so far."""
    wanted = int(random.Random(seed).uniform(0.3, 0.7) * load.calls)
    with client.started(load, port, folder) as process:
        at_work = watch(process, port, load.patience, wanted) and counts(port)["all"] >= wanted
    time.sleep(2 * load.latency)
    return at_work


def watch(process: subprocess.Popen[bytes], port: int, patience: float, enough: float = math.inf) -> bool:
    """Wait until the process ends, has made enough calls, or has made none for too long; True if it still runs."""
    made, since = -1, time.monotonic()
    while made < enough and time.monotonic() - since < patience:
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
            return False
        if (now := counts(port)["all"]) > made:
            made, since = now, time.monotonic()
    return True


def render(outcomes: Mapping[tuple[str, str], list[Outcome]], load: Load) -> str:
    """The table."""
    lines = [table_head(COLUMNS, 2)]
    for (kind, client), found in sorted(outcomes.items(), key=lambda item: KINDS.index(item[0][0])):
        ended = [one for one in found if one.seconds is not None]
        troubles = Counter(one.trouble for one in found if one.trouble)
        told = "".join(f" ({trouble} in {count} of {len(found)})" for trouble, count in troubles.items())
        seconds = [one.seconds for one in ended]
        ideal = load.calls * load.latency / load.at_once
        cells = [
            kind,
            client,
            median([one.usable for one in found], 0) + told,
            median(seconds, 1),
            median(seconds, 2, 1 / ideal) if kind == "clean" else "",
            median([one.process for one in ended], 1),
            median([one.cpu for one in ended], 1, 1000 / load.calls),
            median([one.paid for one in found], 0),
            median([one.repeated for one in found], 0),
        ]
        lines.append(table_row(cells))
    return "\n".join(lines)


def median(values: Sequence[float | None], digits: int, scale: float = 1.0) -> str:
    """The median of those that are there, times `scale`; a dash if none is."""
    known = [value for value in values if value is not None]
    return f"{scale * statistics.median(known):.{digits}f}" if known else "-"


if __name__ == "__main__":
    typer.run(main)

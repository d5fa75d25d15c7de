"""What a process does that tests kill or run side by side: it asks, and notes how that ended."""

from pathlib import Path
from typing import Any

from luna.errors import LunaError
from luna.llm.client import Client, Request
from luna.llm.journal import Journal, journal_file
from luna.settings import Endpoint


def requests(count: int) -> list[Request]:
    return [Request([{"role": "user", "content": f"message {i}"}], seed=i) for i in range(count)]


def ask(root: Path, endpoint: dict[str, Any], count: int, notes: Path) -> None:
    """Ask for `count` replies with the journal of `root`; an error goes to `notes` and ends the process with 1."""
    client = Client(Endpoint(**endpoint), "teacher", Journal(journal_file(root)), "G1")
    try:
        replies = client.ask_all(requests(count))
    except LunaError as error:
        notes.write_text(str(error))
        raise SystemExit(1) from None
    notes.write_text(f"{len(replies)} replies")
    assert [reply.text for reply in replies] == [f"message {i}" for i in range(count)]

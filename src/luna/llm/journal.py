"""The journal of paid replies: what was answered once is never asked for, and never paid, again.

An SQLite file in WAL mode. A reply and what it cost are one commit, made before anybody reads the reply; a commit that
a kill tears apart is never read. (`synchronous=NORMAL`: a power cut can cost the newest replies, never the file.)
It holds hashes of requests and texts of replies, and neither keys nor requests.
"""

import asyncio
import fcntl
import hashlib
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO

from luna.alone import alone
from luna.errors import LunaError
from luna.kept import kept_folder
from luna.llm.calls import Reply, Request
from luna.settings import Endpoint

FILE = "calls.sqlite"
VERSION = 1  # of the schema
BUSY = 60.0  # seconds to wait for another process's commit
POLL = 0.05  # seconds between looks at the lock of an endpoint

_SCHEMA = """
CREATE TABLE answers (
    key TEXT PRIMARY KEY, account TEXT NOT NULL, text TEXT NOT NULL, cut INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, nano_usd INTEGER
) WITHOUT ROWID;
CREATE TABLE spending (
    id INTEGER PRIMARY KEY, account TEXT NOT NULL, tokens INTEGER NOT NULL, nano_usd INTEGER NOT NULL
);
"""


class JournalError(LunaError):
    """The journal cannot be used."""


def journal_file(root: Path) -> Path:
    """Where a tree's journal is."""
    return kept_folder(root) / FILE


def key_of(endpoint: Endpoint, request: Request) -> str:
    """The hash by which a reply is found again. How fast, how often and how dearly it is asked for is no part of it."""
    asked = [
        endpoint.model,
        endpoint.api_base,
        endpoint.temperature,
        endpoint.max_tokens,
        request.seed,
        sorted(request.marks.items()),
        [[turn["role"], turn["content"]] for turn in request.messages],
    ]
    return hashlib.sha256(json.dumps(asked, ensure_ascii=False).encode()).hexdigest()


class Journal:
    """One journal file, made by its first use where there is none. Several processes may use it at once.

    Raises:
        JournalError: from every method, where the file is damaged, of another version, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._leases: dict[Path, tuple[IO[str], int]] = {}

    @cached_property
    def _db(self) -> sqlite3.Connection:
        with alone(self.path.with_suffix(".lock"), _nothing), self._complaining():
            db = sqlite3.connect(self.path, timeout=BUSY, isolation_level=None, check_same_thread=False)
            db.execute("PRAGMA journal_mode=wal")
            db.execute("PRAGMA synchronous=normal")
            self._make_or_check(db)
            return db

    def get(self, key: str) -> Reply | None:
        """The reply to a request, if it was answered before."""
        columns = "text, prompt_tokens, completion_tokens, cut, nano_usd"
        with self._complaining():
            row = self._db.execute(f"SELECT {columns} FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else Reply(row[0], row[1], row[2], bool(row[3]), row[4])

    def keep(self, key: str, reply: Reply, account: str, entry: int | None) -> None:
        """Write down a reply, and its cost in place of the reservation `entry`, in one commit."""
        with self._commit():
            self._db.execute(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)",
                (key, account, reply.text, reply.cut, reply.prompt_tokens, reply.completion_tokens, reply.nano_usd),
            )
            self._book(account, entry, reply.prompt_tokens + reply.completion_tokens, reply.nano_usd or 0)

    def book(self, account: str, entry: int | None, tokens: int, nano_usd: int) -> int:
        """Write down what a try costs, in place of the reservation `entry` if there is one; returns the entry."""
        with self._commit():
            return self._book(account, entry, tokens, nano_usd)

    def spent(self, account: str) -> tuple[int, int]:
        """Tokens and billionths of a USD booked so far, open reservations and those of killed processes included."""
        with self._complaining():
            sums = "COALESCE(SUM(tokens), 0), COALESCE(SUM(nano_usd), 0)"
            tokens, nano_usd = self._db.execute(f"SELECT {sums} FROM spending WHERE account = ?", (account,)).fetchone()
        return tokens, nano_usd

    @asynccontextmanager
    async def lease(self, endpoint: Endpoint, waiting: Callable[[], None]) -> AsyncIterator[None]:
        """Let one process at a time call an endpoint, so that none pays for what another is just paying for.

        The lock dies with its process, however it ends. `waiting` is called once if another process holds it.
        """
        name = hashlib.sha256(json.dumps([endpoint.model, endpoint.api_base]).encode()).hexdigest()[:12]
        path = self.path.with_name(f"calls-{name}.lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        while path not in self._leases and not self._take(path):
            waiting()
            waiting = _nothing
            await asyncio.sleep(POLL)
        handle, holders = self._leases[path]
        self._leases[path] = handle, holders + 1
        try:
            yield
        finally:
            self._let_go(path)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _take(self, path: Path) -> bool:
        handle = path.open("a")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            return False
        self._leases[path] = handle, 0
        return True

    def _let_go(self, path: Path) -> None:
        handle, holders = self._leases.pop(path)
        if holders > 1:
            self._leases[path] = handle, holders - 1
        else:
            handle.close()

    def _make_or_check(self, db: sqlite3.Connection) -> None:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0 and not db.execute("SELECT * FROM sqlite_master").fetchone():
            db.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version = {VERSION};COMMIT;")
        elif version != VERSION:
            raise JournalError(
                f"{self.path}: is of version {version}, not {VERSION}; use the Luna that wrote it, or move it away "
                "and what it holds is asked for again"
            )

    def _book(self, account: str, entry: int | None, tokens: int, nano_usd: int) -> int:
        if entry is None:
            row = self._db.execute(
                "INSERT INTO spending (account, tokens, nano_usd) VALUES (?, ?, ?)", (account, tokens, nano_usd)
            )
            return row.lastrowid or 0
        self._db.execute("UPDATE spending SET tokens = ?, nano_usd = ? WHERE id = ?", (tokens, nano_usd, entry))
        return entry

    @contextmanager
    def _commit(self) -> Iterator[None]:
        with self._complaining():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextmanager
    def _complaining(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise JournalError(f"{self.path}: {error}; see to the disk and run again") from error
        except sqlite3.DatabaseError as error:
            raise JournalError(
                f"{self.path}: is damaged ({error}); move it away, and what it held is asked for again"
            ) from error


def _nothing() -> None:
    """Said already."""

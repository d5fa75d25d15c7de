"""One run at a time: a lock that lives as long as any process that holds it, however it ends."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(path: Path, waiting: Callable[[], None]) -> Iterator[int]:
    """Hold the lock of a file; wait, after calling `waiting`, while another process holds it.

    Yields the descriptor: a child that inherits it keeps the lock if this process dies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle.fileno()

"""What a stage tells while it works: lines, and a bar when somebody watches."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from luna.ranks import is_first


def say(text: str) -> None:
    """A line of a stage's log; of several ranks the first one speaks."""
    if is_first():
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, nothing elsewhere; yields a function that advances it."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda done: progress.advance(task, done)

"""Ctrl-C and SIGTERM while calls are out: nothing more is sent, what is out is waited for and kept."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on the first signal; the second one acts as if nobody listened.

    Only the main thread is asked: signals are not sent to others.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number in SIGNALS:
            if loop.remove_signal_handler(number):
                signal.signal(number, before[number])

    def first() -> None:
        restore()
        stop()

    for number in SIGNALS:
        loop.add_signal_handler(number, first)
    try:
        yield
    finally:
        restore()

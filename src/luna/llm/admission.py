"""When a call may be sent: how many at once, how many a minute, and not while the server asks for a pause."""

import asyncio
import random
import time
from collections import deque
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from luna.settings import Endpoint

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between tries, doubled each time
LONGEST_RETRY_AFTER = 60.0  # seconds; a server that asks for more is asked again after this
MINUTE = 60.0
WINDOW = 8  # fewest outcomes by which the number of calls at once is changed
TOO_MANY = 0.25  # share of pushbacks in a window above which the number is halved
IN_A_ROW = 3  # pushbacks without a reply between them, at the least, that make the pause everybody's
SMALL_BAD_LUCK = 3  # first faults of a request after which its pauses do not grow while others get replies


def pause_before(attempt: int, asked: float | None) -> float:
    """Seconds to wait before try `attempt` (1, 2, ...): what the server asked for, else doubling; both with jitter."""
    if asked is not None:
        return min(asked, LONGEST_RETRY_AFTER) + random.uniform(0.0, 0.1)
    return min(FIRST_PAUSE * 2.0 ** (attempt - 1), LONGEST_PAUSE) * random.uniform(0.5, 1.0)


class Bell:
    """Wakes whoever waits for it. Belongs to no event loop."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def ring(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done() and not future.get_loop().is_closed():
                future.set_result(None)


@dataclass
class Slot:
    """A call that was let in. `tokens` is a guess until the reply is there."""

    era: int
    sent: float
    tokens: int


class Admission:
    """Lets calls in, in the order in which they ask; those that were in before and are tried again go first.

    The number at once is halved when more than a quarter of recent calls are pushed back, and grows step by step while
    they are not (additive increase, multiplicative decrease). A few 429 among many replies change nothing: the calls
    they hit wait, the others go on.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.limit = self._ceiling = endpoint.concurrency
        self.running = 0
        self.replies = 0
        self._requests_per_minute = endpoint.requests_per_minute
        self._tokens_per_minute = endpoint.tokens_per_minute
        self._recent: deque[Slot] = deque()  # of the last minute, where there is a limit by the minute
        self._lines: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
        self._left = Bell()
        self._paused_until = 0.0
        self._coming_again = 0
        self._in_a_row = self._outcomes = self._pushbacks = self._era = 0

    async def enter(self, tokens: int, *, again: bool = False) -> Slot:
        """Wait for a slot."""
        if not again:
            async with self._lines.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
                return await self._get_in(tokens, again=False)
        self._coming_again += 1
        try:
            return await self._get_in(tokens, again=True)
        finally:
            self._coming_again -= 1
            self._left.ring()  # whoever gave way looks again

    async def _get_in(self, tokens: int, *, again: bool) -> Slot:
        while True:
            wait = self._wait(tokens)
            if wait > 0:
                await asyncio.sleep(wait)
            elif self.running >= self.limit or (self._coming_again and not again):
                await self._left.wait()
            else:
                break
        slot = Slot(self._era, time.monotonic(), tokens)
        if self._requests_per_minute or self._tokens_per_minute:
            self._recent.append(slot)
        self.running += 1
        return slot

    def leave(self) -> None:
        """Give the slot back, at the end of the call and before any pause."""
        self.running -= 1
        self._left.ring()

    def answered(self, slot: Slot, tokens: int) -> None:
        """A reply came, of this many tokens in all."""
        slot.tokens = tokens
        self.replies += 1
        self._in_a_row = 0
        self._count(slot, pushed_back=False)

    def pushed_back(self, slot: Slot, asked: float | None) -> None:
        """The server has too much to do. If it asks everybody for a pause, everybody waits for it."""
        self._in_a_row += 1
        # Refusals come sooner than replies: of many calls sent at once some are refused before any has its reply.
        if asked is not None and self._in_a_row >= max(IN_A_ROW, TOO_MANY * self.limit):
            self._paused_until = max(self._paused_until, time.monotonic() + min(asked, LONGEST_RETRY_AFTER))
        self._count(slot, pushed_back=True)

    def _count(self, slot: Slot, *, pushed_back: bool) -> None:
        if slot.era != self._era:
            return  # sent before the last change: it tells nothing about the number since
        self._outcomes += 1
        self._pushbacks += pushed_back
        window = max(self.limit, WINDOW)
        if self._pushbacks > TOO_MANY * window:
            self._change(max(1, self.limit // 2))
        elif self._outcomes >= window:
            self._change(min(self._ceiling, self.limit + max(1, self._ceiling // 8)))

    def _change(self, limit: int) -> None:
        self._era += limit != self.limit
        self.limit = limit
        self._outcomes = self._pushbacks = 0
        self._left.ring()

    def _wait(self, tokens: int) -> float:
        """Seconds until the pause is over and the minute has room; 0: now."""
        now = time.monotonic()
        while self._recent and self._recent[0].sent <= now - MINUTE:
            self._recent.popleft()
        full = len(self._recent) >= (self._requests_per_minute or float("inf"))
        if self._tokens_per_minute and self._recent:
            full |= sum(slot.tokens for slot in self._recent) + tokens > self._tokens_per_minute
        minute = self._recent[0].sent + MINUTE - now if full else 0.0
        return max(self._paused_until - now, minute, 0.0)

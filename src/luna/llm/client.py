"""One door to every teacher and judge: `Client.ask` and its kin.

    journal ─► admission ─► budget ─► transport ─► journal ─► whoever asked

A request is looked up in the journal first; only what was never answered is sent, when admission lets it in and the
budget has room for it. Passing faults are retried with growing pauses; a request that fails for good comes back as a
`Failure`, so that its stage can go on without it and say so.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from luna.errors import TeacherError
from luna.llm.caller import Caller
from luna.llm.calls import Failure, Reply, Request, Stop
from luna.llm.draining import on_interrupt
from luna.llm.journal import Journal
from luna.llm.usage import Usage
from luna.progress import say
from luna.settings import Endpoint

__all__ = ["Client", "Failure", "Reply", "Request", "Usage"]

ROOM = 4  # requests at work for each slot; those above one a slot sleep between tries, or stand in line
HOPELESS = 8  # requests that must have failed, and none succeeded, before the others are given up


def _nobody(count: int) -> None:
    """Nobody counts along."""


class Client:
    """Asks one endpoint.

    Args:
        endpoint: model, limits and sampling settings.
        role: the settings key of the endpoint, by which errors name it: `teacher`, `judge`.
        journal: where replies are kept and looked up; None: nowhere.
        account: what the caps of the role count for: the generation.

    Raises:
        TeacherError: the model needs a key that is not in the environment, is no model of the tutor's, or has a cap in
            USD and no known price.
    """

    def __init__(
        self, endpoint: Endpoint, role: str = "teacher", journal: Journal | None = None, account: str = ""
    ) -> None:
        self.endpoint = endpoint
        self._caller = Caller(endpoint, role, journal, account)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._asked = 0

    @property
    def usage(self) -> Usage:
        return self._caller.usage

    @property
    def embedded(self) -> bool:
        """Whether the rule-based tutor of this package answers, and no language model."""
        return self._caller.transport.embedded

    def bill(self) -> dict[str, Any]:
        """What the answers used have cost, for the metrics: the same when the journal gives them again."""
        return self.usage.bill(self.endpoint.model)

    def report(self) -> str:
        """How this run went, for the log."""
        return f"{self._caller.role} {self.endpoint.model}: {self.usage.report()}"

    async def ask(self, request: Request) -> Reply:
        """The reply to one request.

        Raises:
            TeacherError: there is none, for good.
        """
        answer = (await self.ask_many([request]))[0]
        if isinstance(answer, Failure):
            raise TeacherError(self._told(Stop(answer.reason, answer.mend), 0, 1))
        return answer

    async def ask_many(
        self, requests: Sequence[Request], on_done: Callable[[int], None] = _nobody
    ) -> list[Reply | Failure]:
        """The answers to all requests, in their order. `on_done` is called with the number of requests just done.

        Whatever ends it early lets the calls that are out come in first, and keeps them.

        Raises:
            TeacherError: the endpoint refuses everybody, a cap is reached, somebody interrupts, or too many requests
                (`max_failed`, or all of them) failed for good.
        """
        answers: dict[int, Reply | Failure] = {}
        room = asyncio.Semaphore(ROOM * self.endpoint.concurrency)

        async def one(place: int) -> None:
            try:
                answers[place] = await self._caller.answer(requests[place])
                on_done(1)
                self._despair(answers[place])
            except Stop as stop:
                self.stop(stop)
            finally:
                room.release()

        self._asked += len(requests)
        async with self._alone():
            for place, request in enumerate(requests):
                kept = self._caller.recall(request)
                if kept is not None:
                    answers[place] = kept
                    on_done(1)
            await self._in_turn(one, [place for place in range(len(requests)) if place not in answers], room)
        failures = [answer for answer in answers.values() if isinstance(answer, Failure)]
        stop = self._caller.stopped or (self._too_many_failures(failures[0]) if failures else None)
        if stop is not None:
            raise TeacherError(self._told(stop, len(answers) - len(failures), len(requests)))
        return [answers[place] for place in range(len(requests))]

    def ask_all(self, requests: Sequence[Request], on_done: Callable[[int], None] = _nobody) -> list[Reply | Failure]:
        """`ask_many` for callers that are not async; Ctrl-C and SIGTERM end it with a `TeacherError`."""
        return asyncio.run(self._ask_and_close(requests, on_done))

    def stop(self, stop: Stop) -> None:
        """Send nothing more, ever; let the calls that are out come in."""
        if self._caller.stopped is None:
            self._caller.stopped = stop
            for task in self._tasks - self._caller.out:
                task.cancel()

    def stop_soon(self, stop: Stop) -> None:
        """`stop` for another thread: requests between two tries are let go only when their pause is over."""
        if self._caller.stopped is None:
            self._caller.stopped = stop

    async def _ask_and_close(
        self, requests: Sequence[Request], on_done: Callable[[int], None]
    ) -> list[Reply | Failure]:
        try:
            with on_interrupt(lambda: self.stop(Stop("interrupted", "run it again to go on"))):
                return await self.ask_many(requests, on_done)
        finally:
            await self._caller.transport.close()

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """One process at a time asks an endpoint, and knows what the others have spent."""
        if self._caller.journal is None:
            yield
            return
        name = self._caller.transport.name
        async with self._caller.journal.lease(
            self.endpoint, lambda: say(f"{name}: another process is asking it; waiting")
        ):
            self._caller.budget.read()
            yield

    async def _in_turn(
        self, one: Callable[[int], Coroutine[Any, Any, None]], places: Sequence[int], room: asyncio.Semaphore
    ) -> None:
        """Start the requests in order, a limited number at a time, and wait for all."""
        try:
            async with asyncio.TaskGroup() as group:
                for place in places:
                    await room.acquire()
                    if self._caller.stopped is not None:
                        break
                    task = group.create_task(one(place))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    def _despair(self, answer: Reply | Failure) -> None:
        """Stop as soon as it can no longer end well."""
        failed, enough = self.usage.failed, max(HOPELESS, self.endpoint.concurrency)
        if isinstance(answer, Failure) and failed >= enough:
            stop = self._too_many_failures(answer)
            if stop is not None:
                self.stop(stop)

    def _too_many_failures(self, one: Failure) -> Stop | None:
        failed = self.usage.failed
        if not self.usage.calls:
            return Stop(one.reason, one.mend)
        if failed > self.endpoint.max_failed * self._asked:
            what = f"{failed} of {self._asked} requests failed for good, one of them: {one.reason}"
            return Stop(what, f"{one.mend}, or raise {self._caller.role}.max_failed")
        return None

    def _told(self, stop: Stop, replies: int, count: int) -> str:
        kept = f" and kept in {self._caller.journal.path}" if self._caller.journal is not None else ""
        there = f"; {replies} of {count} replies are there{kept}" if replies else ""
        return f"{self._caller.transport.name}: {stop.what}{there}; {stop.mend}"

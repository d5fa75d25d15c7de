"""One request on its way: journal, admission, budget, transport, and again after a pause while faults pass by."""

import asyncio

from luna.llm.admission import SMALL_BAD_LUCK, Admission, pause_before
from luna.llm.budget import Budget, Reservation, rate_of
from luna.llm.calls import Failure, Reply, Request, Stop
from luna.llm.faults import Refusal, Setback
from luna.llm.journal import Journal, key_of
from luna.llm.transport import Transport
from luna.llm.usage import Usage
from luna.settings import Endpoint


class Caller:
    """Gets the answers of one endpoint, each one paid once.

    Attributes:
        stopped: set from outside; nothing is sent any more, what is out comes in.
        out: tasks whose call is on its way. To cancel one is to lose what it pays for.
    """

    def __init__(self, endpoint: Endpoint, role: str, journal: Journal | None, account: str) -> None:
        self.endpoint = endpoint
        self.role = role
        self.usage = Usage()
        self.transport = Transport(endpoint, role)
        # The embedded tutor says the same again, costs nothing and is quicker than a look-up.
        self.journal = None if self.transport.embedded else journal
        rate = rate_of(endpoint, role, embedded=self.transport.embedded)
        self.budget = Budget(endpoint, role, rate, self.journal, account)
        self.stopped: Stop | None = None
        self.out: set[asyncio.Task[object] | None] = set()
        self._admission = Admission(endpoint)
        self._at_work: dict[str, asyncio.Future[Reply | Failure]] = {}
        self._counted: set[str] = set()

    def recall(self, request: Request) -> Reply | None:
        """The reply that the journal has."""
        if self.journal is None:
            return None
        key = key_of(self.endpoint, request)
        kept = self.journal.get(key)
        if kept is not None:
            self.usage.journalled += 1
            self._count(kept, key)
        return kept

    async def answer(self, request: Request) -> Reply | Failure:
        """From the model, or from an equal request that is at work or was so a moment ago.

        Raises:
            Stop: the endpoint refuses everybody, a cap is reached, or `stopped` is set.
        """
        if self.journal is None:
            return self._count(await self._call(request, ""), None)
        key = key_of(self.endpoint, request)
        if key in self._at_work:
            return self._count(await asyncio.shield(self._at_work[key]), key)
        return self._count(self.journal.get(key) or await self._call_for_all(request, key), key)

    def _count(self, answer: Reply | Failure, key: str | None) -> Reply | Failure:
        """Count a reply once, however many equal requests it serves."""
        if isinstance(answer, Failure):
            self.usage.failed += 1
        elif key is None or key not in self._counted:
            self.usage.add(answer)
        if key is not None:
            self._counted.add(key)
        return answer

    async def _call_for_all(self, request: Request, key: str) -> Reply | Failure:
        """Call, and let equal requests wait for the same answer."""
        answer: asyncio.Future[Reply | Failure] = asyncio.get_running_loop().create_future()
        self._at_work[key] = answer
        try:
            answer.set_result(await self._call(request, key))
        finally:
            del self._at_work[key]
            answer.cancel()  # does nothing to one that is there
        return answer.result()

    async def _call(self, request: Request, key: str) -> Reply | Failure:
        setback, growth = Setback(""), 0
        for attempt in range(self.endpoint.max_retries + 1):
            if self.stopped is not None:
                raise self.stopped
            if attempt:
                self.usage.retries += 1
                await asyncio.sleep(pause_before(growth, setback.pause))
            replies = self._admission.replies
            outcome = await self._try(request, key, again=attempt > 0)
            if isinstance(outcome, Reply):
                return outcome
            if isinstance(outcome, Refusal):
                return self._refused(outcome)
            # Where others get replies meanwhile, a lost or broken one is bad luck and no sign of a busy server.
            alone = not outcome.pushback and self._admission.replies > replies
            growth = max(1, growth + (not alone or attempt >= SMALL_BAD_LUCK))
            setback = outcome
        return Failure(
            f"no reply in {self.endpoint.max_retries + 1} tries ({setback.reason})",
            f"try again later, or lower {self.role}.concurrency or raise {self.role}.max_retries",
        )

    def _refused(self, refusal: Refusal) -> Failure:
        mend = self.transport.mend(refusal)
        if refusal.for_all:
            raise Stop(refusal.reason, mend)
        return Failure(refusal.reason, mend)

    async def _try(self, request: Request, key: str, *, again: bool) -> Reply | Setback | Refusal:
        """One try, in a slot of its own and within the budget; a reply is kept before anybody reads it."""
        slot = await self._admission.enter(request.tokens + self.endpoint.max_tokens, again=again)
        try:
            if self.stopped is not None:  # while it stood in line
                raise self.stopped
            held = await self.budget.reserve(request)
            outcome = await self._send(request, held)
            if isinstance(outcome, Reply):
                self._admission.answered(slot, outcome.prompt_tokens + outcome.completion_tokens)
                return self.budget.keep(held, key, outcome)
            self.budget.write_off(held, outcome)
            if isinstance(outcome, Setback) and outcome.pushback:
                self._admission.pushed_back(slot, outcome.pause)
            return outcome
        finally:
            self._admission.leave()

    async def _send(self, request: Request, held: Reservation) -> Reply | Setback | Refusal:
        task = asyncio.current_task()
        self.out.add(task)
        try:
            return await self.transport.send(request)
        except BaseException:
            self.budget.write_off(held, Setback("given up", lost=True))
            raise
        finally:
            self.out.discard(task)

"""What a role may use in one generation: reserved before a call is sent, settled when its cost is known."""

from dataclasses import dataclass, replace

from luna.errors import TeacherError
from luna.llm.admission import Bell
from luna.llm.calls import Reply, Request, Stop
from luna.llm.faults import Refusal, Setback
from luna.llm.journal import Journal
from luna.llm.transport import load_litellm
from luna.llm.usage import NANO
from luna.settings import Endpoint, Price


@dataclass(frozen=True)
class Rate:
    """Billionths of a USD for a token."""

    prompt: float
    completion: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> int:
        """The price of a call, rounded to a billionth of a USD; discounts for cached prompts are not known here."""
        return round(self.prompt * prompt_tokens + self.completion * completion_tokens)


def rate_of(endpoint: Endpoint, role: str, *, embedded: bool = False) -> Rate | None:
    """The rate of an endpoint; None if nobody knows it and no cap needs it.

    Raises:
        TeacherError: it is unknown and `max_usd` cannot be kept without it.
    """
    if embedded or endpoint.price == "free":
        return Rate(0.0, 0.0)
    if isinstance(endpoint.price, Price):
        return Rate(endpoint.price.prompt * NANO / 10**6, endpoint.price.completion * NANO / 10**6)
    try:
        known = load_litellm().get_model_info(endpoint.model)
        return Rate(known["input_cost_per_token"] * NANO, known["output_cost_per_token"] * NANO)
    except Exception as error:  # LiteLLM raises a bare Exception for a model that it does not know
        if endpoint.max_usd is None:
            return None
        raise TeacherError(
            f"{role}.max_usd: nobody knows the price of {endpoint.model}; write {role}.price: free, or "
            f"{role}.price: {{prompt: P, completion: C}} in USD per million tokens"
        ) from error


@dataclass(frozen=True)
class Reservation:
    """What a call may cost at most, as far as one can tell; `entry` is its place in the journal."""

    tokens: int
    nano_usd: int
    entry: int | None


class Budget:
    """The caps of a role. Without a journal they hold for this process only."""

    def __init__(self, endpoint: Endpoint, role: str, rate: Rate | None, journal: Journal | None, account: str) -> None:
        self.account = f"{account}/{role}"
        self._endpoint = endpoint
        self._role = role
        self._rate = rate
        self._journal = journal
        self._settled = Bell()
        self._open = self._tokens = self._nano_usd = 0

    def price(self, prompt_tokens: int, completion_tokens: int) -> int | None:
        """Billionths of a USD; None: unknown."""
        return self._rate.of(prompt_tokens, completion_tokens) if self._rate else None

    def read(self) -> None:
        """Look up what the journal knows to be spent, by other processes too."""
        if self._journal is not None and not self._open:
            self._tokens, self._nano_usd = self._journal.spent(self.account)

    async def reserve(self, request: Request) -> Reservation:
        """Set aside what a call may cost; waits for open calls to be settled if that could make room.

        Raises:
            Stop: a cap leaves no room for it.
        """
        prompt, completion = request.tokens, self._endpoint.max_tokens
        tokens, nano_usd = prompt + completion, self.price(prompt, completion) or 0
        while stop := self._objection(tokens, nano_usd):
            if not self._open:
                raise stop
            await self._settled.wait()
        self._open += 1
        self._tokens += tokens
        self._nano_usd += nano_usd
        capped = self._endpoint.max_usd is not None or self._endpoint.max_tokens_total is not None
        books = self._journal if capped else None  # nobody asks for the reservations of a role without caps
        entry = books.book(self.account, None, tokens, nano_usd) if books is not None else None
        return Reservation(tokens, nano_usd, entry)

    def keep(self, held: Reservation, key: str, reply: Reply) -> Reply:
        """Write a reply and its cost into the journal, in one commit; returns the reply with its cost."""
        priced = replace(reply, nano_usd=self.price(reply.prompt_tokens, reply.completion_tokens))
        if self._journal is not None:
            self._journal.keep(key, priced, self.account, held.entry)
        self._settle(held, reply.prompt_tokens + reply.completion_tokens, priced.nano_usd or 0)
        return priced

    def write_off(self, held: Reservation, outcome: Setback | Refusal) -> None:
        """Book what a try without a reply has cost: all that was set aside, where its reply was lost on the way."""
        tokens, nano_usd = 0, 0
        if isinstance(outcome, Setback) and outcome.lost:
            tokens, nano_usd = held.tokens, held.nano_usd
            if outcome.billed is not None:
                tokens, nano_usd = sum(outcome.billed), self.price(*outcome.billed) or 0
        if self._journal is not None and (tokens or held.entry is not None):
            self._journal.book(self.account, held.entry, tokens, nano_usd)
        self._settle(held, tokens, nano_usd)

    def _settle(self, held: Reservation, tokens: int, nano_usd: int) -> None:
        self._open -= 1
        self._tokens += tokens - held.tokens
        self._nano_usd += nano_usd - held.nano_usd
        self._settled.ring()

    def _objection(self, tokens: int, nano_usd: int) -> Stop | None:
        most_usd, most_tokens = self._endpoint.max_usd, self._endpoint.max_tokens_total
        again = "and run again"
        if most_usd is not None and self._nano_usd + nano_usd > most_usd * NANO:
            used = f"{self._nano_usd / NANO:.4f} of {most_usd:g} USD are spent, a call may cost {nano_usd / NANO:.4f}"
            return Stop(f"{self._role}.max_usd: {used}", f"raise {self._role}.max_usd {again}")
        if most_tokens is not None and self._tokens + tokens > most_tokens:
            used = f"{self._tokens} of {most_tokens} tokens are used, a call may need {tokens}"
            return Stop(f"{self._role}.max_tokens_total: {used}", f"raise {self._role}.max_tokens_total {again}")
        return None

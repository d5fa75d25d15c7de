"""What a client has used."""

from dataclasses import dataclass
from typing import Any

from luna.llm.calls import Reply

NANO = 10**9


@dataclass
class Usage:
    """Counts of a client.

    `calls` are requests answered, and tokens and cost those of their replies, the same whether the journal or the model
    gave them. `journalled`, `retries` and `failed` tell how this run went.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    nano_usd: int | None = 0  # None: the price of a call is not known
    journalled: int = 0
    retries: int = 0
    failed: int = 0

    def add(self, reply: Reply) -> None:
        """Count a reply."""
        self.calls += 1
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
        if self.nano_usd is not None:
            self.nano_usd = None if reply.nano_usd is None else self.nano_usd + reply.nano_usd

    def bill(self, model: str) -> dict[str, Any]:
        """For the metrics: the same when the journal gives the answers again."""
        return {
            "model": model,
            "calls_answered": self.calls,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "usd": in_usd(self.nano_usd),
        }

    def report(self) -> str:
        """For the log: how this run went."""
        usd = in_usd(self.nano_usd)
        cost = "price unknown" if usd is None else f"{usd:.4f} USD"
        return (
            f"{self.calls} replies ({self.journalled} from the journal), {self.failed} failed, {self.retries} retries, "
            f"{self.prompt_tokens} + {self.completion_tokens} tokens, {cost}"
        )


def in_usd(nano_usd: int | None) -> float | None:
    """USD from billionths of it."""
    return None if nano_usd is None else nano_usd / NANO

"""What goes to a model and what comes back."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from luna.lm.chat import Message

BYTES_A_TOKEN = 3  # of UTF-8; English has about four, so this rather guesses too many tokens
TOKENS_A_TURN = 8  # what a chat template puts around a turn


@dataclass(frozen=True)
class Request:
    """A conversation to be continued.

    Attributes:
        seed: goes to providers that take one, and tells samples of one conversation apart.
        marks: whatever else tells it from a request of the same words, such as the iteration; it is not sent. Requests
            that agree in all of this are one request: it is paid once and both get its reply.
    """

    messages: list[Message]
    seed: int | None = None
    marks: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """About how many tokens the prompt has; a tokenizer would take longer than the call's other work."""
        return sum(TOKENS_A_TURN + len(turn["content"].encode()) // BYTES_A_TOKEN for turn in self.messages)


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        cut: the reply ran into the endpoint's `max_tokens`.
        nano_usd: what it cost, in billionths of a USD (whole numbers add up the same in any order); None: unknown.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    cut: bool = False
    nano_usd: int | None = None


@dataclass(frozen=True)
class Failure:
    """No reply, for good: what happened, and what may help."""

    reason: str
    mend: str


class Stop(Exception):
    """No further call is to be sent: what happened, and the mend."""

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(f"{what}; {mend}")
        self.what = what
        self.mend = mend

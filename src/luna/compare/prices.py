"""What a token of the teacher costs."""

from typing import NamedTuple

from luna.errors import BadSettings
from luna.llm import tutor
from luna.llm.transport import load_litellm
from luna.settings import Endpoint

MILLION = 1_000_000


class Price(NamedTuple):
    """USD for a million tokens."""

    prompt: float
    completion: float

    def usd(self, prompt_tokens: float, completion_tokens: float) -> float:
        """What that many tokens cost; discounts for cached prompts are not known here."""
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / MILLION


def price_of(endpoint: Endpoint, prompt: float | None = None, completion: float | None = None) -> Price | None:
    """The price that is given, else the settings' own, else LiteLLM's; the tutor is free. None: nobody knows.

    Args:
        prompt, completion: USD for a million tokens, both or none.

    Raises:
        BadSettings: only one of the two is given.
    """
    if (prompt is None) != (completion is None):
        raise BadSettings("--price-prompt and --price-completion belong together; give both, USD per million tokens")
    if prompt is not None and completion is not None:
        return Price(prompt, completion)
    provider, _, name = endpoint.model.partition("/")
    if provider == tutor.PROVIDER or endpoint.price == "free":
        return Price(0.0, 0.0)
    if endpoint.price is not None:
        return Price(endpoint.price.prompt, endpoint.price.completion)
    return _known(provider, name)


def _known(provider: str, name: str) -> Price | None:
    prices = load_litellm().model_cost
    for key in (f"{provider}/{name}", name):
        entry = prices.get(key, {})
        # A name alone may be that of somebody else's model; your own server has no list price.
        if entry.get("litellm_provider") == provider and "input_cost_per_token" in entry:
            return Price(entry["input_cost_per_token"] * MILLION, entry["output_cost_per_token"] * MILLION)
    return None

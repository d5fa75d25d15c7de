"""One try of one call: LiteLLM, used for nothing but getting there and back."""

import logging
import os
from typing import Any

from luna.errors import TeacherError
from luna.llm import tutor
from luna.llm.calls import Reply, Request
from luna.llm.faults import SECRET_NAME, Refusal, Setback, read_error
from luna.settings import Endpoint


class Transport:
    """Sends requests to one endpoint.

    Raises:
        TeacherError: the model needs a key that is not in the environment, or is no model of the tutor's.
    """

    def __init__(self, endpoint: Endpoint, role: str) -> None:
        self.endpoint = endpoint
        self.name = f"{role}.model: {endpoint.model}"
        self.embedded = endpoint.model.startswith(f"{tutor.PROVIDER}/")
        self._role = role
        self._litellm = load_litellm()
        self._errors = tuple(self._litellm.exceptions.LITELLM_EXCEPTION_TYPES)
        if self.embedded:
            self._register_tutor()
        else:
            self._need_keys()

    async def send(self, request: Request) -> Reply | Setback | Refusal:
        """The reply, or what went wrong with this try."""
        try:
            answer = await self._litellm.acompletion(
                model=self.endpoint.model,
                messages=request.messages,
                api_base=self.endpoint.api_base,
                temperature=self.endpoint.temperature,
                max_tokens=self.endpoint.max_tokens,
                timeout=self.endpoint.timeout,
                seed=request.seed,
                max_retries=0,
                drop_params=True,  # not every provider takes a seed
            )
        except self._errors as error:
            return read_error(error)
        return _read_answer(answer)

    async def close(self) -> None:
        """Close the connections, which LiteLLM keeps per event loop."""
        await self._litellm.close_litellm_async_clients()

    def mend(self, refusal: Refusal) -> str:
        """What may help against a refusal."""
        if refusal.status in (401, 403):
            return f"check {' or '.join(_keys_of(self.endpoint)) or 'the key in the environment'}"
        if refusal.status == 404:
            return f"check {self._role}.model and {self._role}.api_base"
        return f"mend the settings under {self._role}, or choose another model"

    def _register_tutor(self) -> None:
        if self.endpoint.model != f"{tutor.PROVIDER}/{tutor.MODEL}":
            raise TeacherError(
                f"{self.name}: the tutor teaches {tutor.MODEL} only; write {tutor.PROVIDER}/{tutor.MODEL}"
            )
        tutor.register()

    def _need_keys(self) -> None:
        report = self._litellm.validate_environment(self.endpoint.model, api_base=self.endpoint.api_base)
        missing = [name for name in report["missing_keys"] if SECRET_NAME.search(name)]
        if missing:
            local = "; a server without a key is reached as hosted_vllm/MODEL" if self.endpoint.api_base else ""
            raise TeacherError(
                f"{self.name} needs {' and '.join(missing)}; "
                f"export it or choose another model at {self._role} of the preset{local}"
            )


def load_litellm() -> Any:
    """LiteLLM, quiet and without its look-ups in the network."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else the import fetches prices from the network
    import litellm

    litellm.suppress_debug_info = True
    litellm.telemetry = False
    logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)  # what fails is reported by Luna
    from litellm.litellm_core_utils.litellm_logging import Logging
    from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler

    AsyncHTTPHandler.single_connection_post_request = _send_no_second_time
    Logging.response_cost_calculator = _cost_no_reply
    return litellm


async def _send_no_second_time(*_: Any, **__: Any) -> None:
    """In place of what LiteLLM does by itself after a lost connection, `max_retries=0` or not: send it once more.

    The lost call may have been paid. Only Luna's own tries are booked and bounded.
    """
    raise  # the error that LiteLLM is handling


def _cost_no_reply(*_: Any, **__: Any) -> None:
    """In place of LiteLLM's look-up of what a reply has cost, a quarter of all it computes for a call.

    Luna's budget reckons from the tokens, at its own prices.
    """


def _keys_of(endpoint: Endpoint) -> list[str]:
    """The environment variables that look like keys of the endpoint's provider."""
    provider = endpoint.model.partition("/")[0].upper()
    return sorted(name for name in os.environ if name.startswith(provider) and SECRET_NAME.search(name))


def _read_answer(answer: Any) -> Reply | Setback:
    usage = getattr(answer, "usage", None)
    prompt_tokens, completion_tokens = (
        getattr(usage, name, None) or 0 for name in ("prompt_tokens", "completion_tokens")
    )
    text = (answer.choices[0].message.content or "") if answer.choices else ""
    if not text.strip():
        return Setback("an empty reply", lost=True, billed=(prompt_tokens, completion_tokens) if usage else None)
    return Reply(text, prompt_tokens, completion_tokens, cut=answer.choices[0].finish_reason == "length")

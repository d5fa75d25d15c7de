"""One door to every teacher and judge: `Client.ask`. LiteLLM is the transport; admission and retries are Luna's own.

Retried with growing pauses: rate limits, server errors, lost connections, timeouts, truncated and empty replies. A
refused key, a bad request and an unknown model fail at once. Whatever is to happen around every call (a journal, a
budget) belongs into `Client.ask`.
"""

import asyncio
import logging
import os
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from weakref import WeakKeyDictionary

from luna.errors import TeacherError
from luna.llm import tutor
from luna.lm.chat import Message
from luna.settings import Endpoint

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between tries, doubled each time
LONGEST_RETRY_AFTER = 60.0  # seconds; a server that asks for more is asked again after this
_RETRIED_CLIENT_ERRORS = {408, 409, 425, 429}  # the 4xx that pass by themselves
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET")


@dataclass(frozen=True)
class Request:
    """A conversation to be continued. `seed` goes to providers that take one."""

    messages: list[Message]
    seed: int | None = None


@dataclass(frozen=True)
class Reply:
    """What came back. `cut`: the reply ran into the endpoint's `max_tokens`."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    cut: bool = False


@dataclass
class Usage:
    """What a client has used so far. `calls` are replies received, `retries` the tries that gave none."""

    calls: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class _Setback:
    """A try that may go better next time; `pause` is what the server asked for, in seconds."""

    reason: str
    pause: float | None = None


class Client:
    """Asks one endpoint.

    Args:
        endpoint: model, limits and sampling settings.
        key: the settings key of the endpoint, by which errors name it (`teacher`, `presets/x.yaml: judge`).

    Raises:
        TeacherError: the model needs a key that is not in the environment, or is no model of the tutor's.
    """

    def __init__(self, endpoint: Endpoint, key: str = "teacher") -> None:
        self.endpoint = endpoint
        self.usage = Usage()
        self._key = key
        self._slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
        self._litellm = _load_litellm()
        self._errors = tuple(self._litellm.exceptions.LITELLM_EXCEPTION_TYPES)
        if endpoint.model.startswith(f"{tutor.PROVIDER}/"):
            if endpoint.model != f"{tutor.PROVIDER}/{tutor.MODEL}":
                raise TeacherError(
                    f"{self._name}: the tutor teaches {tutor.MODEL} only; write {tutor.PROVIDER}/{tutor.MODEL}"
                )
            tutor.register()
        else:
            self._need_keys()

    async def ask(self, request: Request) -> Reply:
        """The reply to one request.

        Raises:
            TeacherError: the endpoint refuses the request, or gave no reply in `max_retries` + 1 tries.
        """
        setback = _Setback("")
        for attempt in range(self.endpoint.max_retries + 1):
            if attempt:
                self.usage.retries += 1
                await asyncio.sleep(_pause(attempt, setback))
            async with self._slot():
                outcome = await self._try(request)
            if isinstance(outcome, Reply):
                self.usage.calls += 1
                self.usage.prompt_tokens += outcome.prompt_tokens
                self.usage.completion_tokens += outcome.completion_tokens
                return outcome
            setback = outcome
        tries = self.endpoint.max_retries + 1
        raise TeacherError(
            f"{self._name}: no reply in {tries} tries ({setback.reason}); "
            f"try again later, or lower {self._key}.concurrency or raise {self._key}.max_retries"
        )

    async def ask_many(
        self, requests: Sequence[Request], on_done: Callable[[int], None] = lambda count: None
    ) -> list[Reply]:
        """The replies to all requests, in their order. `on_done` is called with the number of replies just come in.

        Raises:
            TeacherError: one request failed for good; the others are given up.
        """

        async def one(request: Request) -> Reply:
            reply = await self.ask(request)
            on_done(1)
            return reply

        tasks = [asyncio.ensure_future(one(request)) for request in requests]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    def ask_all(self, requests: Sequence[Request], on_done: Callable[[int], None] = lambda count: None) -> list[Reply]:
        """`ask_many` for callers that are not async."""
        return asyncio.run(self._ask_and_close(requests, on_done))

    async def _ask_and_close(self, requests: Sequence[Request], on_done: Callable[[int], None]) -> list[Reply]:
        try:
            return await self.ask_many(requests, on_done)
        finally:
            # LiteLLM keeps its connections per event loop; this loop ends here.
            await self._litellm.close_litellm_async_clients()

    @property
    def _name(self) -> str:
        return f"{self._key}.model: {self.endpoint.model}"

    def _slot(self) -> asyncio.Semaphore:
        """The semaphore of the running loop; a semaphore belongs to the loop that first waits on it."""
        return self._slots.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self.endpoint.concurrency))

    async def _try(self, request: Request) -> Reply | _Setback:
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
            return self._read_error(error)
        return _read_answer(answer)

    def _read_error(self, error: Any) -> _Setback:
        """A setback, unless asking again cannot help.

        Raises:
            TeacherError: a refusal.
        """
        status = getattr(error, "status_code", None)
        reason = _one_line(error, status)
        if not isinstance(status, int) or not 400 <= status < 500 or status in _RETRIED_CLIENT_ERRORS:
            return _Setback(reason, _retry_after(getattr(error, "litellm_response_headers", None)))
        if status in (401, 403):
            keys = " or ".join(_keys_of(self.endpoint)) or "the key in the environment"
            raise TeacherError(f"{self._name}: HTTP {status}, the key is refused; check {keys}") from error
        if status == 404:
            mend = f"check {self._key}.model and {self._key}.api_base"
        else:
            mend = f"mend the settings under {self._key}, or choose another model"
        raise TeacherError(f"{self._name}: {reason}; {mend}") from error

    def _need_keys(self) -> None:
        missing = _missing_keys(self._litellm, self.endpoint)
        if missing:
            local = "; a server without a key is reached as hosted_vllm/MODEL" if self.endpoint.api_base else ""
            raise TeacherError(
                f"{self._name} needs {' and '.join(missing)}; "
                f"export it or choose another model at {self._key} of the preset{local}"
            )


def _load_litellm() -> Any:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else the import fetches prices from the network
    import litellm

    litellm.suppress_debug_info = True
    litellm.telemetry = False
    logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)  # what fails is reported by Luna
    return litellm


def _missing_keys(litellm: Any, endpoint: Endpoint) -> list[str]:
    report = litellm.validate_environment(endpoint.model, api_base=endpoint.api_base)
    return [name for name in report["missing_keys"] if _SECRET_NAME.search(name)]


def _keys_of(endpoint: Endpoint) -> list[str]:
    """The environment variables that look like keys of the endpoint's provider."""
    provider = endpoint.model.partition("/")[0].upper()
    return sorted(name for name in os.environ if name.startswith(provider) and _SECRET_NAME.search(name))


def _read_answer(answer: Any) -> Reply | _Setback:
    if not answer.choices:
        return _Setback("a reply without choices")
    choice, usage = answer.choices[0], getattr(answer, "usage", None)
    text = choice.message.content or ""
    if not text.strip():
        return _Setback("an empty reply")
    return Reply(
        text,
        prompt_tokens=getattr(usage, "prompt_tokens", None) or 0,
        completion_tokens=getattr(usage, "completion_tokens", None) or 0,
        cut=choice.finish_reason == "length",
    )


def _pause(attempt: int, setback: _Setback) -> float:
    """Seconds to wait before try `attempt`: what the server asked for, else doubling; both with jitter."""
    if setback.pause is not None:
        return min(setback.pause, LONGEST_RETRY_AFTER) + random.uniform(0.0, 0.1)
    return min(FIRST_PAUSE * 2.0 ** (attempt - 1), LONGEST_PAUSE) * random.uniform(0.5, 1.0)


def _retry_after(headers: Any) -> float | None:
    """The seconds of a Retry-After header, given as a number or as a date; None where there is none."""
    value = {str(name).lower(): value for name, value in dict(headers or {}).items()}.get("retry-after")
    if value is None:
        return None
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass  # a date
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


def _one_line(error: Exception, status: int | None) -> str:
    """A provider's complaint in one short line that holds no key."""
    text = " ".join(str(error).split())
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= 8:
            text = text.replace(value, f"${name}")
    text = text if len(text) <= 200 else text[:199] + "…"
    return f"HTTP {status}: {text}" if status else text

"""What can go wrong with a call, by what to do about it: wait and try again, give the request up, or end the stage."""

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET")
_PASSING = {408, 409, 425, 429}  # the 4xx that pass by themselves
_PUSHBACK = {408, 429, 503, 529}  # the server has too much to do
_FOR_EVERYBODY = {401, 403, 404}  # no other request would fare better
# Causes of an error, by name, that say that the server did no work it could bill: it said no, or was never reached.
# (httpx.ConnectError is none of them: LiteLLM also calls a connection so that broke while it waited for the reply.)
_NOT_BILLED = {"HTTPStatusError", "ConnectTimeout", "ClientConnectorError", "ClientConnectorDNSError", "gaierror"}


@dataclass(frozen=True)
class Setback:
    """A try that may go better next time.

    Attributes:
        pause: what the server asked for, in seconds.
        pushback: the server says, or shows, that it has too much to do.
        lost: the reply was lost on its way, so it may have been billed.
        billed: tokens of prompt and completion, where an unusable reply tells them.
    """

    reason: str
    pause: float | None = None
    pushback: bool = False
    lost: bool = False
    billed: tuple[int, int] | None = None


@dataclass(frozen=True)
class Refusal:
    """A try that would go the same way again; with `for_all`, so would any other request."""

    reason: str
    status: int
    for_all: bool


def read_error(error: Exception) -> Setback | Refusal:
    """What to make of an error of LiteLLM's."""
    status = getattr(error, "status_code", None)
    reason = one_line(error, status)
    if status in (401, 403):
        reason = f"HTTP {status}, the key is refused"
    if isinstance(status, int) and 400 <= status < 500 and status not in _PASSING:
        return Refusal(reason, status, status in _FOR_EVERYBODY)
    pause = retry_after(getattr(error, "litellm_response_headers", None))
    return Setback(reason, pause, pushback=status in _PUSHBACK, lost=not _never_billed(error))


def _never_billed(error: BaseException) -> bool:
    return any(type(cause).__name__ in _NOT_BILLED for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def retry_after(headers: Any) -> float | None:
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


def one_line(error: Exception, status: int | None) -> str:
    """A provider's complaint in one short line that holds no key."""
    text = " ".join(str(error).split())
    for name, value in os.environ.items():
        if SECRET_NAME.search(name) and len(value) >= 8:
            text = text.replace(value, f"${name}")
    text = text if len(text) <= 200 else text[:199] + "…"
    return f"HTTP {status}: {text}" if status else text

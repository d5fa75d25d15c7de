"""Reading JSON out of a reply: as it stands, out of its fence or chatter, or mended where the damage is small."""

import json
import re
from typing import Any

_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)  # models that think aloud before they answer
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)\n?```\s*$", re.DOTALL)


class UnusableReplyError(ValueError):
    """A reply that does not hold what was asked for. The message is the reason, in a few words, fit for counting."""


def read_json(text: str, kind: type[dict[Any, Any]] | type[list[Any]]) -> tuple[Any, bool]:
    """The JSON object or array of a reply, and whether it had to be repaired.

    Raises:
        UnusableReplyError: there is none, or the reply breaks off inside it.
    """
    text = _THOUGHT.sub("", text)
    opening, closing = ("{", "}") if kind is dict else ("[", "]")
    fence = _FENCE.search(text)
    start, end = text.find(opening), text.rfind(closing)
    if start < 0:
        raise UnusableReplyError("no JSON")
    for candidate in (text, fence[1] if fence else "", text[start : end + 1]):
        try:
            value = json.loads(candidate, strict=False)
        except json.JSONDecodeError:
            continue
        if isinstance(value, kind):
            return value, False
    return _repair(text[start:], kind, closing), True


def _repair(text: str, kind: type[Any], closing: str) -> Any:
    import json_repair

    # A text that breaks off could be closed too, but its last field would silently be half of what it was.
    if not text.rstrip().rstrip("`").rstrip().endswith(closing):
        raise UnusableReplyError("JSON breaks off")
    value = json_repair.loads(text)
    if not isinstance(value, kind):
        raise UnusableReplyError("broken JSON")
    return value


def text_field(value: dict[str, Any], name: str) -> str:
    """A field as text: numbers become text, a list of lines is joined.

    Raises:
        UnusableReplyError: the field is missing, empty or something else.
    """
    field = value.get(name)
    if isinstance(field, list) and all(isinstance(line, str) for line in field):
        field = "\n".join(field)
    if isinstance(field, (int, float)) and not isinstance(field, bool):
        field = str(field)
    if not isinstance(field, str) or not field.strip():
        raise UnusableReplyError(f"no {name}")
    return field.strip()

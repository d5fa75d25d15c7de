"""Reading what the teacher invented."""

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from luna.llm.replies import UnusableReplyError, read_json, text_field
from luna.records import Turn


@dataclass(frozen=True)
class Invention:
    """A task and its solution. `repaired`: the reply was no strict JSON."""

    question: str
    thinking: str
    answer: str
    repaired: bool = False


@dataclass(frozen=True)
class Dialogues:
    """Conversations without system turns. `repaired`: the reply was no strict JSON."""

    turns: list[list[Turn]]
    repaired: bool = False


def parse_invention(text: str) -> Invention:
    """The invention in a reply.

    Raises:
        UnusableReplyError: no JSON object, or a field is missing.
    """
    value, repaired = read_json(text, dict)
    question, thinking, answer = (text_field(value, name) for name in ("question", "thinking", "answer"))
    return Invention(question, thinking, answer, repaired)


def parse_conversations(text: str, exchanges: int, conversations: int = 1) -> Dialogues:
    """The conversations in a reply.

    Raises:
        UnusableReplyError: no JSON array, another number of conversations or of exchanges, or turns out of order.
    """
    value, repaired = read_json(text, list)
    if len(value) != conversations:
        raise UnusableReplyError("another number of conversations than asked")
    return Dialogues([_turns(item, exchanges) for item in value], repaired)


def _turns(item: Any, exchanges: int) -> list[Turn]:
    if isinstance(item, dict):
        item = item.get("conversations", item.get("messages"))
    try:
        turns = [Turn.model_validate(turn) for turn in item or []]
    except (ValidationError, TypeError) as error:
        raise UnusableReplyError("a turn without role and content") from error
    spoken = [turn for turn in turns if turn.role != "system"]
    if any(not turn.content.strip() for turn in spoken):
        raise UnusableReplyError("an empty turn")
    if len(spoken) != 2 * exchanges:
        raise UnusableReplyError("another number of exchanges than asked")
    if [turn.role for turn in spoken] != ["user", "assistant"] * exchanges:
        raise UnusableReplyError("turns out of order")
    return spoken

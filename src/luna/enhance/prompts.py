"""What teacher and judge are asked about an attempt, and how their replies are read."""

from collections.abc import Sequence

from luna.arithmetic.tutor import Verdict
from luna.llm.quoting import attempt_block, block, conversation_block
from luna.llm.replies import UnusableReplyError, read_json, text_field
from luna.lm.chat import Message

__all__ = ["Verdict", "hint_messages", "parse_hint", "parse_verdict", "verdict_messages"]

_HINT_RULES = """\
You are a teacher. A learner has tried a question and went wrong. Help with one hint.
- Find the first place where the attempt goes wrong, and point at it: name the line, the step or the assumption.
- Say what to look at again or ask a question about it. Never state the final answer or the rest of the solution, not \
even in other words.
- If hints were given before, they did not help enough: be more specific than they were, and do not repeat them.
- Speak to the learner, in one or two sentences.
The lines of the attempt have a margin with a number; the margin is not part of the attempt.
Reply with one JSON object and nothing else: {"hint": ...}"""

_VERDICT_RULES = """\
You are a judge. Decide by truth alone whether an attempt answers its question correctly.
- First work the question out yourself. Then compare.
- Accept every right answer and every right way of reasoning, however it is written and however unusual; a bare right \
answer without reasoning is right.
- A reference, where there is one, may be worded differently or hold another right way; it may even be wrong. What is \
true decides, not likeness.
- Reject a wrong or missing final answer, a statement that is false, and thinking that never ends.
The lines of the attempt have a margin with a number; the margin is not part of the attempt.
Reply with one JSON object and nothing else: {"correct": true or false, "first_wrong_line": the number of the first \
wrong line, one more than the last number if a line is missing, null if there is none, "reason": one short sentence}"""


def hint_messages(
    question: str,
    attempt: str,
    earlier_hints: Sequence[str],
    solution: str | None = None,
    before: Sequence[Message] = (),
) -> list[Message]:
    """The request for a hint at the mistake in an attempt.

    Args:
        attempt: the learner's reply as it is, thinking tags included.
        earlier_hints: hints already given to this question, the first one first.
        solution: a reference for the teacher's eyes.
        before: the conversation before the question, such as the document that it is about.
    """
    parts = [block("question", question), *_before(before)]
    if solution is not None:
        parts.append(block("solution", solution))
    parts.append(attempt_block(attempt))
    if earlier_hints:
        parts.append(block("hints", "\n".join(f"- {hint}" for hint in earlier_hints)))
    return _messages(_HINT_RULES, parts)


def verdict_messages(
    question: str, attempt: str, reference: str | None = None, before: Sequence[Message] = ()
) -> list[Message]:
    """The request for a verdict on an attempt; `reference` is an answer known or believed to be right."""
    parts = [block("question", question), *_before(before), attempt_block(attempt)]
    if reference is not None:
        parts.append(block("reference", reference))
    return _messages(_VERDICT_RULES, parts)


def _before(conversation: Sequence[Message]) -> list[str]:
    return [conversation_block(conversation)] if conversation else []


def _messages(rules: str, parts: Sequence[str]) -> list[Message]:
    return [{"role": "system", "content": rules}, {"role": "user", "content": "\n\n".join(parts)}]


def parse_hint(text: str) -> str:
    """The hint in a reply, on one line.

    Raises:
        UnusableReplyError: there is none.
    """
    value, _ = read_json(text, dict)
    return " ".join(text_field(value, "hint").split())


def parse_verdict(text: str) -> Verdict:
    """The verdict in a reply. `first_wrong_line` is an index into the lines of `read_attempt`, as the exact judge's.

    Raises:
        UnusableReplyError: there is none, or it contradicts itself.
    """
    value, _ = read_json(text, dict)
    correct, line = value.get("correct"), value.get("first_wrong_line")
    if not isinstance(correct, bool):
        raise UnusableReplyError("no correct")
    if line is not None and (isinstance(line, bool) or not isinstance(line, int) or line < 1):
        raise UnusableReplyError("first_wrong_line is no line number")
    reason = text_field(value, "reason") if value.get("reason") else ""
    return Verdict(correct, None if correct or line is None else line - 1, reason)

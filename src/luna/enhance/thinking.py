"""An example's thinking as the story of its attempts: the `iterative` format.

"Aha!" stands exactly where a hint landed: the next attempt no longer makes the mistake that the hint pointed at.
"""

from luna.arithmetic.reading import CLOSE, OPEN
from luna.enhance.students import Dialogue, Turn

AHA = "Aha!"


def iterative_thinking(dialogue: Dialogue) -> str:
    """The thinking of a dialogue: every attempt with its check, every hint, every correction, and the answer."""
    parts = [f"The question is: {dialogue.question}"]
    for number, turn in enumerate(dialogue.turns, start=1):
        parts.append(_attempt(number, dialogue.turns[number - 2] if number > 1 else None, turn))
        parts.append(f"Check of attempt {number}: {_sentence(turn.reason)}")
        if turn.hint is not None:
            parts.append(f"Hint: {turn.hint}")
    parts.append(_ending(dialogue))
    return "\n\n".join(parts)


def landed(before: Turn, after: Turn) -> bool:
    """Whether the hint after `before` helped: the next attempt is right, or goes wrong only later than before."""
    if before.hint is None:
        return False
    if after.correct:
        return True
    if before.first_wrong_line is None or after.first_wrong_line is None:
        return False
    return after.first_wrong_line > before.first_wrong_line


def _attempt(number: int, before: Turn | None, turn: Turn) -> str:
    thinking, answer = split_reply(turn.attempt)
    lead = f"{AHA} I see what the hint points at.\n" if before is not None and landed(before, turn) else ""
    return f"{lead}Attempt {number}, in my own words:\n{thinking}\nMy answer: {answer or '(none)'}"


def _ending(dialogue: Dialogue) -> str:
    if not dialogue.converged:
        return f"After {len(dialogue.turns)} attempts this is still open; I do not know the answer yet."
    _, answer = split_reply(dialogue.turns[-1].attempt)
    if len(dialogue.turns) == 1:
        return f"It was right at once, so no hint was needed and there is nothing to correct.\nAnswer: {answer}"
    return f"I corrected myself {len(dialogue.turns) - 1} time(s).\nAnswer: {answer}"


def split_reply(reply: str) -> tuple[str, str]:
    """Thinking and answer of a reply; a reply without a thinking block is its own thinking."""
    if OPEN not in reply:
        return reply.strip(), reply.strip()
    thinking, _, answer = reply.partition(OPEN)[2].partition(CLOSE)
    return thinking.strip(), answer.strip()


def _sentence(text: str) -> str:
    text = text.strip() or "no reason given"
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")

"""The teacher's hints, none of which may give its answer away."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from luna.enhance.judges import ask_and_read
from luna.enhance.prompts import hint_messages, parse_hint
from luna.enhance.students import Dialogue
from luna.leaks import reveals_answer
from luna.llm.client import Client, Failure, Request

SAFE_HINT = "Go through your steps again from the first one and look for the one that does not hold."
OTHER_SAFE_HINT = "Think once more."  # shares no word with the other, so that no answer stands in both


@dataclass
class LeakCount:
    """Hints that gave the answer away: `caught` were replaced, `kept` are in a dialogue (there must be none)."""

    caught: int = 0
    kept: int = 0


class HintingTeacher:
    """Gives a hint for each wrong attempt; one that leaks the answer is asked for again, then replaced.

    Args:
        student: the hash of the student's weights, or its name: another student gets hints of its own.
    """

    def __init__(self, client: Client, student: str = "") -> None:
        self.client = client
        self.leaks = LeakCount()
        self._student = student

    def hints(self, dialogues: Sequence[Dialogue]) -> list[str | Failure]:
        requests = [self._request(dialogue) for dialogue in dialogues]
        hints = ask_and_read(self.client, requests, parse_hint)
        leaking = [i for i, hint in enumerate(hints) if _leaks(hint, dialogues[i])]
        if leaking:
            self.leaks.caught += len(leaking)
            second = ask_and_read(self.client, [replace(requests[i], seed=7) for i in leaking], parse_hint)
            for i, hint in zip(leaking, second, strict=True):
                useless = isinstance(hint, Failure) or _leaks(hint, dialogues[i])
                hints[i] = safe_hint(dialogues[i]) if useless else hint
        self.leaks.kept += sum(_leaks(hint, dialogue) for hint, dialogue in zip(hints, dialogues, strict=True))
        return hints

    def _request(self, dialogue: Dialogue) -> Request:
        question, attempt = dialogue.question, dialogue.turns[-1].attempt
        if self.client.embedded:  # it solves the question itself
            messages = hint_messages(question, attempt, dialogue.hints)
        else:
            messages = hint_messages(question, attempt, dialogue.hints, dialogue.answer, before=dialogue.context[:-1])
        return Request(messages, marks={"iteration": len(dialogue.turns), "student": self._student})


def safe_hint(dialogue: Dialogue) -> str:
    """A hint that tells nothing."""
    return OTHER_SAFE_HINT if _leaks(SAFE_HINT, dialogue) else SAFE_HINT


def _leaks(hint: str | Failure, dialogue: Dialogue) -> bool:
    return isinstance(hint, str) and dialogue.answer is not None and reveals_answer(hint, dialogue.answer)

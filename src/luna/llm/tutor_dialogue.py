"""Socratic dialogues of the rule-based tutor: it only asks, the student finds every line and the answer."""

import random

from luna.lm.chat import Message

_OPENINGS = (
    "{question} I do not know how to begin.",
    "I am stuck on this one: {question}",
    "{question} I would only guess. Can you help me?",
    "How do I go about this? {question}",
)

# The six kinds of question. None holds a number, so none can give anything away.
KINDS: dict[str, tuple[str, ...]] = {
    "clarification": (
        "What exactly is asked here, and which operation does it call for?",
        "Can you say the question in your own words?",
        "Which numbers do you have, and what are you to do with them?",
    ),
    "assumptions": (
        "Good start. What do you take for granted about where a carry or a borrow goes?",
        "That is careful work. Are you assuming something about the places that you could test?",
    ),
    "evidence": (
        "I can follow you so far. How do you know that this line is true?",
        "Well reasoned. What would convince a friend that this step is right?",
    ),
    "perspective": (
        "Nice thinking. Could you see the same step in another way, by taking a number apart?",
        "You are on a good way. How would somebody explain this who counts with coins?",
    ),
    "implications": (
        "That holds. What follows from it for the next place?",
        "Well found. If that is so, what is left to do?",
    ),
    "meta-questions": (
        "You got there by yourself. Which step decided it, and how would you check the result?",
        "That is your own solution. Which question helped you most, and where else would it help?",
    ),
}
_MIDDLE = ("assumptions", "evidence", "perspective", "implications")


def dialogue(rng: random.Random, question: str, lines: list[str], exchanges: int) -> list[Message]:
    """A conversation of `exchanges` pairs of turns; `lines` is the worked solution, which the student finds."""
    middle = rng.sample(_MIDDLE * 2, min(max(exchanges - 2, 0), 8))
    kinds = ["clarification", *middle, *["implications"] * (exchanges - 10), "meta-questions"][:exchanges]
    turns: list[Message] = []
    for kind, said in zip(kinds, _student(rng, question, lines, exchanges), strict=True):
        turns += [{"role": "user", "content": said}, {"role": "assistant", "content": rng.choice(KINDS[kind])}]
    return turns


def _student(rng: random.Random, question: str, lines: list[str], exchanges: int) -> list[str]:
    """What the student says in each exchange: the problem, then the solution piece by piece."""
    said = [rng.choice(_OPENINGS).format(question=question)]
    for part in range(1, exchanges):
        piece = lines[len(lines) * (part - 1) // (exchanges - 1) : len(lines) * part // (exchanges - 1)]
        said.append(f"I write: {', '.join(piece)}." if piece else "Let me look at that line once more.")
    return said

"""Quoting other people's text inside a prompt so that it comes out again exactly.

`<name>` and `</name>` stand alone on their lines. Where a text may hold anything (an attempt), each of its lines gets
a margin (`  3| `), so that nothing in it can look like the end of the block.
"""

import re
from collections.abc import Sequence

from luna.arithmetic.reading import read_attempt
from luna.lm.chat import Message

_MARGIN = re.compile(r"^ *\d*\| ", re.MULTILINE)


def block(name: str, text: str) -> str:
    """A text between tags."""
    return f"<{name}>\n{text}\n</{name}>"


def attempt_block(attempt: str) -> str:
    """An attempt between tags; its thinking lines are numbered from 1, as `read_attempt` counts them."""
    thinking = read_attempt(attempt).lines
    rows, seen = [], 0
    for row in attempt.split("\n"):
        counts = seen < len(thinking) and thinking[seen] in row
        seen += counts
        rows.append(f"{seen if counts else '':>3}| {row}")
    return block("attempt", "\n".join(rows))


def conversation_block(messages: Sequence[Message]) -> str:
    """Turns between tags, each line behind a margin."""
    rows = [row for turn in messages for row in f"{turn['role']}: {turn['content']}".split("\n")]
    return block("conversation", "\n".join(f"   | {row}" for row in rows))


def read_block(name: str, prompt: str) -> str | None:
    """The text between the tags of `name`, or None."""
    found = re.search(rf"^<{name}>\n(.*?)\n</{name}>$", prompt, re.MULTILINE | re.DOTALL)
    return found[1] if found else None


def read_attempt_block(prompt: str) -> str | None:
    """The attempt as it was before `attempt_block`, or None."""
    text = read_block("attempt", prompt)
    return None if text is None else _MARGIN.sub("", text)

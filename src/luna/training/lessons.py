"""Lessons: what the model is trained on, from accepted records.

Every record gives its question with the student's corrected reasoning, or with the teacher's where the student never
came right. Where a hint was given, that right reply is also a lesson for what the student then had in view, so that the
next generation takes hints, also on what this one could not do with their help.
"""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from luna.arithmetic.reading import CLOSE, OPEN
from luna.enhance.students import Dialogue, Turn, retry_view
from luna.errors import BadRecord
from luna.lm.chat import IGNORE, Example, Message, encode, prompt_ids
from luna.records import Record
from luna.settings import Preset

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Lesson(NamedTuple):
    """A conversation to learn: the loss counts on what the assistant says after `given`, the start of its reply."""

    before: list[Message]
    given: str
    reply: str


def lessons_of(record: Record, preset: Preset, rng: random.Random) -> list[Lesson]:
    """The lessons of one accepted record."""
    before = _before_answer(record)
    turns = [Turn(**turn) for turn in record.metadata.get("attempts") or []]
    if preset.lessons.thinking == "iterative":
        return [Lesson(before, "", _told(record))]
    final = turns[-1].attempt if turns and turns[-1].correct else _told(record)
    lessons = [Lesson(before, "", final)]
    for number in range(1, len(turns)):
        view = retry_view(Dialogue(before, turns[:number]), preset.student.retry_view)
        if final.startswith(view.kept) and rng.random() < preset.lessons.after_hint:
            lessons.append(Lesson(view.messages, view.kept + view.hint, final.removeprefix(view.kept)))
    return lessons


def _told(record: Record) -> str:
    """The reply in the record's own words."""
    thinking = f"{OPEN}\n{record.thinking}\n{CLOSE}\n" if record.thinking else ""
    return thinking + record.answer


def _before_answer(record: Record) -> list[Message]:
    last = max(i for i, turn in enumerate(record.messages) if turn.role == "user")
    return [{"role": turn.role, "content": turn.content} for turn in record.messages[: last + 1]]


def encode_lesson(tokenizer: "PreTrainedTokenizerBase", lesson: Lesson, max_length: int) -> Example:
    """A lesson as a training example; the loss counts on the last reply after what is given of it.

    Raises:
        ValueError: as `luna.lm.chat.encode`, or the given part does not end where a token ends.
    """
    said: Message = {"role": "assistant", "content": lesson.given + lesson.reply}
    example = encode(tokenizer, [*lesson.before, said], max_length)
    known = prompt_ids(tokenizer, lesson.before, lesson.given)
    if example["input_ids"][: len(known)] != known:
        raise ValueError("the reply's tokens change with what stands before them; strip its white space")
    return {
        "input_ids": example["input_ids"],
        "labels": [IGNORE] * len(known) + example["labels"][len(known) :],
    }


def encode_lessons(
    tokenizer: "PreTrainedTokenizerBase",
    records: Sequence[Record],
    preset: Preset,
    seed: int,
    source: str = "data/judged.jsonl",
) -> list[Example]:
    """All lessons of all records as training examples.

    Args:
        source: the file that the records come from, for the error.

    Raises:
        BadRecord: a lesson cannot be encoded; names its record.
    """
    rng = random.Random(seed)
    examples = []
    for number, record in enumerate(records, start=1):
        for lesson in lessons_of(record, preset, rng):
            try:
                examples.append(encode_lesson(tokenizer, lesson, preset.model.max_length))
            except ValueError as error:
                name = record.metadata.get("id", f"record {number}")
                raise BadRecord(f"{source}: {name}: {error}; raise model.max_length or drop it") from error
    return examples

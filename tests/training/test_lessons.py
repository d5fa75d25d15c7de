"""Lessons: what is taught of a record, and that the loss counts on exactly that."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from luna.errors import BadRecord
from luna.lm.chat import IGNORE, Message, prompt_ids
from luna.records import Record
from luna.settings import Preset, Settings
from luna.training.lessons import Lesson, encode_lesson, encode_lessons, lessons_of

QUESTION: list[Message] = [{"role": "user", "content": "What is 47+38?"}]
WORDS = st.text("0123456789+-= abcdefgh.,?\n", max_size=30)


@pytest.fixture(scope="module")
def tokenizer(tiny_model_folder: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(tiny_model_folder)


@pytest.fixture
def preset(tiny_settings: Callable[..., Settings]) -> Callable[..., Preset]:
    """The tiny preset with lessons and the view after a hint as named."""

    def make(retry_view: str = "right_lines", **lessons: Any) -> Preset:
        base = tiny_settings().preset
        student = base.student.model_copy(update={"retry_view": retry_view})
        lessons = {"thinking": "final", "after_hint": 1.0, **lessons}
        return base.model_copy(update={"student": student, "lessons": base.lessons.model_copy(update=lessons)})

    return make


def _parts(tokenizer: PreTrainedTokenizerFast, example: Any) -> tuple[str, str]:
    """The text without loss and the text with loss, which is one piece; behind it the template breaks the line."""
    ids, labels = example["input_ids"], example["labels"]
    places = [place for place, label in enumerate(labels) if label != IGNORE]
    first, last = places[0], places[-1] + 1
    assert places == list(range(first, last))
    assert labels[first:last] == ids[first:last]
    assert tokenizer.decode(ids[last:]) == "\n"
    return tokenizer.decode(ids[:first]), tokenizer.decode(ids[first:last])


@given(before=WORDS, reply=WORDS, given_lines=st.lists(WORDS, max_size=3), thinking=st.booleans())
def test_the_loss_counts_on_the_reply_after_what_is_given_and_on_nothing_else(
    tokenizer: PreTrainedTokenizerFast, before: str, reply: str, given_lines: list[str], thinking: bool
) -> None:
    given_ = ("<think>\n" if thinking else "") + "".join(f"{line}\n" for line in given_lines)
    lesson = Lesson([{"role": "user", "content": before}], given_, reply)
    try:
        example = encode_lesson(tokenizer, lesson, 512)
    except ValueError:  # the edge melts into a token: refused instead of masked askew
        assume(False)
    silent, taught = _parts(tokenizer, example)
    assert taught == f"{reply}<|im_end|>"
    assert silent == f"<|im_start|>user\n{before}<|im_end|>\n<|im_start|>assistant\n{given_}"


def test_an_edge_inside_of_a_token_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer("ones", add_special_tokens=False)["input_ids"]) == 1
    with pytest.raises(ValueError, match="strip its white space"):
        encode_lesson(tokenizer, Lesson(QUESTION, "on", "es 7+8+0=15"), 512)


def test_a_lesson_that_is_too_long_names_its_record(
    tokenizer: PreTrainedTokenizerFast, accepted_records: list[Record], preset: Callable[..., Preset]
) -> None:
    short = preset().model_copy(update={"model": preset().model.model_copy(update={"max_length": 30})})
    with pytest.raises(BadRecord, match=r"^data/judged\.jsonl: r0: \d+ tokens are more than max_length 30; raise"):
        encode_lessons(tokenizer, accepted_records, short, 0)


def test_final_lessons_teach_the_corrected_attempt_and_every_retry(
    tokenizer: PreTrainedTokenizerFast, accepted_records: list[Record], preset: Callable[..., Preset]
) -> None:
    for number, record in enumerate(accepted_records):
        lessons = lessons_of(record, preset(), random.Random(0))
        assert len(lessons) == 1 + number % 3
        attempts = record.metadata["attempts"]
        silent, taught = _parts(tokenizer, encode_lesson(tokenizer, lessons[0], 512))
        assert taught == attempts[-1]["attempt"] + "<|im_end|>"
        assert silent.endswith("assistant\n")
        for turn, lesson in zip(attempts, lessons[1:], strict=False):
            silent, taught = _parts(tokenizer, encode_lesson(tokenizer, lesson, 512))
            kept = "".join(f"{line}\n" for line in turn["attempt"].split("\n")[: 1 + turn["first_wrong_line"]])
            assert (
                silent
                == f"<|im_start|>user\n{record.question}<|im_end|>\n<|im_start|>assistant\n{kept}{turn['hint']}\n"
            )
            assert kept + taught == attempts[-1]["attempt"] + "<|im_end|>"
            assert turn["hint"] not in taught


def test_transcript_lessons_show_the_talk_and_teach_the_last_reply_alone(
    tokenizer: PreTrainedTokenizerFast, accepted_records: list[Record], preset: Callable[..., Preset]
) -> None:
    record = accepted_records[2]
    lessons = lessons_of(record, preset("transcript"), random.Random(0))
    assert [len(lesson.before) for lesson in lessons] == [1, 3, 5]
    for lesson in lessons:
        silent, taught = _parts(tokenizer, encode_lesson(tokenizer, lesson, 1024))
        assert taught == record.metadata["attempts"][-1]["attempt"] + "<|im_end|>"
        assert all(message["content"] in silent for message in lesson.before)
    assert record.metadata["attempts"][1]["hint"] in lessons[2].before[-1]["content"]


def test_the_share_of_lessons_after_a_hint_is_a_dial(
    accepted_records: list[Record], preset: Callable[..., Preset]
) -> None:
    def count(share: float, seed: int = 0) -> int:
        rng = random.Random(seed)
        return sum(len(lessons_of(record, preset(after_hint=share), rng)) for record in accepted_records * 20)

    assert count(0.0) == 20 * 12
    assert count(1.0) == 20 * 24
    assert 20 * 12 + 80 < count(0.5) < 20 * 24 - 80


def test_a_correction_that_drops_the_right_lines_is_no_lesson_after_the_hint(preset: Callable[..., Preset]) -> None:
    wrong = {"attempt": "<think>\n47+38\nones 1", "correct": False, "reason": "", "first_wrong_line": 1, "hint": "h"}
    right = {"attempt": "85", "correct": True, "reason": "", "first_wrong_line": None, "hint": None}
    messages = [*QUESTION, {"role": "assistant", "content": "85"}]
    record = Record.model_validate({"messages": messages, "metadata": {"attempts": [wrong, right]}})
    assert lessons_of(record, preset(), random.Random(0)) == [Lesson(QUESTION, "", "85")]


def test_hints_that_did_not_help_are_lessons_with_the_teachers_reply(
    tokenizer: PreTrainedTokenizerFast, preset: Callable[..., Preset]
) -> None:
    kept, other = "<think>\n47+38\n", "<think>\n40+30=70\n"
    attempts = [
        {"attempt": f"{kept}ones 1", "correct": False, "reason": "", "first_wrong_line": 1, "hint": "Check this: 7+8."},
        {"attempt": f"{other}so 80", "correct": False, "reason": "", "first_wrong_line": 1, "hint": "Look again."},
        {"attempt": "80", "correct": False, "reason": "", "first_wrong_line": 0, "hint": None},
    ]
    solution = "47+38\nones 7+8+0=15\ntens 4+3+1=08\nso 85"
    messages = [*QUESTION, {"role": "assistant", "content": "85"}]
    record = Record.model_validate({"messages": messages, "metadata": {"attempts": attempts, "thinking": solution}})
    reply = f"<think>\n{solution}\n</think>\n85"
    after_hint = Lesson(QUESTION, f"{kept}Check this: 7+8.\n", reply.removeprefix(kept))
    lessons = lessons_of(record, preset(), random.Random(0))
    assert lessons == [Lesson(QUESTION, "", reply), after_hint]
    _, taught = _parts(tokenizer, encode_lesson(tokenizer, after_hint, 512))
    assert taught == after_hint.reply + "<|im_end|>"


def test_iterative_lessons_teach_the_whole_story_and_the_records_answer(
    tokenizer: PreTrainedTokenizerFast, accepted_records: list[Record], preset: Callable[..., Preset]
) -> None:
    record = accepted_records[2]
    [lesson] = lessons_of(record, preset(thinking="iterative"), random.Random(0))
    _, taught = _parts(tokenizer, encode_lesson(tokenizer, lesson, 512))
    assert taught == f"<think>\nthought\n</think>\n{record.answer}<|im_end|>"


@pytest.mark.parametrize("thinking", ["final", "iterative"])
def test_a_record_without_attempts_teaches_its_own_thinking(thinking: str, preset: Callable[..., Preset]) -> None:
    turns = [{"role": "system", "content": "s"}, *QUESTION, {"role": "assistant", "content": "85"}]
    with_thought = Record.model_validate({"messages": turns, "metadata": {"thinking": "7+8"}})
    without = Record.model_validate({"messages": turns})
    rng = random.Random(0)
    assert lessons_of(with_thought, preset(thinking=thinking), rng)[0].reply == "<think>\n7+8\n</think>\n85"
    assert lessons_of(without, preset(thinking=thinking), rng) == [
        Lesson([{"role": "system", "content": "s"}, *QUESTION], "", "85")
    ]


def test_encoded_lessons_are_the_prompt_the_student_will_see(
    tokenizer: PreTrainedTokenizerFast, accepted_records: list[Record], preset: Callable[..., Preset]
) -> None:
    """Training and sampling agree on the tokens before the reply."""
    for lesson in lessons_of(accepted_records[2], preset(), random.Random(0)):
        known = prompt_ids(tokenizer, lesson.before, lesson.given)
        assert encode_lesson(tokenizer, lesson, 512)["input_ids"][: len(known)] == known


def test_the_same_seed_gives_the_same_lessons(
    tokenizer: PreTrainedTokenizerFast, accepted_records: list[Record], preset: Callable[..., Preset]
) -> None:
    half = preset(after_hint=0.5)
    encoded = [encode_lessons(tokenizer, accepted_records, half, seed) for seed in (0, 0, 1, 2, 3)]
    assert encoded[0] == encoded[1]
    assert any(other != encoded[0] for other in encoded[2:])

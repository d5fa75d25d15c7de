"""The story of an example's attempts: complete, long enough, and "Aha!" only where a hint landed."""

from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luna.enhance.dialogues import read_dialogues, write_dialogues
from luna.enhance.run import _with_thinking
from luna.enhance.students import Dialogue, Turn, retry_view, right_lines
from luna.enhance.thinking import AHA, iterative_thinking, landed, split_reply
from luna.lm.chat import Message
from luna.records import Record

QUESTION: list[Message] = [{"role": "user", "content": "What is 47+38?"}]
WRONG = "<think>\n47+38\nones 7+8+0=14\ntens 4+3+1=08\nso 84\n</think>\n84"
LATER = "<think>\n47+38\nones 7+8+0=15\ntens 4+3+1=09\nso 95\n</think>\n95"
RIGHT = "<think>\n47+38\nones 7+8+0=15\ntens 4+3+1=08\nso 85\n</think>\n85"

text = st.text(min_size=1, max_size=40).filter(lambda said: AHA not in said and said.strip())
turns = st.builds(
    Turn, attempt=text, correct=st.just(False), reason=text, first_wrong_line=st.none() | st.integers(0, 5), hint=text
)


def _story(*said: Turn) -> str:
    return iterative_thinking(Dialogue(QUESTION, list(said)))


@given(st.lists(turns, max_size=4), text, st.booleans())
def test_a_story_holds_every_attempt_every_check_and_every_hint(wrong: list[Turn], last: str, converged: bool) -> None:
    dialogue = Dialogue(QUESTION, [*wrong, Turn(last, converged, "checked", None)])
    story = iterative_thinking(dialogue)
    assert "What is 47+38?" in story
    for turn in dialogue.turns:
        assert split_reply(turn.attempt)[0] in story
    assert all(hint in story for hint in dialogue.hints)
    assert story.count("Check of attempt ") == len(dialogue.turns)


@given(st.lists(turns, max_size=4), st.booleans(), st.none() | st.integers(0, 5))
def test_aha_is_said_exactly_once_for_each_hint_that_landed(
    wrong: list[Turn], converged: bool, line: int | None
) -> None:
    dialogue = Dialogue(QUESTION, [*wrong, Turn("46", converged, "r", None if converged else line)])
    pairs = zip(dialogue.turns, dialogue.turns[1:], strict=False)
    assert iterative_thinking(dialogue).count(AHA) == sum(landed(before, after) for before, after in pairs)


def test_a_hint_lands_when_the_mistake_is_gone() -> None:
    hinted = Turn(WRONG, False, "r", 1, hint="Check this: ones 7+8+0.")
    assert landed(hinted, Turn(RIGHT, True, "r", None))
    assert landed(hinted, Turn(LATER, False, "r", 2))
    assert not landed(hinted, Turn(WRONG, False, "r", 1))
    assert not landed(hinted, Turn(WRONG, False, "r", 0))
    assert not landed(hinted, Turn(WRONG, False, "r", None))
    assert not landed(Turn(WRONG, False, "r", 1), Turn(RIGHT, True, "r", None))


def test_aha_stands_at_the_attempt_that_the_hint_led_to() -> None:
    missed = Turn(WRONG, False, "r", 1, hint="First hint.")
    story = _story(missed, Turn(WRONG, False, "r", 1, hint="Second hint."), Turn(RIGHT, True, "r", None))
    assert story.count(AHA) == 1
    assert story.index("Second hint.") < story.index(AHA) < story.index("Attempt 3")


def test_right_at_once_is_told_without_aha_and_with_its_check() -> None:
    story = _story(Turn(RIGHT, True, "every statement is true", None))
    assert AHA not in story
    assert "tens 4+3+1=08" in story
    assert "Every statement is true." in story
    assert story.rstrip().endswith("85")


def test_blind_retries_are_no_aha() -> None:
    assert AHA not in _story(Turn(WRONG, False, "r", 1), Turn(RIGHT, True, "r", None))


def test_what_stayed_open_claims_no_answer() -> None:
    story = _story(Turn(WRONG, False, "r", 1, hint="h"), Turn("<think>\n47+38", False, "it never ends", 1))
    assert AHA not in story
    assert "Answer: " not in story.rpartition("Check of attempt 2")[2]


@pytest.mark.parametrize("reason", ["right answer, every statement is true", ""])
def test_even_the_shortest_story_has_more_than_two_hundred_characters(reason: str) -> None:
    context: list[Message] = [{"role": "user", "content": "What is 10-10?"}]
    assert len(iterative_thinking(Dialogue(context, [Turn("0", True, reason, None)]))) > 200


@pytest.mark.parametrize(
    ("reply", "parts"),
    [
        (RIGHT, ("47+38\nones 7+8+0=15\ntens 4+3+1=08\nso 85", "85")),
        ("85", ("85", "85")),
        ("<think>\n47+38", ("47+38", "")),
    ],
)
def test_a_reply_is_split_into_thinking_and_answer(reply: str, parts: tuple[str, str]) -> None:
    assert split_reply(reply) == parts


# ---------------------------------------------------------------- the record


def test_exactly_four_fields_of_metadata_are_set() -> None:
    record = Record.model_validate(
        {
            "messages": [
                {"role": "user", "content": "What is 47+38?", "name": "Ann"},
                {"role": "assistant", "content": "85"},
            ],
            "metadata": {"thinking": "old", "question_type": "FACTUAL", "confidence": 0.9, "mine": {"deep": [1]}},
            "source": "a document",
        }
    )
    before = record.model_dump(mode="json")
    dialogue = Dialogue(QUESTION, [Turn(WRONG, False, "r", 1, hint="h"), Turn(RIGHT, True, "r", None)])
    after = _with_thinking(record, dialogue).model_dump(mode="json")
    metadata, old = after.pop("metadata"), before.pop("metadata")
    assert after == before
    changed = {name for name in metadata if name not in old or metadata[name] != old[name]}
    assert changed == {"original_thinking", "thinking", "thinking_iterations", "thinking_converged"}
    assert metadata.keys() >= old.keys()
    assert (metadata["original_thinking"], metadata["thinking_iterations"], metadata["thinking_converged"]) == (
        "old",
        2,
        True,
    )
    assert metadata["thinking"] == iterative_thinking(dialogue)
    assert record.metadata["thinking"] == "old"


def test_a_record_without_thinking_has_none_as_its_original() -> None:
    record = Record.model_validate(
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    )
    enhanced = _with_thinking(record, Dialogue(QUESTION, [Turn("<think>\n", False, "r", 0)]))
    assert enhanced.metadata["original_thinking"] is None
    assert enhanced.metadata["thinking_converged"] is False


# ---------------------------------------------------------------- on disk and in view


@given(st.lists(st.lists(turns, max_size=3), min_size=1, max_size=4))
def test_dialogues_come_back_from_disk_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, said: list[list[Turn]]
) -> None:
    path = tmp_path_factory.mktemp("dialogues") / "d.jsonl"
    context: list[Message] = [{"role": "system", "content": "s"}, *QUESTION]
    dialogues = [Dialogue(context, one) for one in said]
    write_dialogues(path, dialogues)
    assert read_dialogues(path) == dialogues
    assert asdict(read_dialogues(path)[0]) == asdict(dialogues[0])


@pytest.mark.parametrize("kind", ["transcript", "right_lines"])
def test_without_hints_the_student_sees_the_question_alone(kind: str) -> None:
    for said in ([], [Turn(WRONG, False, "r", 1)]):
        view = retry_view(Dialogue(QUESTION, said), kind)
        assert (view.messages, view.kept, view.hint) == (QUESTION, "", "")


def test_the_transcript_shows_attempts_and_hints_as_turns() -> None:
    dialogue = Dialogue(QUESTION, [Turn(WRONG, False, "r", 1, hint="one"), Turn(LATER, False, "r", 2, hint="two")])
    view = retry_view(dialogue, "transcript")
    assert [turn["content"] for turn in view.messages] == ["What is 47+38?", WRONG, "one", LATER, "two"]
    assert [turn["role"] for turn in view.messages] == ["user", "assistant", "user", "assistant", "user"]
    assert (view.kept, view.hint) == ("", "")
    assert len(QUESTION) == 1


def test_right_lines_keep_what_was_right_and_put_the_last_hint_behind_it() -> None:
    dialogue = Dialogue(QUESTION, [Turn(WRONG, False, "r", 1, hint="one"), Turn(LATER, False, "r", 2, hint="two")])
    view = retry_view(dialogue, "right_lines")
    assert view.messages == QUESTION
    assert view.kept == "<think>\n47+38\nones 7+8+0=15\n"
    assert view.hint == "two\n"


@pytest.mark.parametrize(
    ("attempt", "line", "kept"),
    [
        (WRONG, 1, "<think>\n47+38\n"),
        (WRONG, 0, "<think>\n"),
        (WRONG, None, "<think>\n"),
        (LATER, 99, "<think>\n47+38\nones 7+8+0=15\ntens 4+3+1=09\nso 95\n"),
        ("no thinking at all", 0, "<think>\n"),
        ("<think>\n\n 47+38 \n\nones 7+8", 1, "<think>\n47+38\n"),
    ],
)
def test_right_lines_are_those_before_the_mistake(attempt: str, line: int | None, kept: str) -> None:
    assert right_lines(Turn(attempt, False, "r", line)) == kept

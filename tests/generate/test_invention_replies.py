import json

import pytest

from luna.generate.replies import parse_conversations, parse_invention
from luna.llm.replies import UnusableReplyError

GOOD = {"question": "What is 2+2?", "thinking": "2+2\nso 4", "answer": "4"}


def _turns(exchanges):
    return [
        turn
        for i in range(exchanges)
        for turn in ({"role": "user", "content": f"u{i}"}, {"role": "assistant", "content": f"a{i}"})
    ]


def test_an_invention_is_read_and_repair_is_told():
    strict = parse_invention(json.dumps(GOOD))
    assert (strict.question, strict.thinking, strict.answer, strict.repaired) == (*GOOD.values(), False)
    assert parse_invention(json.dumps(GOOD)[:-1] + ",}").repaired


@pytest.mark.parametrize("missing", list(GOOD))
def test_a_missing_field_is_the_reason(missing):
    with pytest.raises(UnusableReplyError, match=f"no {missing}"):
        parse_invention(json.dumps({**GOOD, missing: ""}))


def test_conversations_are_read_without_their_system_turn():
    system = {"role": "system", "content": "s"}
    text = json.dumps([{"conversations": [system, *_turns(3)]}, {"messages": _turns(3)}])
    dialogues = parse_conversations(text, 3, conversations=2)
    assert [[turn.content for turn in turns] for turns in dialogues.turns] == [["u0", "a0", "u1", "a1", "u2", "a2"]] * 2


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "another number of conversations"),
        ([{"conversations": _turns(2)}], "another number of exchanges"),
        ([{"conversations": _turns(3)[::-1]}], "out of order"),
        ([{"conversations": [{"role": "robot", "content": "x"}]}], "without role"),
        ([{"conversations": 3}], "without role"),
        (
            [{"conversations": [*_turns(2), {"role": "user", "content": " "}, {"role": "assistant", "content": "a"}]}],
            "empty turn",
        ),
    ],
)
def test_conversations_that_are_not_as_asked_are_refused(value, reason):
    with pytest.raises(UnusableReplyError, match=reason):
        parse_conversations(json.dumps(value), 3)

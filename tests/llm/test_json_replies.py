import pytest

from luna.llm.replies import UnusableReplyError, read_json, text_field


@pytest.mark.parametrize(
    ("text", "repaired"),
    [
        ('{"a": 1}', False),
        ('  {"a": 1}\n', False),
        ('```json\n{"a": 1}\n```', False),
        ('Here you are:\n{"a": 1}\nGood luck!', False),
        ('<think>{maybe}</think>\n```\n{"a": 1}\n```', False),
        ('<think>\n{"a": 2}\n</think>\n{"a": 1}', False),
        ("{'a': 1}", True),
        ('{"a": 1,}', True),
        ("{a: 1}", True),
    ],
)
def test_json_is_found_and_small_damage_mended(text, repaired):
    assert read_json(text, dict) == ({"a": 1}, repaired)


def test_a_raw_newline_inside_a_string_is_no_damage():
    assert read_json('{"a": "x\ny"}', dict) == ({"a": "x\ny"}, False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("I teach integer arithmetic only.", "no JSON"),
        ('{"question": "What", "answer": "def f(): { return 1 } and th', "breaks off"),
    ],
)
def test_what_is_no_json_or_breaks_off_is_refused_with_the_reason(text, reason):
    with pytest.raises(UnusableReplyError, match=reason):
        read_json(text, dict)


def test_an_array_is_no_object():
    with pytest.raises(UnusableReplyError):
        read_json("[1, 2]", dict)
    with pytest.raises(UnusableReplyError, match="breaks off"):
        read_json('[{"a": 1}, {"a"', list)
    assert read_json("[1, 2]", list) == ([1, 2], False)


def test_fields_as_text():
    assert text_field({"a": 195}, "a") == "195"
    assert text_field({"a": ["x", "y"]}, "a") == "x\ny"
    for value in ({}, {"a": ""}, {"a": None}, {"a": True}, {"a": {"b": 1}}):
        with pytest.raises(UnusableReplyError, match="no a"):
            text_field(value, "a")

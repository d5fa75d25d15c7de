"""Records are read whole or refused by file and line."""

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luna.errors import BadRecord
from luna.records import (
    Record,
    parse_records,
    read_lines,
    read_records,
    sift_records,
    write_lines,
    write_records,
)

GOOD = {
    "messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}],
    "metadata": {"thinking": "two and two", "question_type": "FACTUAL"},
}


def written(tmp_path, *lines):
    path = tmp_path / "r.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def complaint(path):
    with pytest.raises(BadRecord) as caught:
        read_records(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_blank_lines_are_skipped_and_counted(tmp_path):
    path = written(tmp_path, json.dumps(GOOD), "", "{broken")
    assert complaint(path).startswith(f"{path}:3: broken JSON at column 2")


def test_question_answer_and_thinking_are_the_last_ones(tmp_path):
    longer = {"messages": [*GOOD["messages"], *GOOD["messages"]], "metadata": {}}
    longer["messages"][3:] = [{"role": "assistant", "content": "four"}]
    record = read_records(written(tmp_path, json.dumps(longer)))[0]
    assert (record.question, record.answer, record.thinking) == ("2+2?", "four", "")


def test_lines_of_another_source_are_named_after_it():
    text = json.dumps(GOOD | {"metadata": {"thinking": "a line\u2028goes on"}}, ensure_ascii=False)
    assert [record.thinking for record in parse_records("Luna-G001:r.jsonl", [text, ""])] == ["a line\u2028goes on"]
    with pytest.raises(BadRecord, match=r"^Luna-G001:r\.jsonl:3: broken JSON at column 2"):
        parse_records("Luna-G001:r.jsonl", [text, "", "{broken"])


def test_a_file_may_be_empty_where_that_is_said(tmp_path):
    assert complaint(written(tmp_path)).endswith("holds no record; give at least one line of JSON")
    assert read_records(written(tmp_path), allow_empty=True) == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"metadata": {}}, "messages: field required"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role:"),
        ({"messages": [{"role": "user"}]}, "messages.0.content: field required"),
        ({"messages": "hello"}, "messages:"),
        ({"messages": [{"role": "user", "content": "x"}]}, "needs a user turn and an assistant turn; has ['user']"),
        ({"messages": []}, "needs a user turn and an assistant turn; has []"),
        ([], "the line:"),
    ],
)
def test_malformed_line_names_file_line_and_key(tmp_path, line, expected):
    path = written(tmp_path, json.dumps(GOOD), json.dumps(line))
    message = complaint(path)
    assert message.startswith(f"{path}:2: ")
    assert expected in message


BAD_LINES = {
    "no JSON": (b"oops", "broken JSON at column 1"),
    "JSON that breaks off": (b'{"messages": [', "broken JSON at column"),
    "two objects": (b"{} {}", "broken JSON at column 4 (Extra data)"),
    "a list": (b"[]", "the line: is no JSON object"),
    "a number": (b"3", "the line: is no JSON object"),
    "null": (b"null", "the line: is no JSON object"),
    "no messages": (b'{"metadata": {}}', "messages: field required"),
    "messages that are none": (b'{"messages": "hello"}', "messages: input should be a valid list"),
    "no turns": (b'{"messages": []}', "messages: needs a user turn and an assistant turn; has []"),
    "a turn that is none": (b'{"messages": ["hi"]}', "messages.0:"),
    "a wrong role": (b'{"messages": [{"role": "tool", "content": "x"}]}', "messages.0.role:"),
    "no content": (b'{"messages": [{"role": "user"}]}', "messages.0.content: field required"),
    "content that is null": (b'{"messages": [{"role": "user", "content": null}]}', "messages.0.content:"),
    "content in parts": (b'{"messages": [{"role": "user", "content": [{"text": "x"}]}]}', "messages.0.content:"),
    "a question alone": (b'{"messages": [{"role": "user", "content": "x"}]}', "needs a user turn and an assistant"),
    "an answer alone": (b'{"messages": [{"role": "assistant", "content": "x"}]}', "needs a user turn and an assistant"),
    "no last answer": (b'{"messages": [U, A, U]}', "messages: ends with a question"),
    "an empty question": (b'{"messages": [{"role": "user", "content": " "}, A]}', "the question is empty"),
    "an empty answer": (b'{"messages": [U, {"role": "assistant", "content": ""}]}', "the answer is empty"),
    "metadata that is none": (b'{"messages": [U, A], "metadata": [1]}', "metadata: input should be a valid dict"),
    "metadata that is null": (b'{"messages": [U, A], "metadata": null}', "metadata: input should be a valid dict"),
    "a NUL": (b'{"messages": [U, A], "x": "\x00"}', "broken JSON at column"),
    "a NUL in a turn": (b'{"messages": [{"role": "user", "content": "\\u0000"}, A]}', "holds a NUL character"),
    "half a character": (b'{"messages": [U, A], "x": "\\udc00"}', "\\udc00 is half of a character"),
    "another encoding": (b'{"messages": [U, A], "x": "\xe4"}', "is not UTF-8 (byte"),
    "no number": (b'{"messages": [U, A], "x": -Infinity}', "-Infinity is no number of JSON"),
    "too big a number": (b'{"messages": [U, A], "x": 1e999}', "out of range"),
    "too long a number": (b'{"messages": [U, A], "x": ' + b"9" * 5000 + b"}", "exceeds the limit"),
    "a key twice": (b'{"messages": [U, A], "x": 1, "x": 2}', "the key 'x' stands twice in one object"),
    "a megabyte": (b'{"messages": [U, A], "x": "' + b"x" * 1_000_000 + b'"}', "over 1000000; cut it"),
    "a deep well": (b'{"x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "is nested too deeply"),
    "an id twice": (b'{"messages": [U, A], "metadata": {"id": "i1"}}', "id: 'i1' stands in line 1 too"),
}
TURNS = {b"U": b'{"role": "user", "content": "q"}', b"A": b'{"role": "assistant", "content": "a"}'}


def _spelled(line):
    """`U` and `A` that stand alone become turns."""
    for name, turn in TURNS.items():
        line = re.sub(rb"(?<=[\[ ])" + name + rb"(?=[,\]])", lambda _, turn=turn: turn, line)
    return line


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_is_named_and_set_aside(tmp_path, kind):
    line, says = BAD_LINES[kind]
    path, good = tmp_path / "r.jsonl", b'{"messages": [U, A], "metadata": {"id": "i%d"}}'
    path.write_bytes(b"\n".join(_spelled(one) for one in (good % 1, b"", line, good % 2)))
    sifted = sift_records(path, unique_ids=True)
    [bad] = sifted.bad
    assert (bad.line, bad.text) == (3, _spelled(line).decode("utf-8", "backslashreplace"))
    assert bad.reason.startswith(f"{path}:3: ")
    assert says.lower() in bad.reason.lower()
    assert "\n" not in bad.reason
    assert len(bad.reason) < 400
    assert [row["metadata"]["id"] for row in sifted.rows] == ["i1", "i2"]
    assert [record.metadata for record in sifted.records] == [row["metadata"] for row in sifted.rows]


def test_what_is_odd_but_clear_is_read(tmp_path):
    path = tmp_path / "r.jsonl"
    lines = [
        b'\xef\xbb\xbf{"messages": [U, A]}',
        b'  {"messages": [U, A, U, A], "metadata": {}}\r',
        b'{"messages": [A, U, A]}',
    ]
    path.write_bytes(b"\n".join(map(_spelled, lines)))
    assert [len(record.messages) for record in read_records(path)] == [2, 4, 3]


def test_empty_missing_and_foreign_files_are_told_apart(tmp_path):
    assert "holds no record" in complaint(written(tmp_path, ""))
    assert "no such file" in complaint(tmp_path / "none.jsonl")
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(json.dumps(GOOD).encode() + b"\n\xe4\n")
    assert "is not UTF-8" in complaint(latin)


def test_unknown_fields_survive(tmp_path):
    odd = {**GOOD, "id": 7, "messages": [{**turn, "name": "x"} for turn in GOOD["messages"]]}
    path = written(tmp_path, json.dumps(odd))
    assert write_records(tmp_path / "out.jsonl", read_records(path)) == 1
    assert read_lines(tmp_path / "out.jsonl") == [odd]


@given(content=st.text(st.characters(codec="utf-8")))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_text_survives_the_round_trip(tmp_path, content):
    record = Record.model_validate(GOOD | {"metadata": {"thinking": content}})
    write_records(tmp_path / "r.jsonl", [record, record])
    assert read_records(tmp_path / "r.jsonl") == [record, record]


def test_row_that_fails_halfway_keeps_the_old_file(tmp_path):
    path = written(tmp_path, json.dumps(GOOD))

    def rows():
        yield {"fine": 1}
        raise RuntimeError("lost the teacher")

    with pytest.raises(RuntimeError, match="lost the teacher"):
        write_lines(path, rows())
    assert read_lines(path) == [GOOD]

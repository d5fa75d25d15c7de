"""Records are read whole or refused by file and line."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luna.errors import BadRecord
from luna.records import Record, parse_records, read_lines, read_records, write_lines, write_records

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

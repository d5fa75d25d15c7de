"""A file of one's own through the loop, with an API student or a tiny local one, by Python and by command."""

import asyncio
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from luna.arithmetic.problems import SKILLS, sample
from luna.arithmetic.wording import ask
from luna.cli import app
from luna.enhance import StudentTeacherConfig, ThinkingEnhancer, hints
from luna.enhance.enhancer import failed_file
from luna.enhance.hints import SAFE_HINT
from luna.enhance.thinking import AHA
from luna.errors import BadRecord, BadSettings
from luna.records import read_lines, write_lines

REPO = Path(__file__).parents[2]
HINT = "Look at the second sentence again."  # as the teacher of `roles` says it
ADDED = {"original_thinking", "thinking", "thinking_iterations", "thinking_converged"}


def _document(question: str, answer: str, **metadata: Any) -> dict[str, Any]:
    """A record as a document database exports it."""
    return {
        "messages": [
            {"role": "system", "content": "Document: Harbour notes. Section: 2.\n</question>\nIt is of red granite."},
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ],
        "metadata": metadata,
    }


RECORDS = [
    _document("What is it of?", "Red granite.", thinking="see 2", question_type="FACTUAL", confidence=0.875, mine=[1]),
    _document("An easy one: where is it?", "In the harbour."),
    {**_document("Wie alt ist er, never mind?", "Hundert Jahre — 百年"), "source": {"page": 3}},
    {
        "url": "x",
        "metadata": {"thinking": None},
        "messages": [
            {"content": "Who?", "role": "user", "name": "Ann"},
            {"content": "Ada.", "role": "assistant"},
            {"content": "Since when?", "role": "user"},
            {"content": "1871", "role": "assistant"},
        ],
    },
    {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]},
]


def _enhance(
    roles: Any, folder: Path, rows: list[dict[str, Any]], **config: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Stats and output of a run with the roles on loopback."""
    write_lines(folder / "in.jsonl", rows)
    enhancer = ThinkingEnhancer(StudentTeacherConfig(**{**roles.roles, "root": folder, **config}))
    return enhancer.enhance_file(folder / "in.jsonl", folder / "out.jsonl"), read_lines(folder / "out.jsonl")


def test_an_api_student_goes_through_a_file(roles: Any, tmp_path: Path) -> None:
    stats, out = _enhance(roles, tmp_path, RECORDS)
    assert (stats["total_examples"], stats["enhanced_examples"], stats["failed_examples"]) == (5, 5, 0)
    assert stats["average_iterations"] == pytest.approx((2 + 1 + 3 + 2 + 2) / 5)
    assert stats["convergence_rate"] == pytest.approx(4 / 5)
    assert (stats["hint_leaks"], stats["hint_leaks_caught"], stats["bad_records"]) == (0, 0, 0)
    assert (stats["student"], stats["student_override"]) == ("hosted_vllm/student", True)
    assert stats["student_usage"]["calls_answered"] == 10
    for row, record in zip(out, RECORDS, strict=True):
        told = row["metadata"]
        assert told["original_thinking"] == record.get("metadata", {}).get("thinking")
        assert told["thinking_converged"] is ("never" not in str(record))
        assert told["thinking"].count("Hint: ") == told["thinking_iterations"] - 1
        assert told["thinking"].count(AHA) == (told["thinking_iterations"] == 2)
        assert len(told["thinking"]) > 200
    assert read_lines(failed_file(tmp_path / "out.jsonl")) == []


def test_teacher_and_judge_see_the_document_and_the_answer_and_the_student_no_answer(
    roles: Any, tmp_path: Path
) -> None:
    _enhance(roles, tmp_path, RECORDS[:1])
    for role in ("teacher", "judge"):
        for body in roles.asked(role):
            said = body["messages"][1]["content"]
            assert "   | system: Document: Harbour notes. Section: 2.\n   | </question>\n" in said
            assert "Red granite." in said
    assert len(roles.asked("student")) == 2
    assert not [body for body in roles.asked("student") if "Red granite." in str(body)]
    first, second = (body["messages"] for body in roles.asked("student"))
    assert second[: len(first)] == first == RECORDS[0]["messages"][:2]
    assert [turn["role"] for turn in second[len(first) :]] == ["assistant", "user"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
own = st.dictionaries(st.text(max_size=6).filter(lambda name: name not in {"id", "messages", "metadata"}), json_values)
words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8).map(lambda s: f"q{s}")


@st.composite
def rows(draw: Any) -> dict[str, Any]:
    turns = []
    for role in [*draw(st.sampled_from([[], ["system"], ["user", "assistant"]])), "user", "assistant"]:
        extra = {name: value for name, value in draw(own).items() if name not in {"role", "content"}}
        turns.append({**extra, "content": draw(words), "role": role})
    row: dict[str, Any] = {**draw(own), "messages": turns}
    return {**row, "metadata": draw(own)} if draw(st.booleans()) else row


@given(st.lists(rows(), min_size=1, max_size=4))
@hypothesis_settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_other_field_stays_byte_for_byte(
    roles: Any, tmp_path_factory: pytest.TempPathFactory, given_rows: list[dict[str, Any]]
) -> None:
    _, out = _enhance(roles, tmp_path_factory.mktemp("run"), given_rows, max_iterations=1)
    for before, after in zip(given_rows, out, strict=True):
        assert list(after) == [*before, *(["metadata"] if "metadata" not in before else [])]
        kept = {**after["metadata"]}
        for name in ADDED - set(before.get("metadata", {})):
            kept.pop(name)
        unchanged = {name: value for name, value in before.get("metadata", {}).items() if name not in ADDED}
        assert json.dumps({name: kept[name] for name in unchanged}) == json.dumps(unchanged)
        assert set(kept) == set(before.get("metadata", {}))
        for name in set(before) - {"metadata"}:
            assert json.dumps(after[name]) == json.dumps(before[name])


def test_a_file_that_was_enhanced_before_keeps_the_thinking_it_came_with(roles: Any, tmp_path: Path) -> None:
    _, once = _enhance(roles, tmp_path, RECORDS[:1])
    _, twice = _enhance(roles, tmp_path, once)
    assert twice[0]["metadata"]["original_thinking"] == "see 2"


def test_the_same_again_asks_nobody_and_writes_the_same_bytes(roles: Any, tmp_path: Path) -> None:
    _enhance(roles, tmp_path, RECORDS)
    first, asked = (tmp_path / "out.jsonl").read_bytes(), len(roles.requests)
    _enhance(roles, tmp_path, RECORDS)
    assert (tmp_path / "out.jsonl").read_bytes() == first
    assert len(roles.requests) == asked


def test_another_judge_and_another_parser_repeat_no_call(
    roles: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sent() -> dict[str, list[str]]:
        return {role: [json.dumps(one) for one in roles.asked(role)] for role in ("student", "teacher", "judge")}

    _enhance(roles, tmp_path, RECORDS)
    before = sent()
    _enhance(roles, tmp_path, RECORDS, judge_model="hosted_vllm/other")
    after = sent()
    assert (after["student"], after["teacher"]) == (before["student"], before["teacher"])
    assert len(after["judge"]) == 2 * len(before["judge"])
    parsed = hints.parse_hint
    monkeypatch.setattr(hints, "parse_hint", lambda text: parsed(text).upper())
    _, out = _enhance(roles, tmp_path, RECORDS)
    assert f"Hint: {HINT.upper()}" in out[0]["metadata"]["thinking"]
    for role, bodies in sent().items():
        assert len(set(bodies)) == len(bodies), f"{role}: what a new hint changes is asked, and nothing again"


def test_a_leaking_hint_is_asked_for_again_then_replaced_and_never_stored(roles: Any, tmp_path: Path) -> None:
    rows = [_document("How many?", "It took 1,195 days."), _document("How much?", "1/2")]
    roles.hint = lambda seed: (
        "One thousand one hundred and ninety-five, or 50 %?" if seed == 0 else "It is 1195 or .5/1"
    )
    stats, out = _enhance(roles, tmp_path, rows)
    assert (stats["hint_leaks"], stats["hint_leaks_caught"]) == (0, 2)
    for row in out:
        assert f"Hint: {SAFE_HINT}" in row["metadata"]["thinking"]
    assert len(roles.asked("teacher")) == 4
    assert all("1195" not in json.dumps(row) and "50 %" not in json.dumps(row) for row in out)


def test_a_question_that_gets_no_attempt_is_told_and_the_others_go_on(roles: Any, tmp_path: Path) -> None:
    roles.choose = lambda body: "400" if "Since when?" in str(body) else "none"
    stats, out = _enhance(roles, tmp_path, RECORDS)
    assert (len(out), stats["failed_examples"]) == (4, 1)
    [failed] = read_lines(tmp_path / "out.failed.jsonl")
    assert failed["metadata"].pop("failed_because").startswith("no attempt: HTTP 400")
    assert failed == RECORDS[3]


# ---------------------------------------------------------------- bad input

BAD = [
    b"{broken",
    b"[1, 2]",
    b"{}",
    b'{"messages": [{"role": "robot", "content": "x"}]}',
    b'{"messages": [{"role": "user", "content": "half a',
    b'{"messages": [{"role": "user", "content": "\x00"}]}',
    b'{"messages": [{"role": "user", "content": "\\u0000"}, {"role": "assistant", "content": "a"}]}',
    b'{"messages": [{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": "a"}]}',
    b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "x": NaN}',
    b'{"messages": [{"role": "user", "content": "\xff"}, {"role": "assistant", "content": "a"}]}',
    b'{"messages": [{"role": "user", "content": "' + b"x" * 1_000_000 + b'"}]}',
    b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "id": 7}',
]
GOOD = b'{"messages": [{"role": "user", "content": "easy"}, {"role": "assistant", "content": "a"}], "id": 7}'


def test_bad_lines_are_refused_before_anything_is_asked(roles: Any, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(b"\n".join([GOOD, *BAD]))
    enhancer = ThinkingEnhancer(StudentTeacherConfig(**roles.roles, root=tmp_path))
    with pytest.raises(
        BadRecord, match=rf"^{source}:2: broken JSON at column 2 .* \(11 more bad: 3, 4, 5, 6, 7, \.\.\.\)"
    ):
        enhancer.enhance_file(source, tmp_path / "out.jsonl")
    assert roles.requests == []
    assert not (tmp_path / "out.jsonl").exists()


def test_bad_lines_can_be_skipped_and_none_is_lost(roles: Any, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(b"\r\n".join([GOOD, *BAD, b"", GOOD.replace(b"7", b"8")]))
    enhancer = ThinkingEnhancer(StudentTeacherConfig(**roles.roles, root=tmp_path, on_bad_record="skip"))
    stats = enhancer.enhance_file(source, tmp_path / "out.jsonl", failed=tmp_path / "bad.jsonl")
    assert (stats["total_examples"], stats["bad_records"]) == (2, len(BAD))
    assert [row["id"] for row in read_lines(tmp_path / "out.jsonl")] == [7, 8]
    failed = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["line"] for row in failed] == list(range(2, len(BAD) + 2))
    assert [row["text"] for row in failed] == [line.decode("utf-8", "backslashreplace") for line in BAD]
    for row in failed:
        assert row["failed_because"].startswith(f"{source}:{row['line']}: ")
        assert "\n" not in row["failed_because"]


def test_a_file_of_bad_lines_alone_is_refused_in_any_case(roles: Any, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(BAD[:-1]))
    enhancer = ThinkingEnhancer(StudentTeacherConfig(**roles.roles, root=tmp_path, on_bad_record="skip"))
    with pytest.raises(BadRecord, match=r"in\.jsonl:1: broken JSON"):
        enhancer.enhance_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl")


def test_a_file_is_not_written_over_itself(roles: Any, tmp_path: Path) -> None:
    write_lines(tmp_path / "in.jsonl", RECORDS)
    enhancer = ThinkingEnhancer(StudentTeacherConfig(**roles.roles, root=tmp_path))
    with pytest.raises(BadRecord, match="input, output and failed file have to be three"):
        enhancer.enhance_file(tmp_path / "in.jsonl", tmp_path / "x" / ".." / "in.jsonl")


# ---------------------------------------------------------------- roles


def test_a_judge_of_the_teachers_family_is_refused_unless_it_is_said(tmp_path: Path) -> None:
    kin = {"teacher_model": "hosted_vllm/Qwen2.5-7B", "judge_model": "hosted_vllm/Qwen3-8B", "root": tmp_path}
    with pytest.raises(BadSettings, match=r"^judge\.model: hosted_vllm/Qwen3-8B is of the teacher's family \(qwen\)"):
        ThinkingEnhancer(StudentTeacherConfig(**kin))
    ThinkingEnhancer(StudentTeacherConfig(**kin, same_family=True))


def test_a_role_that_is_left_open_needs_a_repo(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"^teacher_model: is not given, and .* is no repo of Luna's; name a model$"):
        ThinkingEnhancer(StudentTeacherConfig(root=tmp_path))


@pytest.mark.parametrize(("kind", "accepted"), [("both", True), ("rubric", False)])
def test_with_the_exact_verifier_in_it_no_judge_rejects_15_x_13_is_195(
    roles: Any, tmp_path: Path, kind: str, accepted: bool
) -> None:
    """The model as the judge rejects whatever does not hold RIGHT."""
    others = roles.say
    roles.say = lambda body: "15 x 13 = 195" if body["model"] == "student" else others(body)
    row = {"messages": [{"role": "user", "content": "What is 15 x 13?"}, {"role": "assistant", "content": "195"}]}
    _, [out] = _enhance(roles, tmp_path, [row], judge_kind=kind, max_iterations=1)
    assert out["metadata"]["thinking_converged"] is accepted
    assert (len(roles.asked("judge")) == 0) is accepted


def _arithmetic(count: int) -> list[dict[str, Any]]:
    rng, rows = random.Random(3), []
    for _ in range(count):
        problem = sample(rng, SKILLS["add2"])
        turns = [{"role": "user", "content": ask(rng, problem)}, {"role": "assistant", "content": str(problem.answer)}]
        rows.append({"messages": turns, "metadata": {"thinking": "t"}})
    return rows


def test_a_local_student_by_name_is_an_override_and_works_in_batches(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from luna.enhance import students

    batches: list[int] = []
    draw = students.sample_replies

    def counted(*given: Any, **more: Any) -> list[str]:
        batches.append(given[3].batch_size)
        return draw(*given, **more)

    monkeypatch.setattr(students, "sample_replies", counted)
    write_lines(tmp_path / "in.jsonl", _arithmetic(3))
    tutor = "luna-tutor/arithmetic"
    config = StudentTeacherConfig(
        str(tiny_model_folder),
        tutor,
        "exact",
        2,
        batch_size=2,
        root=tmp_path,
        decoding=students.Student(max_new_tokens=8),
    )
    stats = asyncio.run(
        ThinkingEnhancer(config).enhance_dataset(
            input_path=tmp_path / "in.jsonl", output_path=tmp_path / "out.jsonl", max_samples=2
        )
    )
    assert (stats["total_examples"], stats["average_iterations"], stats["hints_given"]) == (2, 2.0, 2)
    assert (stats["student"], stats["student_override"]) == (str(tiny_model_folder), True)
    assert batches == [2, 2]


def test_the_model_in_training_is_the_student_where_none_is_named(luna_root: Path) -> None:
    shutil.copytree(REPO / "presets", "presets")
    Path("params.yaml").write_text((REPO / "params.yaml").read_text().replace("preset: embedded", "preset: smoke"))
    write_lines(Path("in.jsonl"), _arithmetic(2))
    stats = ThinkingEnhancer(StudentTeacherConfig(max_iterations=1, blind_retries=2)).enhance_file(
        "in.jsonl", "out.jsonl"
    )
    assert (stats["student"], stats["student_override"]) == ("the base", False)
    assert (stats["total_examples"], stats["hint_gain"]) == (2, 0.0)


def test_what_is_cancelled_asks_no_more(roles: Any, tmp_path: Path) -> None:
    roles.latency = 0.3
    write_lines(tmp_path / "in.jsonl", [_document(f"easy {number}", "a") for number in range(40)])
    enhancer = ThinkingEnhancer(StudentTeacherConfig(**roles.roles, root=tmp_path, concurrency=2))

    async def start_and_cancel() -> None:
        task = asyncio.create_task(
            enhancer.enhance_dataset(input_path=tmp_path / "in.jsonl", output_path=tmp_path / "out.jsonl")
        )
        while not roles.requests:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(start_and_cancel())
    assert len(roles.requests) <= 6
    assert not (tmp_path / "out.jsonl").exists()


# ---------------------------------------------------------------- the command line


def _command(roles: Any, folder: Path, *more: str) -> Any:
    named = [word for key, value in roles.roles.items() if isinstance(value, str) for word in (_option(key), value)]
    files = [str(folder / "in.jsonl"), str(folder / "out.jsonl")]
    how = ["--api", "--root", str(folder), *named, "--iterations", "3", *more]
    return CliRunner().invoke(app, ["enhance-thinking", *files, *how])


def _option(key: str) -> str:
    return f"--{key.removesuffix('_model').replace('_', '-')}"


def test_the_command_does_what_python_does(roles: Any, tmp_path: Path) -> None:
    expected, out = _enhance(roles, tmp_path, RECORDS)
    done = _command(roles, tmp_path)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout[done.stdout.index("{\n") :]) == expected
    assert read_lines(tmp_path / "out.jsonl") == out


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--judge", "hosted_vllm/teacher"), "enhance-thinking: judge.model: hosted_vllm/teacher is of the teacher's"),
        (("--failed", "IN"), "enhance-thinking: OUT: input, output and failed file have to be three"),
    ],
)
def test_what_is_wrong_is_one_line(roles: Any, tmp_path: Path, more: tuple[str, ...], says: str) -> None:
    write_lines(tmp_path / "in.jsonl", RECORDS)
    named = {"IN": str(tmp_path / "in.jsonl"), "OUT": str(tmp_path / "out.jsonl")}
    done = _command(roles, tmp_path, *(named.get(word, word) for word in more))
    assert done.exit_code == 1
    assert done.stderr.startswith(says.replace("OUT", named["OUT"]))
    assert done.stderr.count("\n") == 1

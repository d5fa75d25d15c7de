"""The loop with the real tutor, with a teacher on loopback that gives answers away, and with a tiny model."""

import json
import random
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from luna.arithmetic.corpus import thinking_reply
from luna.arithmetic.layouts import solve
from luna.arithmetic.problems import SKILLS, Problem, sample
from luna.arithmetic.tutor import Verdict
from luna.arithmetic.tutor import judge as judge_exactly
from luna.arithmetic.wording import ask
from luna.enhance import students
from luna.enhance.hints import OTHER_SAFE_HINT, SAFE_HINT, HintingTeacher
from luna.enhance.judges import ExactJudge, ModelJudge, ask_and_read
from luna.enhance.kept_attempts import KeptAttempts
from luna.enhance.loop import converse
from luna.enhance.run import enhance
from luna.enhance.students import Dialogue, LocalStudent, Turn
from luna.enhance.thinking import AHA, iterative_thinking
from luna.errors import TeacherError
from luna.leaks import reveals_answer
from luna.llm.client import Client, Failure, Request
from luna.llm.replies import read_json
from luna.lm.chat import Message
from luna.lm.load import load_model
from luna.records import Record
from luna.settings import Endpoint, Settings

TUTOR = Endpoint(model="luna-tutor/arithmetic", concurrency=8)
LIMIT = 3


class Scripted:
    """A student that is right in a given attempt, or never (0); until then its ones are wrong."""

    def __init__(self, problems: Sequence[Problem], right_in: Sequence[int]) -> None:
        self.lines = {str(problem): solve(problem) for problem in problems}
        self.by_question: dict[str, tuple[Problem, int]] = {}
        self.problems, self.right_in = problems, right_in
        self.seeds: list[int] = []
        self.hints_seen: list[list[int]] = []

    def dialogues(self) -> list[Dialogue]:
        for number, (problem, right_in) in enumerate(zip(self.problems, self.right_in, strict=True)):
            self.by_question[ask(random.Random(number), problem)] = (problem, right_in)
        return [
            Dialogue([{"role": "user", "content": question}], answer=str(problem.answer))
            for question, (problem, _) in self.by_question.items()
        ]

    def attempt(self, dialogues: Sequence[Dialogue], seed: int) -> list[str]:
        self.seeds.append(seed)
        self.hints_seen.append([len(dialogue.hints) for dialogue in dialogues])
        return [self._say(dialogue) for dialogue in dialogues]

    def _say(self, dialogue: Dialogue) -> str:
        problem, right_in = self.by_question[dialogue.question]
        lines = solve(problem)
        if len(dialogue.turns) + 1 == right_in:
            return thinking_reply(lines, problem.answer)
        wrong = lines[1][:-1] + str((int(lines[1][-1]) + 1) % 10)
        return thinking_reply([lines[0], wrong, *lines[2:]], problem.answer + 1)


def _problems(count: int) -> list[Problem]:
    rng = random.Random(8)
    return [sample(rng, list(SKILLS.values())[number % len(SKILLS)]) for number in range(count)]


@pytest.fixture
def talked() -> tuple[Scripted, list[Dialogue], HintingTeacher]:
    """Twelve questions after the loop: right in attempt 1, 2, 3 or never, in turn."""
    problems = _problems(12)
    student = Scripted(problems, [1, 2, 3, 0] * 3)
    dialogues = student.dialogues()
    teacher = HintingTeacher(Client(TUTOR))
    converse(dialogues, student, ModelJudge(Client(TUTOR, "judge")), teacher, LIMIT, seed=5)
    return student, dialogues, teacher


def test_a_dialogue_stops_when_it_is_right_and_after_the_last_iteration(
    talked: tuple[Scripted, list[Dialogue], HintingTeacher],
) -> None:
    student, dialogues, _ = talked
    assert [len(dialogue.turns) for dialogue in dialogues] == [1, 2, 3, 3] * 3
    assert [dialogue.converged for dialogue in dialogues] == [True, True, True, False] * 3
    assert [len(seen) for seen in student.hints_seen] == [12, 9, 6]
    assert len(set(student.seeds)) == 3


def test_hints_follow_wrong_attempts_only_and_never_the_last(
    talked: tuple[Scripted, list[Dialogue], HintingTeacher],
) -> None:
    student, dialogues, teacher = talked
    assert student.hints_seen == [[0] * 12, [1] * 9, [2] * 6]
    for dialogue in dialogues:
        assert [turn.hint is not None for turn in dialogue.turns] == [*[True] * (len(dialogue.turns) - 1), False]
        assert all(not turn.correct for turn in dialogue.turns[:-1])
        problem, _ = student.by_question[dialogue.question]
        assert not any(reveals_answer(hint, str(problem.answer)) for hint in dialogue.hints)
        assert all(turn.first_wrong_line == 1 for turn in dialogue.turns if not turn.correct)
    assert (teacher.leaks.caught, teacher.leaks.kept) == (0, 0)


def test_the_story_of_a_real_dialogue_holds_its_hints_and_its_aha(
    talked: tuple[Scripted, list[Dialogue], HintingTeacher],
) -> None:
    for dialogue in talked[1]:
        story = iterative_thinking(dialogue)
        assert all(hint in story for hint in dialogue.hints)
        # The scripted student repeats its mistake until it is right, so only the last hint can land.
        assert story.count(AHA) == (dialogue.converged and len(dialogue.turns) > 1)
        assert len(story) > 200


def test_the_model_judge_and_the_exact_one_agree() -> None:
    problems = _problems(12)
    student = Scripted(problems, [1, 0, 2, 0] * 3)
    dialogues = student.dialogues()
    attempts = student.attempt(dialogues, 0)
    exact = ExactJudge().verdicts(dialogues, attempts)
    assert ModelJudge(Client(TUTOR, "judge")).verdicts(dialogues, attempts) == exact
    assert exact == [judge_exactly(problem, said) for problem, said in zip(problems, attempts, strict=True)]
    assert [verdict.correct for verdict in exact] == [True, False, False, False] * 3


def test_blind_retries_are_given_no_hint_and_count_the_open_ones() -> None:
    student, open_ = Scripted(_problems(4), [1, 2, 3, 0]), []
    dialogues = student.dialogues()
    converse(dialogues, student, ExactJudge(), None, LIMIT, 0, lambda number, left: open_.append((number, left)))
    assert open_ == [(1, 3), (2, 2), (3, 1)]
    assert not any(dialogue.hints for dialogue in dialogues)
    assert [len(dialogue.turns) for dialogue in dialogues] == [1, 2, 3, 3]


def test_one_iteration_asks_once_and_hints_at_nothing() -> None:
    student = Scripted(_problems(4), [1, 2, 3, 0])
    dialogues = student.dialogues()
    teacher = HintingTeacher(Client(TUTOR))
    converse(dialogues, student, ExactJudge(), teacher, 1, 0)
    assert [len(dialogue.turns) for dialogue in dialogues] == [1] * 4
    assert not any(dialogue.hints for dialogue in dialogues)
    assert teacher.client.usage.calls == 0


def test_the_exact_judge_names_a_question_it_cannot_compute_and_accepts_the_expected_answer() -> None:
    dialogue = Dialogue([{"role": "user", "content": "Why?"}], answer="Because it rains.")
    said = ["Because.", "<think>\nhm\n</think>\nbecause it  rains.", "<think>\n1+1=3\n</think>\nBecause it rains."]
    unknown, right, wrong_on_the_way = ExactJudge().verdicts([dialogue] * 3, said)
    assert unknown == Failure("the exact judge cannot compute 'Why?'", "let a model judge such questions")
    assert isinstance(right, Verdict)
    assert right.correct
    assert wrong_on_the_way == unknown


# ---------------------------------------------------------------- a teacher that leaks


class LeakyTeacher:
    """Answers every request with the reply that `say` makes of its seed, in OpenAI's protocol."""

    def __init__(self, say: Callable[[int], str]) -> None:
        self.say, self.asked = say, []
        self.deaf_to: str | None = None  # questions that hold this are never answered well
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def endpoint(self) -> Endpoint:
        base = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        return Endpoint(model="hosted_vllm/m", api_base=base, timeout=5.0, max_retries=1)


def _handler(teacher: LeakyTeacher) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            teacher.asked.append(body)
            deaf = teacher.deaf_to is not None and teacher.deaf_to in body["messages"][-1]["content"]
            message = {"role": "assistant", "content": "Hm." if deaf else teacher.say(body.get("seed") or 0)}
            reply = {"id": "x", "object": "chat.completion", "created": 1, "model": "m"}
            reply["choices"] = [{"index": 0, "finish_reason": "stop", "message": message}]
            data = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    return Handler


@pytest.fixture
def leaky() -> Iterator[Callable[[Callable[[int], str]], LeakyTeacher]]:
    started: list[LeakyTeacher] = []

    def start(say: Callable[[int], str]) -> LeakyTeacher:
        started.append(LeakyTeacher(say))
        return started[-1]

    yield start
    for teacher in started:
        teacher.http.shutdown()
        teacher.http.server_close()


def _hint(teacher: LeakyTeacher, answers: Sequence[str]) -> tuple[list[str], HintingTeacher]:
    hinting = HintingTeacher(Client(teacher.endpoint))
    dialogues = [
        Dialogue([{"role": "user", "content": f"What is 40+{number}?"}], [Turn("1", False, "wrong", 0)], answer)
        for number, answer in enumerate(answers)
    ]
    return hinting.hints(dialogues), hinting


def test_a_leaking_hint_is_asked_for_again(leaky: Callable[[Callable[[int], str]], LeakyTeacher]) -> None:
    teacher = leaky(lambda seed: json.dumps({"hint": "Look at the ones." if seed else "It is 40, I say."}))
    hints, hinting = _hint(teacher, ["40", "41", "40"])
    assert hints == ["Look at the ones.", "It is 40, I say.", "Look at the ones."]
    assert (hinting.leaks.caught, hinting.leaks.kept) == (2, 0)
    assert len(teacher.asked) == 5


def test_a_hint_that_leaks_twice_is_replaced(leaky: Callable[[Callable[[int], str]], LeakyTeacher]) -> None:
    teacher = leaky(lambda seed: json.dumps({"hint": f"Take {seed} and get 1,195."}))
    hints, hinting = _hint(teacher, ["1195", "3"])
    assert hints == [SAFE_HINT, "Take 0 and get 1,195."]
    assert (hinting.leaks.caught, hinting.leaks.kept) == (1, 0)


def test_a_leak_goes_by_the_answer_of_its_own_question(
    leaky: Callable[[Callable[[int], str]], LeakyTeacher],
) -> None:
    teacher = leaky(lambda seed: json.dumps({"hint": "Look at 42 again."}))
    hinting = HintingTeacher(Client(teacher.endpoint))
    dialogues = [Dialogue([{"role": "user", "content": "q"}], [Turn("1", False, "wrong", 0)], n) for n in ("41", "42")]
    assert hinting.hints(dialogues) == ["Look at 42 again.", SAFE_HINT]
    assert hinting.leaks.caught == 1


def test_an_answer_that_stands_in_the_safe_hint_gets_another_one(
    leaky: Callable[[Callable[[int], str]], LeakyTeacher],
) -> None:
    teacher = leaky(lambda seed: json.dumps({"hint": "Steps, I say."}))
    hints, hinting = _hint(teacher, ["steps", "again", "think"])
    assert hints == [OTHER_SAFE_HINT, "Steps, I say.", "Steps, I say."]
    assert hinting.leaks.kept == 0
    assert not {word.strip(".").lower() for word in SAFE_HINT.split()} & set(OTHER_SAFE_HINT.lower().strip(".").split())


def test_a_reply_that_cannot_be_read_is_asked_for_once_more(
    leaky: Callable[[Callable[[int], str]], LeakyTeacher],
) -> None:
    teacher = leaky(lambda seed: '{"hint": "Look."}' if seed else "Hm.")
    assert _hint(teacher, ["1", "2"])[0] == ["Look.", "Look."]
    assert len(teacher.asked) == 4
    silent = leaky(lambda seed: "Hm.")
    said = _hint(silent, ["1", "2"])[0]
    assert said == [Failure("no reply that can be read, twice (no JSON)", "choose another model")] * 2


def test_replies_keep_the_order_of_their_requests(leaky: Callable[[Callable[[int], str]], LeakyTeacher]) -> None:
    teacher = leaky(lambda seed: json.dumps({"n": seed}) if seed else "no")
    requests = [Request([{"role": "user", "content": str(number)}]) for number in range(5)]
    assert ask_and_read(Client(teacher.endpoint), requests, lambda said: read_json(said, dict)[0]["n"]) == [1] * 5


# ---------------------------------------------------------------- the stage with a tiny model


def _records(count: int) -> list[Record]:
    rng = random.Random(4)
    out = []
    for number, problem in enumerate(_problems(count)):
        messages = [
            {"role": "user", "content": ask(rng, problem)},
            {"role": "assistant", "content": str(problem.answer)},
        ]
        out.append(Record.model_validate({"messages": messages, "metadata": {"id": number, "thinking": "old"}}))
    return out


def test_a_tiny_model_goes_through_the_stage(luna_root: Path, tiny_settings: Callable[..., Settings]) -> None:
    records = _records(6)
    enhanced = enhance(tiny_settings(), records, luna_root)
    assert [record.messages for record in enhanced.records] == [record.messages for record in records]
    assert [record.metadata["id"] for record in enhanced.records] == list(range(6))
    metrics = enhanced.metrics
    assert metrics["total_examples"] == metrics["enhanced_examples"] == 6
    # Random weights never answer: every question takes all iterations and every hint but the last.
    assert metrics["average_iterations"] == 3.0
    assert metrics["hints_given"] == 12
    assert metrics["convergence_rate"] == metrics["right_at_once"] == 0.0
    assert (metrics["hint_leaks"], metrics["student"], metrics["student_override"]) == (0, "the base", False)
    assert metrics["hint_gain"] == pytest.approx(metrics["convergence_rate"] - metrics["blind_convergence_rate"])
    assert metrics["hint_gain_low"] <= metrics["hint_gain"] <= metrics["hint_gain_high"]
    for record, dialogue in zip(enhanced.records, enhanced.dialogues, strict=True):
        assert record.metadata["thinking"] == iterative_thinking(dialogue)
        assert record.metadata["original_thinking"] == "old"
    json.dumps(metrics, allow_nan=False)


def test_the_same_run_repeats_and_another_seed_does_not(
    luna_root: Path, tiny_settings: Callable[..., Settings]
) -> None:
    first, again = (enhance(tiny_settings(), _records(3), luna_root) for _ in range(2))
    other = enhance(tiny_settings({"seed": 1}), _records(3), luna_root)
    assert first == again
    assert first.dialogues != other.dialogues


def test_after_a_hint_the_student_goes_on_from_its_right_lines_at_the_other_temperature(
    tiny_model_folder: Path, tiny_settings: Callable[..., Settings]
) -> None:
    """First attempts are drawn anew with every seed; retries are greedy here, so that seeds make no difference."""
    preset = tiny_settings().preset
    student = preset.student.model_copy(
        update={"temperature": 1.0, "retry_temperature": 0.0, "retry_view": "right_lines"}
    )
    local = LocalStudent(load_model(tiny_model_folder, preset.model, trainable=False), student)
    context: list[Message] = [{"role": "user", "content": "What is 47+38?"}]
    said = Turn("<think>\n47+38\nones 1", False, "wrong", 1, hint="Check this: ones 7+8+0.")
    fresh, hinted = Dialogue(context), Dialogue(context, [said])
    assert local.attempt([fresh], 1) != local.attempt([fresh], 2)
    assert local.attempt([hinted], 1) == local.attempt([hinted], 2)
    [reply] = local.attempt([hinted], 1)
    assert reply.startswith("<think>\n47+38\n")
    assert "Check this: ones 7+8+0." not in reply


def test_a_question_without_verdict_or_hint_is_told_and_the_others_go_on(
    luna_root: Path,
    tiny_settings: Callable[..., Settings],
    leaky: Callable[[Callable[[int], str]], LeakyTeacher],
) -> None:
    """The teacher gives no readable hint for one of four questions, twice."""
    records = _records(4)
    teacher = leaky(lambda seed: '{"hint": "Look again."}')
    teacher.deaf_to = records[2].question
    enhanced = enhance(tiny_settings(None, {"teacher": teacher.endpoint}), records, luna_root)
    assert [record.metadata["id"] for record in enhanced.records] == [0, 1, 3]
    assert [dialogue.question for dialogue in enhanced.dialogues] == [record.question for record in enhanced.records]
    assert [record.metadata["failed_because"] for record in enhanced.failed] == [
        "no hint: no reply that can be read, twice (no JSON)"
    ]
    counts = [enhanced.metrics[key] for key in ("total_examples", "enhanced_examples", "failed_examples")]
    assert counts == [4, 3, 1]
    paid = len(teacher.asked)
    assert enhanced.metrics["teacher"]["calls_answered"] == paid == 4 + 1 + 3
    again = enhance(tiny_settings(None, {"teacher": teacher.endpoint}), records, luna_root)
    assert again == enhanced
    assert len(teacher.asked) == paid, "the journal has every reply"


def test_if_no_question_can_be_worked_on_the_stage_says_why(
    luna_root: Path,
    tiny_settings: Callable[..., Settings],
    leaky: Callable[[Callable[[int], str]], LeakyTeacher],
) -> None:
    silent = leaky(lambda seed: "Hm.")
    with pytest.raises(TeacherError, match=r"^no question could be worked on \(no hint: .*twice \(no JSON\)\); mend"):
        enhance(tiny_settings(None, {"teacher": silent.endpoint}), _records(2), luna_root)


def test_without_the_comparison_nothing_is_retried_blindly(
    luna_root: Path, tiny_settings: Callable[..., Settings]
) -> None:
    settings = tiny_settings()
    quiet = settings.params.enhance.model_copy(update={"blind_retries": 0, "max_iterations": 1})
    enhanced = enhance(tiny_settings({"enhance": quiet}, {"judge": "exact"}), _records(2), luna_root)
    assert "hint_gain" not in enhanced.metrics
    assert enhanced.metrics["average_iterations"] == 1.0


def test_the_comparison_can_be_made_on_some_of_the_questions(
    luna_root: Path, tiny_settings: Callable[..., Settings]
) -> None:
    some = tiny_settings().params.enhance.model_copy(update={"blind_retries": 2, "max_iterations": 2})
    enhanced = enhance(tiny_settings({"enhance": some}), _records(5), luna_root)
    assert (enhanced.metrics["blind_questions"], enhanced.metrics["total_examples"]) == (2, 5)


def test_another_student_is_used_and_reported(luna_root: Path, tiny_settings: Callable[..., Settings]) -> None:
    shutil.move("models/base", "elsewhere")
    settings = tiny_settings()
    override = settings.params.enhance.model_copy(update={"student": "elsewhere", "blind_retries": 0})
    metrics = enhance(tiny_settings({"enhance": override}), _records(2), luna_root).metrics
    assert metrics["student_override"] is True
    assert "elsewhere" in metrics["student"]


def test_the_comparison_is_paired_from_the_same_first_attempts(
    luna_root: Path, tiny_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a student that is right as soon as it has a hint and never without, the gain is the share of wrong ones."""
    problems = _problems(8)
    student = Scripted(problems, [1, 2] * 4)
    dialogues = student.dialogues()

    class NeedsHints(Scripted):
        def _say(self, dialogue: Dialogue) -> str:
            problem, right_in = student.by_question[dialogue.question]
            if right_in == 1 or dialogue.hints:
                return thinking_reply(solve(problem), problem.answer)
            return "<think>\n"

    monkeypatch.setattr("luna.enhance.run.LocalStudent", lambda *_: NeedsHints(problems, [1, 2] * 4))
    records = [
        Record.model_validate(
            {"messages": [*dialogue.context, {"role": "assistant", "content": str(problem.answer)}], "metadata": {}}
        )
        for dialogue, problem in zip(dialogues, problems, strict=True)
    ]
    metrics = enhance(tiny_settings(), records, luna_root).metrics
    compared = [metrics[name] for name in ("convergence_rate", "blind_convergence_rate", "hint_gain")]
    assert (compared, metrics["total_examples"]) == ([1.0, 0.5, 0.5], 8)
    assert metrics["hint_gain_low"] > 0


# ---------------------------------------------------------------- a run that was killed


def test_attempts_of_a_killed_run_are_not_made_again(tmp_path: Path) -> None:
    problems = _problems(4)
    first, second, other = (Scripted(problems, [1, 2, 3, 0]) for _ in range(3))
    said = [Dialogue(one.context, answer=one.answer) for one in first.dialogues()]
    for one in (second, other):
        one.dialogues()
    kept = KeptAttempts(first, tmp_path / "kept", ["weights"]).attempt(said, 3)
    again = KeptAttempts(second, tmp_path / "kept", ["weights"])
    assert (again.attempt(said, 3), second.seeds) == (kept, [])
    again.attempt(said, 4)
    again.attempt(said[:2], 3)
    KeptAttempts(other, tmp_path / "kept", ["other weights"]).attempt(said, 3)
    assert (second.seeds, other.seeds) == ([4, 3], [3])
    again.forget()
    assert not (tmp_path / "kept").exists()


def test_a_stage_that_is_stopped_goes_on_where_it_was(
    luna_root: Path,
    tiny_settings: Callable[..., Settings],
    leaky: Callable[[Callable[[int], str]], LeakyTeacher],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The teacher's cap ends the first run after the first attempts; a higher cap lets the second one finish."""
    quiet = {"enhance": tiny_settings().params.enhance.model_copy(update={"blind_retries": 0, "max_iterations": 2})}
    drawn: list[int] = []
    draw = students.sample_replies

    def counted(*given: object, **more: object) -> list[str]:
        drawn.append(len(given[2]))  # type: ignore[arg-type]
        return draw(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(students, "sample_replies", counted)
    endpoint = leaky(lambda seed: '{"hint": "Look again."}').endpoint
    capped = endpoint.model_copy(update={"max_tokens_total": 1})
    with pytest.raises(TeacherError, match="max_tokens_total"):
        enhance(tiny_settings(quiet, {"teacher": capped}), _records(3), luna_root)
    enhance(tiny_settings(quiet, {"teacher": endpoint}), _records(3), luna_root)
    assert drawn == [3, 3]
    assert not Path(".luna/attempts").exists()

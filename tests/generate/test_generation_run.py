"""The stage's run, end to end: through the tutor, and through a teacher on loopback that misbehaves."""

import json
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from luna.answers import normalized
from luna.arithmetic.problems import holds_sealed, is_sealed, split_of
from luna.arithmetic.wording import read
from luna.errors import TeacherError
from luna.generate import run
from luna.generate.run import generate
from luna.llm.client import Client
from luna.llm.journal import Journal
from luna.settings import Endpoint, Settings, load_settings

ROOT = Path(__file__).parents[2]


def _settings(
    n, *, mix="balanced", generation="Luna-G001", system_prompt=False, teacher=None, subject="arithmetic", **generate
):
    base = load_settings(ROOT)
    asked = base.params.generate.model_copy(update={"num_examples": n, "mix": mix, **generate})
    model = base.preset.model.model_copy(update={"system_prompt": system_prompt})
    teacher = teacher or Endpoint(model="luna-tutor/arithmetic", concurrency=32)
    return Settings(
        params=base.params.model_copy(update={"generate": asked, "generation": generation}),
        preset=base.preset.model_copy(update={"model": model, "teacher": teacher, "subject": subject}),
    )


def _generate(settings, weights=None, **more):
    return generate(settings, weights, Client(settings.preset.teacher), **more)


def test_seven_hundred_examples_through_the_tutor_in_seconds():
    settings, done = _settings(700), []
    client = Client(settings.preset.teacher)
    started = time.process_time()
    generated = generate(settings, None, client, on_progress=done.append)
    seconds = time.process_time() - started
    records = generated.records
    assert len(records) == sum(done) == 700
    assert len({record.question.casefold() for record in records}) == 700
    assert [record.metadata["id"] for record in records] == [f"G001-{i:06d}" for i in range(700)]
    assert Counter(record.metadata["approach"] for record in records) == {
        "self-instruct": 280,
        "curriculum": 210,
        "template": 140,
        "chain-of-thought": 70,
    }
    for record in records:
        problem = read(record.question)
        assert str(problem.answer) == record.answer
        assert split_of(problem) == "train"
        assert not is_sealed(problem)
        assert not holds_sealed(f"{record.question}\n<think>\n{record.thinking}")
        assert record.metadata.keys() >= {"skill", "question_type", "confidence", "teacher"}
        assert [turn.role for turn in record.messages] == ["user", "assistant"]
    assert generated.stats["examples"] == 700
    assert generated.stats["duplicates"] == generated.stats["reasked"]
    assert generated.stats["prompt_tokens"] == client.usage.prompt_tokens
    assert seconds < 10, f"{1000 * seconds / client.usage.calls:.2f} ms of CPU a call"


def test_a_run_repeats_exactly_and_another_generation_is_another():
    one, again = _generate(_settings(40)), _generate(_settings(40))
    other = _generate(_settings(40, generation="Luna-G002"))
    assert one == again
    assert not {r.question for r in one.records} & {r.question for r in other.records}


def test_skill_weights_decide_what_is_asked():
    records = _generate(_settings(60), {"mul4": 1.0, "add4": 2.0}).records
    skills = Counter(record.metadata["skill"] for record in records)
    assert skills.keys() == {"mul4", "add4"}
    assert 36 <= skills["add4"] <= 44


def test_dialogues_become_records_with_all_their_turns_and_their_own_system_prompt():
    records = _generate(_settings(12, mix={"socratic": 0.5, "template": 0.5}, system_prompt=True)).records
    dialogues = [record for record in records if record.metadata["approach"] == "socratic"]
    assert len(dialogues) == 6
    for record in dialogues:
        assert [turn.role for turn in record.messages] == ["system", *["user", "assistant"] * 4]
        assert "never give the answer" in record.messages[0].content
        assert record.metadata["question_type"] == "SOCRATIC"
    others = [record for record in records if record not in dialogues]
    assert all("integer arithmetic" in record.messages[0].content for record in others)


def test_duplicates_are_asked_again_until_the_number_is_exact():
    # There are few two-digit multiplications, so many first replies collide.
    generated = _generate(_settings(300), {"mul2": 1.0})
    assert len({record.question.casefold() for record in generated.records}) == 300
    assert generated.stats["duplicates"] > 0
    assert generated.stats["reasked"] == generated.stats["duplicates"]


def test_a_subject_that_runs_dry_is_said_clearly(monkeypatch):
    monkeypatch.setattr(run, "ROUNDS", 2)
    with pytest.raises(
        TeacherError, match=r"of 600 examples are still missing after 2 rounds .*question that was there"
    ):
        _generate(_settings(600, mix={"template": 1.0}), {"mul2": 1.0})


def test_a_teacher_that_cannot_do_the_subject_is_not_asked_for_ever():
    client = Client(Endpoint(model="luna-tutor/arithmetic"))
    with pytest.raises(
        TeacherError, match=r"none of 5 replies was usable \(10 x no JSON\); one says 'I am a rule-based"
    ) as error:
        generate(_settings(5, subject="code"), None, client)
    assert client.usage.calls == 10
    assert str(error.value).endswith("choose another teacher")


def test_your_own_templates_are_used(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("templates: ['{who} needs a problem in {skill}.']\nslots: {who: [Ada]}\n")
    records = _generate(_settings(10, mix={"template": 1.0}, templates=str(path))).records
    assert {record.metadata["template"] for record in records} == {"{who} needs a problem in {skill}."}


@pytest.fixture
def clumsy_teacher():
    """Answers the first three prompts well; the others with a refusal, then cut off, then in need of mending.

    What its `refused` names is answered with 400, however often it is asked.
    """
    refused = set()
    asked = Counter()
    good = '{"question": "Q%s", "thinking": "t", "answer": 1}'
    clumsy = [
        "Sorry.",
        '{"question": "Q%s", "thinking": "t", "answ',
        "{'question': 'Q%s', 'thinking': 't', 'answer': 1,}",
    ]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            prompt = request["messages"][1]["content"]  # what follows it is about a reply
            place = list(asked).index(prompt) if prompt in asked else len(asked)
            if place in refused:
                asked[prompt] += 1
                self.send_error(400)
                return
            body = (good if place < 3 else clumsy[asked[prompt]]).replace("%s", str(place))
            asked[prompt] += 1
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": body}}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            value = {
                "id": "x",
                "object": "chat.completion",
                "created": 1,
                "model": "m",
                "choices": [choice],
                "usage": usage,
            }
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format, *args):
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    port = server.server_address[1]
    endpoint = Endpoint(model="hosted_vllm/m", api_base=f"http://127.0.0.1:{port}/v1", concurrency=1)
    yield SimpleNamespace(endpoint=endpoint, asked=asked, refused=refused)
    server.shutdown()
    server.server_close()


def test_unusable_replies_are_counted_by_reason_and_asked_again(clumsy_teacher):
    settings = _settings(6, subject="code", teacher=clumsy_teacher.endpoint)
    generated = _generate(settings)
    assert {record.question for record in generated.records} == {f"Q{place}" for place in range(6)}
    assert generated.stats["dropped"] == {"JSON breaks off": 3, "no JSON": 3}
    assert (generated.stats["reasked"], generated.stats["repaired"]) == (6, 3)
    assert generated.stats["prompt_tokens"] == 12
    assert sum(counts["unusable"] for counts in generated.stats["by_approach"].values()) == 6
    assert Counter(record.metadata["confidence"] for record in generated.records) == {1.0: 3, 0.5: 3}
    assert {record.metadata["teacher"] for record in generated.records} == {"hosted_vllm/m"}


def test_a_prompt_that_is_refused_is_told_and_the_others_become_examples(clumsy_teacher):
    clumsy_teacher.refused |= {1, 4}
    generated = _generate(_settings(6, subject="code", teacher=clumsy_teacher.endpoint))
    assert {record.question for record in generated.records} == {"Q0", "Q2", "Q3", "Q5"}
    assert (generated.stats["examples"], generated.stats["failed"]) == (4, 2)
    prompts = list(clumsy_teacher.asked)
    assert [(row["prompt"], row["id"]) for row in generated.failed] == [
        (prompts[1], "G001-000001"),
        (prompts[4], "G001-000004"),
    ]
    assert all(row["reason"].startswith("HTTP 400") for row in generated.failed)
    assert [clumsy_teacher.asked[prompts[place]] for place in (1, 4)] == [1, 1], "asked once, and not in later rounds"


def test_too_many_refused_prompts_end_the_stage(clumsy_teacher):
    clumsy_teacher.refused |= {1, 2}
    strict = clumsy_teacher.endpoint.model_copy(update={"max_failed": 0.25})
    with pytest.raises(
        TeacherError, match=r"2 of 6 requests failed for good, one of them: HTTP 400.*teacher\.max_failed"
    ):
        _generate(_settings(6, subject="code", teacher=strict))


def test_a_second_run_and_a_changed_parser_ask_the_teacher_nothing(clumsy_teacher, tmp_path, monkeypatch):
    settings = _settings(6, subject="code", teacher=clumsy_teacher.endpoint)

    def once():
        return generate(settings, None, Client(settings.preset.teacher, "teacher", Journal(tmp_path / "j"), "G1"))

    first, paid = once(), clumsy_teacher.asked.total()
    assert once() == first
    monkeypatch.setattr(run, "REPAIRED_CONFIDENCE", 0.9)
    assert {record.metadata["confidence"] for record in once().records} == {0.9, 1.0}
    assert clumsy_teacher.asked.total() == paid


def test_changed_thresholds_and_limits_ask_the_teacher_nothing(clumsy_teacher, tmp_path):
    def once(settings):
        return generate(settings, None, Client(settings.preset.teacher, "teacher", Journal(tmp_path / "j"), "G1"))

    first, paid = once(_settings(6, subject="code", teacher=clumsy_teacher.endpoint)), clumsy_teacher.asked.total()
    limits = {"max_failed": 0.5, "concurrency": 3, "max_retries": 1, "timeout": 9.0, "max_tokens_total": 10**6}
    changed = clumsy_teacher.endpoint.model_copy(update=limits)
    assert once(_settings(6, subject="code", near_duplicates=0.95, teacher=changed)).records == first.records
    assert clumsy_teacher.asked.total() == paid


GOOD = '{"question": "Q%s", "thinking": "t", "answer": 1}'
MENDABLE = "{'question': 'Q%s', 'thinking': 't', 'answer': 1,}"


def test_an_unusable_reply_is_shown_to_its_teacher_once_with_what_is_wrong(loopback_teacher):
    """Three prompts go well; the others get a refusal, then when shown it one that breaks off, then one to mend."""
    asked, shown = Counter(), []

    def answer(messages):
        prompt = messages[1]["content"]
        place = list(asked).index(prompt) if prompt in asked else len(asked)
        asked[prompt] += 1
        shown.append([message["content"] for message in messages[2:]])
        replies = [GOOD] if place < 3 else ["Sorry.", GOOD[:40], MENDABLE]
        return replies[asked[prompt] - 1].replace("%s", str(place))

    generated = _generate(_settings(6, subject="code", teacher=loopback_teacher(answer)))
    assert {record.question for record in generated.records} == {f"Q{place}" for place in range(6)}
    assert generated.stats["dropped"] == {"JSON breaks off": 3, "no JSON": 3}
    assert [generated.stats[name] for name in ("reasked", "repaired", "mended")] == [6, 3, 0]
    assert generated.stats["prompt_tokens"] == 1200
    assert sum(counts["unusable"] for counts in generated.stats["by_approach"].values()) == 6
    assert Counter(record.metadata["confidence"] for record in generated.records) == {1.0: 3, 0.5: 3}
    assert {record.metadata["teacher"] for record in generated.records} == {"hosted_vllm/m"}
    assert sorted(record.metadata["round"] for record in generated.records) == [0, 0, 0, 2, 2, 2]
    assert shown[:6] + shown[9:] == [[]] * 9
    for said, complaint in shown[6:9]:
        assert said == "Sorry."
        assert complaint.startswith("This reply cannot be used: no JSON. Write it again in full")


def test_what_is_mended_when_shown_is_kept(loopback_teacher):
    def answer(messages):
        return GOOD.replace("%s", str(hash(messages[1]["content"]))) if len(messages) == 4 else "{}"

    generated = _generate(_settings(3, subject="code", teacher=loopback_teacher(answer)))
    assert generated.stats["mended"] == generated.stats["reasked"] == 3
    assert generated.stats["dropped"] == {"no question": 3}


LONG = "A booking service counts seats twice when two riders confirm at once; write a function that prevents it in {}."


def _told_apart_by(words):
    """A teacher whose questions differ by one word in twenty, in turn, until the words are used up."""
    waiting, spare = list(words), iter(range(1000))

    def answer(messages):
        question = LONG.format(waiting.pop(0)) if waiting else f"Another task, number {next(spare)} of many others."
        return json.dumps({"question": question, "thinking": "t", "answer": "a"})

    return answer


def test_a_question_much_like_another_is_dropped_where_the_subject_says_so(loopback_teacher):
    words = ["Go", "Rust", "Java"]
    generated = _generate(_settings(3, subject="code", teacher=loopback_teacher(_told_apart_by(words))))
    assert generated.stats["near_duplicates"] == 2
    assert generated.records[0].question == LONG.format("Go")
    kept = _generate(
        _settings(3, subject="code", near_duplicates=None, teacher=loopback_teacher(_told_apart_by(words)))
    )
    assert [record.question for record in kept.records] == [LONG.format(word) for word in words]
    sums = _generate(_settings(3, subject="arithmetic", teacher=loopback_teacher(_told_apart_by(["12", "13", "14"]))))
    assert sums.stats["near_duplicates"] == 0
    assert len(sums.records) == 3


def test_no_later_stage_pays_for_an_eval_question(loopback_teacher):
    teacher = loopback_teacher(_told_apart_by(["Go", "Rust"]))
    frozen = {normalized(LONG.format("Rust"))}
    settings = _settings(2, subject="code", near_duplicates=None, teacher=teacher)
    generated = _generate(settings, eval_questions=frozen)
    assert generated.stats["contaminated"] == 2  # the one that is equal, and the one that quotes most of it
    assert not any("riders" in record.question for record in generated.records)


def test_every_record_tells_where_it_comes_from():
    settings = _settings(20, mix={"self-instruct": 0.4, "curriculum": 0.3, "chain-of-thought": 0.3})
    records = _generate(settings).records
    for record in records:
        told = record.metadata
        assert told.keys() >= {"approach", "prompt_sha256", "teacher", "seed", "round"}
        assert ("category" in told) == (told["approach"] == "self-instruct")
        assert {"area", "concept"} <= told.keys() or told["approach"] == "self-instruct"
        assert re.fullmatch("[0-9a-f]{16}", told["prompt_sha256"])
    assert len({record.metadata["seed"] for record in records}) == 20

"""A served model as teacher, as judge and as student, through Luna's own client.

Its replies are rubbish, as its weights are random: what is held here is that real calls go through and are kept,
counted and told.
"""

import random
from pathlib import Path
from typing import Any

import pytest

from luna.arithmetic.problems import SKILLS, sample
from luna.arithmetic.wording import ask
from luna.enhance import StudentTeacherConfig, ThinkingEnhancer
from luna.enhance.judges import ModelJudge
from luna.enhance.students import Dialogue
from luna.errors import TeacherError
from luna.generate.run import ROUNDS, generate
from luna.llm.client import Client, Failure
from luna.llm.journal import Journal, journal_file
from luna.records import read_lines, write_lines
from luna.serve.speaker import Speaker


def test_as_a_teacher_it_is_asked_told_what_is_wrong_and_given_up(
    served: Any, speaker: Speaker, tmp_path: Path, tiny_settings: Any
) -> None:
    server = served(speaker)
    settings = tiny_settings()
    asked = settings.params.generate.model_copy(update={"num_examples": 3})
    settings = tiny_settings({"generate": asked}, {"subject": "code", "teacher": server.endpoint(price="free")})
    bills = []
    for _ in range(2):
        client = Client(settings.preset.teacher, "teacher", Journal(journal_file(tmp_path)), "G1")
        with pytest.raises(TeacherError, match=r"none of 3 replies was usable \(6 x cut off by max_tokens\)"):
            generate(settings, None, client)
        bills.append(client.bill())
    assert len(server.requests) == 3 * 2 < 3 * ROUNDS, "and the second run asked nothing"
    assert bills[0] == bills[1]
    assert (bills[0]["calls_answered"], bills[0]["completion_tokens"], bills[0]["usd"]) == (6, 6 * 12, 0.0)
    assert bills[0]["prompt_tokens"] > 6 * 100
    shown = [request.turns[-2:] for request in server.requests if len(request.turns) == 4]
    assert len(shown) == 3
    assert all("This reply cannot be used" in turns[1]["content"] for turns in shown)


def test_as_a_judge_it_is_asked_twice_and_gives_no_verdict(served: Any, speaker: Speaker, tmp_path: Path) -> None:
    server = served(speaker)
    client = Client(server.endpoint(temperature=1.0), "judge", Journal(journal_file(tmp_path)), "G1")
    dialogues = [Dialogue([{"role": "user", "content": f"What is {n}+1?"}], answer=str(n + 1)) for n in range(2)]
    verdicts = ModelJudge(client).verdicts(dialogues, ["2", "3"])
    assert all(isinstance(one, Failure) and "twice" in one.reason for one in verdicts)
    assert len(server.requests) == 2 * 2
    assert client.usage.calls == 4


def _records(count: int) -> list[dict[str, Any]]:
    rng = random.Random(4)
    problems = [sample(rng, list(SKILLS.values())[number % len(SKILLS)]) for number in range(count)]
    return [
        {
            "messages": [
                {"role": "user", "content": ask(rng, problem)},
                {"role": "assistant", "content": str(problem.answer)},
            ]
        }
        for problem in problems
    ]


def test_as_a_student_it_attempts_is_hinted_and_attempts_again(served: Any, speaker: Speaker, tmp_path: Path) -> None:
    server = served(speaker)
    too_long = {"role": "system", "content": "A document. " * 4000}
    rows = _records(4)
    rows[2]["messages"].insert(0, too_long)
    write_lines(tmp_path / "in.jsonl", rows)
    config = StudentTeacherConfig(
        student_model=server.endpoint(temperature=0.7),
        use_local_student=False,
        teacher_model="luna-tutor/arithmetic",
        judge_model="exact",
        max_iterations=2,
        root=tmp_path,
    )
    written = []
    for _ in range(2):
        stats = ThinkingEnhancer(config).enhance_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
        written.append((tmp_path / "out.jsonl").read_bytes())
    assert (stats["enhanced_examples"], stats["failed_examples"], stats["average_iterations"]) == (3, 1, 2.0)
    assert (stats["student_usage"]["calls_answered"], stats["student_usage"]["completion_tokens"]) == (6, 6 * 12)
    assert len(server.requests) == 3 * 2 + 2, "the second run asked for nothing but what had been refused"
    assert written[0] == written[1]
    hinted = [request.turns for request in server.requests if len(request.turns) == 3]
    assert {turns[1]["role"] for turns in hinted} == {"assistant"}
    for row, turns in zip(read_lines(tmp_path / "out.jsonl"), sorted(hinted, key=str), strict=True):
        assert row["metadata"]["thinking"].count("Hint: ") == 1
        assert turns[2]["content"] in "".join(str(one["metadata"]) for one in read_lines(tmp_path / "out.jsonl"))
    [failed] = read_lines(tmp_path / "out.failed.jsonl")
    assert "HTTP 400" in failed["metadata"]["failed_because"]
    assert "4096 tokens; make it shorter" in failed["metadata"]["failed_because"]

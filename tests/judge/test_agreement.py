"""How far judges agree with the golden set, and that every right answer in it is one."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from luna.arithmetic.wording import read as read_question
from luna.cli import app
from luna.enhance.judges import make_judge
from luna.errors import BadRecord
from luna.judge.agreement import agreement, read_golden
from luna.settings import JudgeEndpoint

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from fault_server import FaultServer

GOLDEN = read_golden()
COMPUTABLE = [item for item in GOLDEN if read_question(item.question) is not None]
TUTOR = JudgeEndpoint(model="luna-tutor/arithmetic", temperature=0.0)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    one = FaultServer()
    one.start()
    yield one
    one.close()


def _model(server: FaultServer, **settings: Any) -> JudgeEndpoint:
    return JudgeEndpoint.model_validate({"model": "hosted_vllm/m", "api_base": server.api_base, **settings})


def test_the_golden_set_has_right_and_wrong_attempts_of_both_kinds() -> None:
    for items in (COMPUTABLE, [item for item in GOLDEN if item not in COMPUTABLE]):
        assert {item.correct for item in items} == {True, False}
        assert len(items) >= 10
    assert any(re.search("15 x 13", item.question) and item.correct and "195" in item.attempt for item in GOLDEN)


def test_the_exact_judge_and_the_tutor_agree_with_people_on_all_that_can_be_computed() -> None:
    exact = agreement(make_judge("exact"), COMPUTABLE)
    assert (exact.judged, exact.rate, exact.wrong) == (len(COMPUTABLE), 1.0, [])
    assert agreement(make_judge(TUTOR), COMPUTABLE) == exact
    assert agreement(make_judge("exact"), GOLDEN).rate == 1.0


def test_a_judge_that_accepts_everything_is_found_out(server: FaultServer) -> None:
    server.say = lambda body: '{"correct": true, "reason": "fine"}'
    found = agreement(make_judge(_model(server)), GOLDEN)
    wrong = sum(not item.correct for item in GOLDEN)
    assert (found.false_accepts, found.false_rejects, found.judged) == (wrong, 0, len(GOLDEN))
    assert found.rate == pytest.approx(1 - wrong / len(GOLDEN))


def test_a_judge_that_rejects_15_x_13_is_not_asked_about_it_where_both_judge(server: FaultServer) -> None:
    server.say = lambda body: 'Well: {"correct": false, "reason": "no",}'
    alone, both = (agreement(make_judge(_model(server, kind=kind)), GOLDEN) for kind in ("rubric", "both"))
    assert "What is 15 x 13?" in {item["question"] for item in alone.wrong}
    assert "What is 15 x 13?" not in {item["question"] for item in both.wrong}
    assert both.false_rejects < alone.false_rejects == sum(item.correct for item in GOLDEN)


def test_no_verdict_is_no_disagreement(server: FaultServer) -> None:
    server.say = lambda body: '{"correct": "maybe"}' if "prime" in str(body) else '{"correct": true}'
    found = agreement(make_judge(_model(server)), GOLDEN)
    assert found.judged == len(GOLDEN) - sum("prime" in item.question for item in GOLDEN)


def test_a_wrong_line_of_a_golden_set_is_named(tmp_path: Path) -> None:
    path = tmp_path / "golden.jsonl"
    path.write_text('{"question": "q", "attempt": "a", "correct": true}\n{"question": "q", "correct": 1}\n')
    with pytest.raises(BadRecord, match=rf"^{path}: item 2: needs .*; lacks attempt, correct$"):
        read_golden(path)


def test_the_command_prints_the_agreement(server: FaultServer, tmp_path: Path) -> None:
    server.say = lambda body: '{"correct": true, "reason": "fine"}'
    path = tmp_path / "golden.jsonl"
    path.write_text('{"question": "Why?", "attempt": "a", "correct": false}\n')
    named = ["--judge", "hosted_vllm/m", "--api-base", server.api_base, "--root", str(tmp_path)]
    done = CliRunner().invoke(app, ["check-judge", str(path), *named])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["items"], told["agreement"], told["false_accepts"]) == (1, 0.0, 1)
    assert told["wrong"] == [{"question": "Why?", "attempt": "a", "correct": False, "judge": "fine"}]

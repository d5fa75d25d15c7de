"""The model that is to be trained attempts the data first, and is trained on what came of it."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luna.arithmetic.layouts import solve
from luna.arithmetic.problems import SKILLS, sample
from luna.arithmetic.wording import ask
from luna.enhance import EnhancedUnslothTrainer, StudentTeacherConfig
from luna.errors import BadRecord, BadSettings
from luna.lm.weights import weights_sha256
from luna.outputs import read_json
from luna.records import read_records, write_lines
from luna.settings import Settings


@pytest.fixture
def config(luna_root: Path, tiny_settings: Callable[..., Settings]) -> Settings:
    """The tiny model as somebody's own base, which no ladder of Luna's has made."""
    model = tiny_settings().preset.model.model_copy(update={"base": "models/base"})
    return tiny_settings(None, {"model": model, "pretrain": None})


def _write_arithmetic(path: Path, count: int, thinking: bool = True) -> None:
    rng = random.Random(6)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        problem = sample(rng, SKILLS["add2"])
        turns = [{"role": "user", "content": ask(rng, problem)}, {"role": "assistant", "content": str(problem.answer)}]
        rows.append({"id": number, "messages": turns, "metadata": {"thinking": "\n".join(solve(problem))}})
        if not thinking:
            del rows[-1]["metadata"]
    write_lines(path, rows)


TUTOR = "luna-tutor/arithmetic"


def test_the_model_is_its_own_student_and_is_trained_then(config: Settings) -> None:
    _write_arithmetic(Path("in.jsonl"), 6)
    before = weights_sha256(Path("models/base"))
    trainer = EnhancedUnslothTrainer(config=config, student_teacher_config=StudentTeacherConfig(None, TUTOR, TUTOR, 2))
    metrics = trainer.train("in.jsonl", "out")
    assert (metrics["enhance"]["student"], metrics["enhance"]["student_override"]) == ("models/base", False)
    assert (metrics["enhance"]["total_examples"], metrics["enhance"]["average_iterations"]) == (6, 2.0)
    assert metrics["train"]["steps"] == config.preset.sft.max_steps
    assert metrics["train"]["records"] == metrics["judge"]["accepted"] == len(read_records(Path("out/accepted.jsonl")))
    assert weights_sha256(Path("out/model")) != before == weights_sha256(Path("models/base"))
    assert read_json(Path("out/metrics.json")) == metrics


def test_another_student_is_an_override(config: Settings) -> None:
    trainer = EnhancedUnslothTrainer(config, StudentTeacherConfig("models/base", TUTOR, TUTOR))
    assert trainer._enhancer.overridden


def test_nothing_accepted_is_told_with_the_place_of_the_reasons(config: Settings) -> None:
    """Without a solution of the teacher's there is nothing to learn where the student never gets it right."""
    _write_arithmetic(Path("in.jsonl"), 2, thinking=False)
    trainer = EnhancedUnslothTrainer(config, StudentTeacherConfig(None, TUTOR, "exact", 1))
    with pytest.raises(BadRecord, match=r"^out/rejected\.jsonl: nothing was accepted"):
        trainer.train("in.jsonl", "out")
    assert all(
        "not converged" in record.metadata["rejected_because"] for record in read_records(Path("out/rejected.jsonl"))
    )


def test_a_model_from_nothing_has_to_be_made_first(tiny_settings: Callable[..., Settings]) -> None:
    with pytest.raises(BadSettings, match=r"^model\.base: scratch has no weights"):
        EnhancedUnslothTrainer(tiny_settings(), StudentTeacherConfig(None, TUTOR, TUTOR))

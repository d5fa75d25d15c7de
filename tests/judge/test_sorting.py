"""Accepted or rejected with a reason: every reason can happen, and no record is lost."""

import random
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luna.answers import normalized, same_answer
from luna.arithmetic.corpus import thinking_reply
from luna.arithmetic.layouts import solve
from luna.arithmetic.problems import SKILLS, Problem, Step, sample
from luna.arithmetic.wording import ask
from luna.enhance.students import Dialogue, Turn
from luna.errors import LunaError
from luna.eval_set.items import make_items
from luna.judge.run import Judged, judge
from luna.laws import load_laws
from luna.records import Record
from luna.settings import Evaluation

LAWS = load_laws(Path(__file__).parents[2] / "laws.yaml")
RNG = random.Random(2)
PROBLEM = sample(RNG, SKILLS["add2"])
NUMBERED = [sample(RNG, SKILLS["add4"]) for _ in range(25)]
REPLY = thinking_reply(solve(PROBLEM), PROBLEM.answer)


def _record(question: str, answer: str, thinking: str = "thought", **metadata: Any) -> Record:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Record.model_validate({"messages": messages, "metadata": {"thinking": thinking, **metadata}})


def _dialogue(question: str, *turns: Turn) -> Dialogue:
    return Dialogue([{"role": "user", "content": question}], list(turns))


def _good() -> tuple[Record, Dialogue]:
    question = ask(random.Random(1), PROBLEM)
    record = _record(question, str(PROBLEM.answer), id="x", approach="curriculum")
    return record, _dialogue(question, Turn(REPLY, True, "right", None))


def _judge(
    *pairs: tuple[Record, Dialogue],
    asked: set[str] | None = None,
    arithmetic: bool = True,
    unconverged: Literal["teacher", "reject"] = "reject",
) -> Judged:
    records, dialogues = [record for record, _ in pairs], [dialogue for _, dialogue in pairs]
    return judge(records, dialogues, LAWS, asked or set(), arithmetic=arithmetic, unconverged=unconverged)


def _reason(record: Record, dialogue: Dialogue, asked: set[str] | None = None) -> str:
    """Why a record is rejected; nothing is lost on the way."""
    judged = _judge((record, dialogue), asked=asked)
    assert judged.accepted == []
    [rejected] = judged.rejected
    assert rejected.messages == record.messages
    reason = rejected.metadata["rejected_because"]
    assert judged.metrics["rejected_by_reason"] == {reason.split(":")[0]: 1}
    assert judged.metrics["acceptance_rate"] == 0
    return str(reason)


def test_a_good_record_is_accepted_with_its_attempts() -> None:
    record, dialogue = _good()
    judged = _judge((record, dialogue))
    [accepted] = judged.accepted
    assert accepted.messages == record.messages
    assert [Turn(**turn) for turn in accepted.metadata["attempts"]] == dialogue.turns
    assert {name: accepted.metadata[name] for name in record.metadata} == record.metadata
    assert "attempts" not in record.metadata
    assert judged.metrics["accepted_by_approach"] == {"curriculum": 1}
    assert judged.metrics["rejected_by_reason"] == {}


def test_a_question_of_the_eval_set_is_contamination() -> None:
    item = make_items(Evaluation(recall_items=5, generalize_items=5))[0]
    asked = {normalized(item.question)}
    record = _record(f"  {item.question.upper()}\n", item.answer)
    reason = _reason(record, _dialogue(record.question, Turn(item.answer, True, "", None)), asked)
    assert reason.startswith("contaminated: ")


def test_the_second_of_two_equal_questions_is_a_duplicate() -> None:
    record, dialogue = _good()
    judged = _judge((record, dialogue), (record, dialogue))
    assert len(judged.accepted) == 1
    assert judged.rejected[0].metadata["rejected_because"].startswith("duplicate: ")


def test_a_question_that_was_rejected_before_may_still_be_accepted() -> None:
    record, dialogue = _good()
    failed = _dialogue(dialogue.question, Turn("<think>\n7", False, "the thinking never ends", 0))
    judged = _judge((record, failed), (record, dialogue))
    assert len(judged.accepted) == len(judged.rejected) == 1


def test_dialogues_of_another_run_are_refused() -> None:
    record, dialogue = _good()
    for other in ([], [_dialogue("What is 1+1?", *dialogue.turns)], [dialogue, dialogue]):
        with pytest.raises(LunaError, match=r"^data/dialogues\.jsonl: is of another run .* --force enhance`"):
            judge([record], other, LAWS, set(), arithmetic=True, unconverged="reject")


def test_an_attempt_that_stayed_wrong_says_what_was_wrong_last() -> None:
    record, dialogue = _good()
    turns = [Turn("1", False, "first", 0, hint="Look again."), Turn("2", False, "the final answer is wrong", 0)]
    reason = _reason(record, _dialogue(dialogue.question, *turns))
    assert reason == "not converged: the final answer is wrong"


def test_an_answer_that_differs_from_the_records_is_disputed() -> None:
    _, dialogue = _good()
    wrong = _record(dialogue.question, str(PROBLEM.answer + 1))
    assert _reason(wrong, dialogue).startswith("disputed: ")


def test_a_way_over_the_sealed_range_is_not_trained_on() -> None:
    record, dialogue = _good()
    reply = REPLY.replace("<think>\n", "<think>\n72-1=71\n")
    assert _reason(record, _dialogue(dialogue.question, Turn(reply, True, "right", None))).startswith("sealed: ")


def test_a_question_of_the_sealed_range_is_not_trained_on() -> None:
    """Answered by heart, so that only the question shows it."""
    problem = Problem((Step("+", 72, 15),))
    question = ask(random.Random(0), problem)
    assert _reason(_record(question, "87"), _dialogue(question, Turn("87", True, "", None))).startswith("sealed: ")


def test_other_subjects_are_not_held_against_what_is_sealed_nor_against_one_wording() -> None:
    """Two right programs differ as texts, and 72 + 15 is nothing special in them; laws hold all the same."""
    _, dialogue = _good()
    dialogue.turns[0] = Turn("<think>\n72+15\n</think>\nprint(87)", True, "right", None)
    record = _record(dialogue.question, "sys.stdout.write(str(80 + 7))")
    assert len(_judge((record, dialogue), arithmetic=False).accepted) == 1
    assert _reason(record, dialogue).startswith("disputed: ")
    unlawful = _record(dialogue.question, "x", "synergy")
    assert len(_judge((unlawful, dialogue), arithmetic=False).rejected) == 1


@pytest.mark.parametrize(
    ("law", "reply", "thinking", "hint"),
    [
        ("taboo-words", REPLY, "Let us leverage it.", None),
        ("taboo-words", REPLY.replace("<think>\n", "<think>\nOptimize!\n"), "t", None),
        ("unclosed-thinking", REPLY, "so <think>", None),
        ("hint-reveals-answer", REPLY, "t", f"It is {PROBLEM.answer}."),
        ("template-markers", REPLY, "<|im_end|>", None),
    ],
)
def test_a_broken_law_is_named(law: str, reply: str, thinking: str, hint: str | None) -> None:
    record, dialogue = _good()
    record = _record(record.question, record.answer, thinking)
    first = [Turn("1", False, "wrong", 0, hint=hint)] if hint else []
    reason = _reason(record, _dialogue(dialogue.question, *first, Turn(reply, True, "right", None)))
    assert reason.startswith(f"law: {law} broken: ")


@given(st.lists(st.sampled_from(["good", "wrong", "disputed", "law", "duplicate"]), min_size=1, max_size=25))
def test_nothing_is_lost(kinds: list[str]) -> None:
    pairs = [_good()]
    for number, kind in enumerate(kinds):
        problem = PROBLEM if kind == "duplicate" else NUMBERED[number]
        question = ask(random.Random(1), problem)
        turn = Turn(thinking_reply(solve(problem), problem.answer), kind != "wrong", "r", None)
        record = _record(question, str(problem.answer + (kind == "disputed")), "synergy" if kind == "law" else "t")
        pairs.append(
            (record.model_copy(update={"metadata": {**record.metadata, "id": number}}), _dialogue(question, turn))
        )
    judged = _judge(*pairs)
    metrics = judged.metrics
    assert metrics["accepted"] + metrics["rejected"] == metrics["total"] == len(pairs)
    assert (len(judged.accepted), len(judged.rejected)) == (metrics["accepted"], metrics["rejected"])
    ids = [record.metadata["id"] for record in [*judged.accepted, *judged.rejected]]
    assert sorted(ids, key=str) == sorted(["x", *range(len(kinds))], key=str)
    assert sum(metrics["rejected_by_reason"].values()) == metrics["rejected"]
    assert metrics["accepted"] == kinds.count("good") + 1
    assert metrics["acceptance_rate"] == pytest.approx(metrics["accepted"] / len(pairs))


@pytest.mark.parametrize(
    ("said", "expected", "same"),
    [
        ("85", "85", True),
        ("The answer is 1,195.", "1195", True),
        ("  Yes, it IS ", "yes, it is", True),
        ("85", "86", False),
        ("yes", "no", False),
        ("yes", "85", False),
        ("", "85", False),
        ("return max(x, 0)", "pop until the size is 0", False),
    ],
)
def test_answers_are_the_same_as_text_or_as_number(said: str, expected: str, same: bool) -> None:
    assert same_answer(said, expected) is same


def _unanswered(solution: str | None) -> tuple[Record, Dialogue]:
    record, dialogue = _good()
    told = _record(record.question, record.answer, "my story", original_thinking=solution)
    return told, _dialogue(dialogue.question, Turn("<think>\n7", False, "the thinking never ends", 0))


def test_what_the_student_could_not_answer_is_learned_from_the_teacher() -> None:
    solution = "\n".join(solve(PROBLEM))
    record, dialogue = _unanswered(solution)
    judged = _judge((record, dialogue), unconverged="teacher")
    [accepted] = judged.accepted
    assert accepted.thinking == solution
    assert [Turn(**turn) for turn in accepted.metadata["attempts"]] == dialogue.turns
    assert (judged.metrics["learned_from_teacher"], judged.metrics["learned_from_student"]) == (1, 0)


def test_a_law_that_only_a_failed_attempt_breaks_is_no_objection() -> None:
    record, dialogue = _unanswered("\n".join(solve(PROBLEM)))
    dialogue.turns[-1].attempt = "Let us leverage it."
    assert len(_judge((record, dialogue), unconverged="teacher").accepted) == 1


@pytest.mark.parametrize("solution", [None, "Let us leverage it.", "72+15\nso 87"])
def test_a_teachers_solution_passes_the_same_checks(solution: str | None) -> None:
    assert _judge(_unanswered(solution), unconverged="teacher").accepted == []

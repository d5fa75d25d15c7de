"""The frozen eval set: exact, repeatable, and nothing that a training text could hold."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from luna.answers import normalized
from luna.arithmetic.problems import SEALED_SKILLS, SKILLS, Problem, is_sealed, sample, skill_of, split_of
from luna.arithmetic.reading import last_number
from luna.arithmetic.tutor import judge
from luna.arithmetic.wording import read
from luna.errors import LunaError
from luna.eval_set import items as items_module
from luna.eval_set.items import (
    ITEMS,
    VOICE,
    EvalItem,
    eval_set_sha256,
    make_items,
    make_voice,
    read_items,
    read_voice,
    write_eval_set,
)
from luna.generate.mix import prompts_of
from luna.generate.replies import parse_invention
from luna.generate.subject import load_subject
from luna.llm import tutor
from luna.records import write_lines
from luna.settings import Evaluation

FULL = Evaluation(recall_items=800, generalize_items=801)


@pytest.fixture(scope="module")
def items() -> list[EvalItem]:
    return make_items(FULL)


def _identity(problem: Problem) -> tuple[tuple[str, int, int], ...]:
    """A problem up to the order of what is added or multiplied."""
    return tuple(
        (step.op, *(sorted((step.a, step.b)) if step.op in "+*" else (step.a, step.b))) for step in problem.steps
    )


@pytest.mark.parametrize(("recall", "generalize"), [(1, 1), (13, 7), (250, 40), (800, 801)])
def test_there_are_exactly_as_many_items_as_asked(recall: int, generalize: int) -> None:
    items = make_items(Evaluation(recall_items=recall, generalize_items=generalize))
    assert Counter(item.suite for item in items) == {"recall": recall, "generalize": generalize}


def test_ids_and_questions_are_unique(items: list[EvalItem]) -> None:
    assert len({item.id for item in items}) == len(items)
    assert len({normalized(item.question) for item in items}) == len(items)


def test_no_problem_stands_in_it_twice_even_turned_round(items: list[EvalItem]) -> None:
    counts = Counter(_identity(read(item.question)) for item in items)
    assert [identity for identity, count in counts.items() if count > 1] == []


def test_every_item_is_answered_right_and_is_held_out(items: list[EvalItem]) -> None:
    for item in items:
        problem = read(item.question)
        assert int(item.answer) == problem.answer
        assert judge(problem, item.answer).correct
        if item.suite == "recall":
            assert split_of(problem) == "eval"
            assert not is_sealed(problem)
            assert skill_of(problem).name == item.family
        else:
            assert is_sealed(problem)
            assert (skill_of(problem).name in SEALED_SKILLS) == (item.family == "composition")


def test_every_trained_skill_and_every_sealed_family_is_asked(items: list[EvalItem]) -> None:
    recall = Counter(item.family for item in items if item.suite == "recall")
    assert recall.keys() == SKILLS.keys()
    assert min(recall.values()) >= 10
    families = Counter(item.family for item in items if item.suite == "generalize")
    assert families == {"range": 400, "composition": 401}


def test_it_is_disjoint_from_five_thousand_invented_questions(items: list[EvalItem]) -> None:
    subject = load_subject("arithmetic")
    prompts = [
        prompt
        for approach in ("self-instruct", "curriculum", "chain-of-thought", "template")
        for prompt in prompts_of(approach, subject, 1250, seed=11)
    ]
    asked = [
        parse_invention(tutor.answer([{"role": "user", "content": prompt.text}], seed)).question
        for seed, prompt in enumerate(prompts)
    ]
    assert len(asked) == 5000
    assert not {normalized(item.question) for item in items} & {normalized(question) for question in asked}
    assert not {_identity(read(item.question)) for item in items} & {_identity(read(question)) for question in asked}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    small = Evaluation(recall_items=40, generalize_items=20)
    write_eval_set(tmp_path / "one", small, "arithmetic")
    write_eval_set(tmp_path / "again", small, "arithmetic")
    write_eval_set(tmp_path / "other", small.model_copy(update={"seed": 1}), "arithmetic")
    for name in (ITEMS, VOICE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
        assert (tmp_path / "one" / name).read_bytes() != (tmp_path / "other" / name).read_bytes()
    hashes = [eval_set_sha256(tmp_path / name) for name in ("one", "again", "other")]
    assert hashes[0] == hashes[1] != hashes[2]


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    small = Evaluation(recall_items=40, generalize_items=20)
    write_eval_set(tmp_path / "eval", small, "arithmetic")
    assert read_items(tmp_path / "eval") == make_items(small)
    assert read_voice(tmp_path / "eval") == make_voice(small)


@pytest.mark.parametrize("name", [ITEMS, VOICE])
def test_the_hash_changes_with_any_byte(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "eval"
    write_eval_set(folder, Evaluation(recall_items=20, generalize_items=10), "arithmetic")
    before = eval_set_sha256(folder)
    path = folder / name
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))
    assert eval_set_sha256(folder) != before


def test_the_voice_is_closed_thinking_with_an_answer_in_all_ways_of_working() -> None:
    voice = make_voice(FULL, 400)
    assert len(voice) == 400
    assert all(reply.count("<think>") == reply.count("</think>") == 1 for reply in voice)
    assert all(last_number(reply.rpartition("</think>")[2]) is not None for reply in voice)
    columns = sum("ones " in reply for reply in voice)
    assert 0.4 < columns / 400 < 0.8


def test_items_are_lines_of_json_with_these_keys(tmp_path: Path) -> None:
    write_eval_set(tmp_path / "eval", Evaluation(recall_items=2, generalize_items=2), "arithmetic")
    rows = [json.loads(line) for line in (tmp_path / "eval" / ITEMS).read_text().splitlines()]
    assert all(row.keys() == {"id", "suite", "family", "question", "answer"} for row in rows)


# ---------------------------------------------------------------- items of one's own

OWN = {"id": "a", "suite": "recall", "family": "f", "question": "Why?", "answer": "So.", "reply": "It is so."}


def _write_own(tmp_path: Path, *rows: dict[str, object]) -> Path:
    """An eval set of a subject without a built-in one, from the given rows."""
    write_lines(tmp_path / "own.jsonl", rows)
    settings = Evaluation(recall_items=1, generalize_items=1, own_items=str(tmp_path / "own.jsonl"))
    write_eval_set(tmp_path / "eval", settings, "code")
    return tmp_path / "eval"


def test_items_of_ones_own_are_taken_as_they_are(tmp_path: Path) -> None:
    folder = _write_own(tmp_path, OWN, {**OWN, "id": "b", "suite": "generalize", "note": "kept out"})
    assert read_items(folder) == [
        EvalItem("a", "recall", "f", "Why?", "So."),
        EvalItem("b", "generalize", "f", "Why?", "So."),
    ]
    assert read_voice(folder) == ["It is so."] * 2


@pytest.mark.parametrize("change", [{"answer": None}, {"reply": 4}, {"suite": "recal"}])
def test_a_line_that_is_no_item_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises(LunaError, match=rf"own\.jsonl:2: {next(iter(change))}: ") as refused:
        _write_own(tmp_path, OWN, {**OWN, **change})
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "eval").exists()


def test_a_subject_without_items_asks_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(
        LunaError, match=r"^params\.yaml: evaluate\.own_items: there is no built-in eval set for code; "
    ):
        write_eval_set(tmp_path / "eval", Evaluation(recall_items=1, generalize_items=1), "code")
    missing = Evaluation(recall_items=1, generalize_items=1, own_items=str(tmp_path / "none.jsonl"))
    with pytest.raises(LunaError, match=r"none\.jsonl: no such file; mend evaluate\.own_items"):
        write_eval_set(tmp_path / "eval", missing, "code")


def test_more_sealed_problems_than_there_are_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = [sample(random.Random(seed), SEALED_SKILLS["sub-add"], "eval") for seed in range(3)]
    monkeypatch.setattr(items_module, "sample_sealed_range", lambda rng, skill: rng.choice(pool))
    with pytest.raises(LunaError, match=r"generalize_items: there are no 4 sealed problems; ask fewer"):
        make_items(Evaluation(recall_items=1, generalize_items=8))

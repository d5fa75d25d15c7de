"""Held-out problems, the sealed range and the sealed compositions stay out of whatever is trained on."""

import random
import re
from functools import cache
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luna.arithmetic.corpus import Kind, document, level_weights, thinking_reply
from luna.arithmetic.layouts import solve
from luna.arithmetic.problems import (
    SEALED_SKILLS,
    SKILLS,
    Problem,
    Skill,
    Step,
    draw,
    holds_sealed,
    in_sealed_range,
    is_sealed,
    sample,
    sample_sealed_range,
    split_of,
)
from luna.arithmetic.wording import ask, read
from luna.eval_set.items import EvalItem, make_items
from luna.settings import Evaluation

KINDS = get_args(Kind)
LEVELS = level_weights([1.0] * 6)
HEADING = re.compile(r"^(\d+)([-+*])(\d+)$", re.MULTILINE)
seeds = st.integers(0, 2**32)
skills = st.sampled_from(list(SKILLS.values()))


def _alone(step: Step) -> Problem:
    return Problem((step,))


@given(seeds, skills)
def test_no_training_problem_has_a_step_that_is_held_out(seed: int, skill: Skill) -> None:
    problem = sample(random.Random(seed), skill)
    assert split_of(problem) == "train"
    assert [split_of(_alone(step)) for step in problem.steps] == ["train"] * len(problem.steps)
    assert not is_sealed(problem)


@given(st.integers(0, 9999), st.integers(0, 9999), st.sampled_from("+*"), st.integers(10, 99))
def test_a_sum_and_its_turned_form_are_one_item(a: int, b: int, op: str, c: int) -> None:
    one, turned = Step(op, a, b), Step(op, b, a)
    assert split_of(_alone(one)) == split_of(_alone(turned))
    chain = Step("+", one.value, c)
    assert split_of(Problem((one, chain))) == split_of(Problem((turned, chain)))


def test_a_difference_and_its_turned_form_are_two_items() -> None:
    pairs = [(a, b) for a in range(40, 60) for b in range(20, 40)]
    same = [split_of(_alone(Step("-", a, b))) == split_of(_alone(Step("-", b, a))) for a, b in pairs]
    assert not all(same)


def test_the_splits_have_their_shares() -> None:
    rng = random.Random(0)
    drawn = [split_of(draw(rng, SKILLS["add4"])) for _ in range(4000)]
    assert drawn.count("eval") / 4000 == pytest.approx(1 / 8, abs=0.025)
    assert drawn.count("probe") / 4000 == pytest.approx(1 / 8, abs=0.025)


@given(seeds, skills, st.sampled_from(["train", "probe", "eval"]))
def test_a_sample_is_of_the_split_that_was_asked_for_and_never_sealed(seed: int, skill: Skill, split: str) -> None:
    problem = sample(random.Random(seed), skill, split)
    assert split_of(problem) == split
    assert not is_sealed(problem)


# ---------------------------------------------------------------- the base corpus


@cache
def _items() -> tuple[EvalItem, ...]:
    return tuple(make_items(Evaluation(recall_items=800, generalize_items=800)))


@cache
def _corpus(kind: str) -> list[str]:
    rng = random.Random(kind)
    documents = [document(rng, kind, LEVELS) for _ in range(1500)]
    return ["".join(segment.text for segment in segments) for segments in documents]


@cache
def _asked(kind: str) -> list[str]:
    rng = random.Random(kind)
    documents = [document(rng, kind, LEVELS) for _ in range(1500)]
    return [segment.text for segments in documents for segment in segments if segment.role == "user"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_corpus_holds_nothing_sealed(kind: str) -> None:
    assert [text for text in _corpus(kind) if holds_sealed(text)] == []
    # Said once more without `holds_sealed`: no number of the sealed range stands beside a sign of an operation.
    assert [
        text for text in _corpus(kind) if re.search(r"[-+*(](6[5-9]|7[0-4])|(?<!\d)(6[5-9]|7[0-4])\d*[-+*]", text)
    ] == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_corpus_asks_no_eval_question_and_works_on_no_held_out_step(kind: str) -> None:
    held_out = {item.question for item in _items()}
    assert not held_out & set(_asked(kind))
    assert all(split_of(read(question)) == "train" for question in _asked(kind))
    steps = [Step(op, int(a), int(b)) for text in _corpus(kind) for a, op, b in HEADING.findall(text)]
    assert all(split_of(_alone(step)) == "train" for step in steps)
    assert len(steps) >= 1500 or kind not in ("bare", "worked", "hinted")
    assert len(_asked(kind)) == 1500 or kind not in ("worked", "hinted")


def test_no_line_of_the_corpus_works_an_eval_item_out() -> None:
    """`47+30=77` in a solution by parts is the whole working of the eval item 47+30."""
    single = {read(item.question).steps for item in _items() if item.suite == "recall"}
    keys = {_key(*steps) for steps in single if len(steps) == 1}
    lines = re.compile(r"^(\d{2,})([-+*])(\d+)=", re.MULTILINE)
    shown = {
        _key(Step(op, int(a), int(b))): text
        for kind in ("bare", "worked", "hinted")
        for text in _corpus(kind)
        for a, op, b in lines.findall(text)
    }
    assert len(shown) > 100
    assert keys & shown.keys() == set()


def _key(step: Step) -> tuple[str, int, int]:
    a, b = sorted((step.a, step.b)) if step.op in "+*" else (step.a, step.b)
    return step.op, a, b


# ---------------------------------------------------------------- finding what is sealed


@given(seeds, skills, st.sampled_from(["columns", "bare", "parts"]))
def test_a_planted_problem_of_the_sealed_range_is_found(seed: int, skill: Skill, method: str) -> None:
    rng = random.Random(seed)
    problem = sample_sealed_range(rng, skill)
    assert any(in_sealed_range(number) for number in problem.operands)
    assert holds_sealed(ask(rng, problem))
    assert holds_sealed(thinking_reply(solve(problem, method), problem.answer))


@given(seeds, st.sampled_from(list(SEALED_SKILLS.values())), st.sampled_from(["columns", "bare", "parts"]))
def test_a_planted_sealed_composition_is_found(seed: int, skill: Skill, method: str) -> None:
    problem = sample(random.Random(seed), skill)
    assert holds_sealed(thinking_reply(solve(problem, method), problem.answer))


@given(seeds, st.sampled_from(list(SEALED_SKILLS.values())))
def test_a_question_of_a_sealed_composition_is_found(seed: int, skill: Skill) -> None:
    rng = random.Random(seed)
    assert holds_sealed(ask(rng, sample(rng, skill)))


@pytest.mark.parametrize("sign", ["+", "-", "−", "*", "x", "×", "·", "plus", "minus", "times"])
def test_the_sealed_range_is_found_beside_every_sign(sign: str) -> None:
    assert holds_sealed(f"65 {sign} 12")
    assert holds_sealed(f"12 {sign} 7499")
    assert not holds_sealed(f"64 {sign} 12")
    assert not holds_sealed(f"12 {sign} 7500")
    assert not holds_sealed(f"170 {sign} 12")


@given(seeds, skills)
def test_nothing_is_found_where_nothing_is(seed: int, skill: Skill) -> None:
    rng = random.Random(seed)
    problem = sample(rng, skill)
    assert not holds_sealed(ask(rng, problem))
    assert not holds_sealed(thinking_reply(solve(problem, "columns"), problem.answer))


@pytest.mark.parametrize(
    "text",
    [
        "so 72",
        "The answer is 72.",
        "7+8=15",
        "ones 7*5+0=35",
        "tens 8-7-1+00=00",
        "<think>\n47-12\nso 35\n</think>\n35\n<think>\n35+8\nso 43\n</think>\n43",  # two problems, no chain
        "<think>\n47+12\nso 59\n59-8\nso 51\n</think>\n51",
    ],
)
def test_a_lone_seven_a_result_and_open_compositions_are_not_sealed(text: str) -> None:
    assert not holds_sealed(text)

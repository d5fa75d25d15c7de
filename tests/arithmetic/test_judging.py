"""The judge goes by truth alone, points at the mistake, and no hint ever gives the answer away."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luna.arithmetic.corpus import thinking_reply
from luna.arithmetic.layouts import solve
from luna.arithmetic.problems import SEALED_SKILLS, SKILLS, Problem, Skill, Step, draw
from luna.arithmetic.reading import read_attempt
from luna.arithmetic.tutor import first_wrong_line, hint, hint_at, judge
from luna.arithmetic.wording import read
from luna.leaks import reveals_answer

FIFTEEN = Problem((Step("*", 15, 13),))
seeds = st.integers(0, 2**32)
skills = st.sampled_from([*SKILLS.values(), *SEALED_SKILLS.values()])
methods = st.sampled_from(["columns", "bare", "parts"])

RIGHT = [
    "195",
    "The answer is 195.",
    "15 x 13 = 195",
    "15×13=195",
    "15 * 13 = 15 * 10 + 15 * 3 = 150 + 45 = 195",
    "15*13=15*(10+3)=150+45=195",
    "Fifteen times thirteen equals one hundred and ninety-five, that is 195.",
    "<think>\n15 times 10 is 150, and 15 times 3 is 45, together 195.\n</think>\n195",
    "<think>\n15 x 10 = 150\n15 x 3 = 45\n150 + 45 = 195\n</think>\n195",
    "<think>\n10 x 13 = 130; 5 x 13 = 65; 130 + 65 = 195\n</think>\n195",
    "<think>\n15*10=150, 15*3=45, 150+45=195\n</think>\n195",
    "<think>\n- 15 x 10 = 150\n- 15 x 3 = 45\n- 150 + 45 = 195\n</think>\n195",
    "<think>\n1. 15 x 10 = 150\n2. 15 x 3 = 45\n3. 150 + 45 = 195\n</think>\n195",
    "<think>\n20 x 13 = 260 and 5 x 13 = 65, so 260 - 65 = 195\n</think>\n195",
    "<think>\n30 x 13 = 390, half of it: 390 / 2 = 195\n</think>\n195",
    "<think>\n(14+1)*(14-1) = 14*14 - 1 = 196 - 1 = 195\n</think>\n195",
    "<think>\n13+13=26\n26+26=52\n52+52=104\n104+52+26+13=195\n</think>\n195",
    "<think>\nones 3*5=15, write 5 carry 1\ntens 3*1+1=4\nso 45, then 150\n</think>\nThe answer is **195**.",
    "<think>\n195 = 3 · 65 = 3 · 5 · 13 = 15 · 13\n</think>\n\n195\n",
    "<think>\nWhat is asked? A product.\nI know 13 x 15 by heart.\n</think>\n195 apples",
    "<think>\n1,500 - 1,305 = 195 is a way to check.\n</think>\n195",
]


@pytest.mark.parametrize("attempt", RIGHT)
def test_every_right_way_to_fifteen_times_thirteen_is_accepted(attempt: str) -> None:
    verdict = judge(FIFTEEN, attempt)
    assert verdict.correct, verdict
    assert verdict.first_wrong_line is None


def test_the_plain_question_is_understood() -> None:
    assert read("What is 15 x 13?") == FIFTEEN


@pytest.mark.parametrize("answer", ["1,195", "1195", "**1,195**", "It is 1,195 km.", "$1195$"])
def test_thousands_separators_make_no_difference(answer: str) -> None:
    problem = Problem((Step("+", 999, 196),))
    assert judge(problem, f"<think>\n999 + 196 = 1,195\n</think>\n{answer}").correct
    assert judge(problem, f"<think>\n1,000 + 195 = 1,195 = 1195\n</think>\n{answer}").correct


@pytest.mark.parametrize(
    ("attempt", "reason"),
    [
        ("196", "final answer is wrong"),
        ("<think>\n15*13=195\n</think>\n196", "final answer is wrong"),
        ("<think>\n15*13=195\n</think>\n", "no final answer"),
        ("<think>\n15*13=195\n</think>\nI cannot tell.", "no final answer"),
        ("<think>\n15*13=195\n195", "never ends"),
        ("<think>\n15*10=140\n</think>\n195", "15*10=140 is false"),
        ("<think>\n15*13=150+45=196\n</think>\n195", "15*13=150+45=196 is false"),
        ("", "no final answer"),
    ],
)
def test_a_wrong_answer_a_false_statement_and_endless_thinking_are_rejected(attempt: str, reason: str) -> None:
    verdict = judge(FIFTEEN, attempt)
    assert not verdict.correct
    assert reason in verdict.reason
    assert verdict.first_wrong_line is not None


@given(seeds, skills, methods)
def test_every_solution_of_the_solver_is_accepted(seed: int, skill: Skill, method: str) -> None:
    problem = draw(random.Random(seed), skill)
    assert judge(problem, thinking_reply(solve(problem, method), problem.answer)).correct


@given(seeds, skills, methods, st.integers(1, 10_000))
def test_a_wrong_answer_is_never_accepted(seed: int, skill: Skill, method: str, off: int) -> None:
    problem = draw(random.Random(seed), skill)
    assert not judge(problem, thinking_reply(solve(problem, method), problem.answer + off)).correct


def _with_error(lines: list[str], index: int, digit: int) -> list[str]:
    changed = lines[index][:-1] + str((int(lines[index][-1]) + digit) % 10)
    return [*lines[:index], changed, *lines[index + 1 :]]


@given(seeds, skills, methods, st.integers(1, 9), st.data())
def test_the_first_wrong_line_is_the_planted_one(
    seed: int, skill: Skill, method: str, digit: int, data: st.DataObject
) -> None:
    problem = draw(random.Random(seed), skill)
    lines = solve(problem, method)
    index = data.draw(st.integers(0, len(lines) - 1))
    reply = thinking_reply(_with_error(lines, index, digit), problem.answer + 1)
    assert first_wrong_line(problem, read_attempt(reply)) == index
    verdict = judge(problem, reply)
    assert (verdict.correct, verdict.first_wrong_line) == (False, index)


@given(seeds, skills, methods, st.data())
def test_missing_lines_are_pointed_at_behind_the_last(
    seed: int, skill: Skill, method: str, data: st.DataObject
) -> None:
    problem = draw(random.Random(seed), skill)
    lines = solve(problem, method)
    kept = lines[: data.draw(st.integers(0, len(lines) - 1))]
    assert first_wrong_line(problem, read_attempt(thinking_reply(kept, problem.answer))) == len(kept)


@given(seeds, skills, methods, st.booleans())
def test_no_hint_at_any_line_reveals_the_answer(seed: int, skill: Skill, method: str, firm: bool) -> None:
    problem = draw(random.Random(seed), skill)
    for index in range(len(solve(problem, method))):
        said = hint_at(problem, method, index, firm=firm)
        assert said.strip()
        assert not reveals_answer(said, str(problem.answer)), said


@given(seeds, skills, methods, st.booleans(), st.integers(1, 9))
def test_no_hint_at_a_wrong_attempt_reveals_the_answer(
    seed: int, skill: Skill, method: str, firm: bool, digit: int
) -> None:
    problem = draw(random.Random(seed), skill)
    lines = solve(problem, method)
    attempts = [_with_error(lines, index, digit) for index in range(len(lines))]
    attempts += [lines[:count] for count in range(len(lines) + 1)] + [["I do not know."]]
    for attempt in attempts:
        said = hint(problem, thinking_reply(attempt, problem.answer + 1), firm=firm)
        assert not reveals_answer(said, str(problem.answer)), said


def test_hints_reveal_nothing_where_the_answer_also_stands_in_the_work() -> None:
    """9 is an operand, 0 a carry and 22 the heading's own number."""
    for step in (Step("-", 19, 10), Step("-", 44, 22), Step("-", 35, 35), Step("+", 10, 10)):
        problem = Problem((step,))
        for method in ("columns", "bare", "parts"):
            for index in range(len(solve(problem, method))):
                for firm in (False, True):
                    said = hint_at(problem, method, index, firm=firm)
                    assert not re.search(rf"(?<!\d)0*{problem.answer}(?!\d)", said), said


@given(seeds, st.sampled_from(list(SKILLS.values())), methods)
def test_a_firm_hint_tells_no_less_than_a_soft_one(seed: int, skill: Skill, method: str) -> None:
    problem = draw(random.Random(seed), skill)
    lines = solve(problem, method)
    pairs = [
        (hint_at(problem, method, i, firm=False), hint_at(problem, method, i, firm=True)) for i in range(len(lines))
    ]
    assert all(len(firm) >= len(soft) for soft, firm in pairs)
    assert any(firm != soft for soft, firm in pairs) or len(lines) <= 3

"""Every method's solution is true line by line, and every question reads back as the problem it was made from."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luna.arithmetic.layouts import COLUMN_NAMES, choose_method, is_open, part_steps, solve
from luna.arithmetic.problems import SEALED_SKILLS, SKILLS, Problem, Skill, Step, draw, skill_of
from luna.arithmetic.wording import FORMS, ask, read

ALL_SKILLS = [*SKILLS.values(), *SEALED_SKILLS.values()]
METHODS = ("columns", "bare", "parts")
seeds = st.integers(0, 2**32)


def _python(expression: str) -> int:
    """What Python makes of an expression; it refuses numbers such as 07."""
    assert re.fullmatch(r"[-+*\d]+", expression), expression
    return int(eval(re.sub(r"(?<!\d)0+(?=\d)", "", expression)))


def _by_step(problem: Problem, lines: list[str]) -> list[tuple[Step, list[str]]]:
    """The lines between each step's heading and its result line, which are checked here."""
    out, rest = [], lines
    for step in problem.steps:
        end = rest.index(f"so {step.value}")
        assert rest[0] == f"{step.a}{step.op}{step.b}"
        out.append((step, rest[1:end]))
        rest = rest[end + 1 :]
    assert rest == []
    return out


@given(seeds, st.sampled_from(ALL_SKILLS), st.sampled_from(METHODS))
def test_every_line_is_true_and_the_last_is_the_answer(seed: int, skill: Skill, method: str) -> None:
    problem = draw(random.Random(seed), skill)
    lines = solve(problem, method)
    assert lines[-1] == f"so {problem.answer}"
    for step, work in _by_step(problem, lines):
        assert work
        assert step.value == _python(str(step))
        for line in work:
            left, right = re.sub(r"^[a-z-]+ ", "", line).split("=")
            assert _python(left) == int(right)


@given(seeds, st.sampled_from(ALL_SKILLS))
def test_columns_add_up_to_the_result_and_bare_is_columns_without_names(seed: int, skill: Skill) -> None:
    problem = draw(random.Random(seed), skill)
    named, bare = solve(problem, "columns"), solve(problem, "bare")
    assert [re.sub(rf"^(?:{'|'.join(COLUMN_NAMES)}) ", "", line) for line in named] == bare
    for step, work in _by_step(problem, bare):
        written = [int(line.split("=")[1]) for line in work]
        # A column writes its last digit; the carry stays for the next one, and the last carry is written too.
        value = sum((total % 10) * 10**place for place, total in enumerate(written))
        assert value + (written[-1] // 10) * 10 ** len(written) == step.value


@given(seeds, st.sampled_from(ALL_SKILLS))
def test_parts_go_on_from_the_line_before(seed: int, skill: Skill) -> None:
    problem = draw(random.Random(seed), skill)
    for step, work in _by_step(problem, solve(problem, "parts")):
        if step.op != "*":
            results = [line.split("=")[1] for line in work]
            assert [re.split(r"[-+]", line)[0] for line in work] == [str(step.a), *results[:-1]]
        assert int(work[-1].split("=")[1]) == step.value


@given(seeds, st.sampled_from(ALL_SKILLS))
def test_a_question_reads_back_as_its_problem(seed: int, skill: Skill) -> None:
    rng = random.Random(seed)
    problem = draw(rng, skill)
    assert read(ask(rng, problem)) == problem
    assert skill_of(problem) == skill


def test_every_form_is_asked_and_every_skill_has_its_words() -> None:
    rng = random.Random(0)
    asked = [ask(rng, draw(rng, skill)) for skill in ALL_SKILLS for _ in range(40)]
    for form in FORMS:
        assert any(form.pattern().fullmatch(question) for question in asked), form
    assert len({skill.title for skill in ALL_SKILLS}) == len(ALL_SKILLS)


@given(seeds, st.sampled_from(ALL_SKILLS))
def test_a_chosen_method_never_shows_a_part_of_the_sealed_range(seed: int, skill: Skill) -> None:
    rng = random.Random(seed)
    problem = draw(rng, skill)
    if choose_method(rng, problem) == "parts":
        assert all(is_open(part) for step in problem.steps for part in part_steps(step))


@pytest.mark.parametrize("sign", ["x", "×", "·", "*", "times"])
def test_a_plain_question_may_use_any_sign_of_multiplication(sign: str) -> None:
    assert read(f"what's 15 {sign} 13") == Problem((Step("*", 15, 13),))


@pytest.mark.parametrize("sign", ["-", "−", "minus"])
def test_a_plain_question_may_use_any_sign_of_subtraction(sign: str) -> None:
    assert read(f"Please take 52 {sign} 9") == Problem((Step("-", 52, 9),))


@pytest.mark.parametrize("question", ["What is (31-12)*4?", "Compute 31-12, then *4."])
def test_two_steps_in_signs_are_read_though_they_are_never_asked(question: str) -> None:
    assert read(question) == Problem((Step("-", 31, 12), Step("*", 19, 4)))


@pytest.mark.parametrize(
    "question",
    [
        "Why is the sky blue?",
        "What is 10-(3+4)*2?",
        "What is 2.5+4, then +3?",
        "What is 15?",
        "Is 3+4 less than 5+6?",
        "What is 12 + 34 + 56?",
        "What is 2 * (3 + 4)?",
        "What is 100 / 5 + 3?",
        "What is 7.5 + 2?",
    ],
)
def test_what_is_not_of_this_domain_is_read_as_nothing(question: str) -> None:
    assert read(question) is None


def test_thousands_separators_belong_to_their_number() -> None:
    assert read("What is 1,195 + 5?") in (None, Problem((Step("+", 1195, 5),)))


def test_a_skill_outside_of_the_domain_has_no_name() -> None:
    assert skill_of(Problem((Step("+", 1234567, 1),))) is None

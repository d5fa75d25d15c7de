import random

import pytest

from luna.arithmetic.layouts import solve
from luna.arithmetic.problems import SKILLS, sample
from luna.arithmetic.reading import read_attempt
from luna.arithmetic.tutor import hint, judge
from luna.arithmetic.wording import ask
from luna.enhance.prompts import Verdict, hint_messages, parse_hint, parse_verdict, verdict_messages
from luna.llm.replies import UnusableReplyError
from luna.llm.tutor import REFUSAL, answer


def _cases(n):
    """Problems with an attempt that has one digit of one line changed."""
    rng = random.Random(7)
    for _ in range(n):
        problem = sample(rng, rng.choice(list(SKILLS.values())))
        lines = solve(problem, rng.choice(["columns", "bare", "parts"]))
        place = rng.randrange(len(lines))
        lines[place] = lines[place][:-1] + str((int(lines[place][-1]) + rng.randint(1, 9)) % 10)
        said = rng.choice([str(problem.answer), str(problem.answer + 1)])
        closing = rng.choice(["\n</think>\n", ""])
        yield problem, ask(rng, problem), "<think>\n" + "\n".join(lines) + closing + said


def test_the_tutor_judges_through_the_prompt_exactly_as_it_does_directly():
    for problem, question, attempt in _cases(200):
        assert parse_verdict(answer(verdict_messages(question, attempt))) == judge(problem, attempt)


def test_hints_come_through_and_get_firm_after_an_earlier_one():
    told = 0
    for problem, question, attempt in _cases(400):
        if judge(problem, attempt).correct:
            continue
        first = parse_hint(answer(hint_messages(question, attempt, [])))
        second = parse_hint(answer(hint_messages(question, attempt, [first], solution=str(problem.answer))))
        assert first == hint(problem, attempt, firm=False)
        assert second == hint(problem, attempt, firm=True)
        told += first != second
    assert told > 10  # elsewhere the first hint shows a result already, or none may be shown


def test_a_right_answer_in_another_form_is_judged_right():
    assert parse_verdict(answer(verdict_messages("15 x 13", "195"))).correct
    by_heart = "<think>\n15*13=150+45=195\n</think>\n195"
    assert parse_verdict(answer(verdict_messages("What is 15 x 13?", by_heart, reference="195"))).correct
    assert not parse_verdict(answer(verdict_messages("15 x 13", "196"))).correct


def test_the_verdict_counts_lines_as_the_attempt_is_read():
    attempt = "<think>\n\n47+38\nones 7+8+0=15\ntens 4+3+1=09\nso 95\n</think>\n95"
    verdict = parse_verdict(answer(verdict_messages("What is 47+38?", attempt)))
    assert read_attempt(attempt).lines[verdict.first_wrong_line] == "tens 4+3+1=09"


def test_the_reference_is_shown_to_the_judge_and_the_solution_to_the_teacher_alone():
    assert "4711" in verdict_messages("q", "a", reference="4711")[1]["content"]
    assert "4711" not in verdict_messages("q", "a")[1]["content"]
    assert "4711" in hint_messages("q", "a", [], solution="4711")[1]["content"]
    assert "- look there" in hint_messages("q", "a", ["look there"])[1]["content"]


def test_the_tutor_declines_a_question_it_cannot_read():
    assert answer(verdict_messages("Why is the sky blue?", "Scattering.")) == REFUSAL
    with pytest.raises(UnusableReplyError):
        parse_verdict(REFUSAL)


def test_verdicts_of_other_judges():
    assert parse_verdict('```json\n{"correct": true, "first_wrong_line": 3, "reason": ""}\n```') == Verdict(
        True, None, ""
    )
    assert parse_verdict('{"correct": false, "first_wrong_line": 3, "reason": "x"}') == Verdict(False, 2, "x")
    assert parse_verdict('{"correct": false}') == Verdict(False, None, "")
    for text in (
        '{"correct": "yes"}',
        '{"correct": false, "first_wrong_line": "two"}',
        '{"correct": false, "first_wrong_line": 0}',
    ):
        with pytest.raises(UnusableReplyError):
            parse_verdict(text)


def test_a_hint_is_one_line_and_never_empty():
    assert parse_hint('{"hint": "Look at\\n the ones. "}') == "Look at the ones."
    with pytest.raises(UnusableReplyError):
        parse_hint('{"hint": " "}')

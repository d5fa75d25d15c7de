"""No training text holds an eval question, and what only sounds like one is left in peace."""

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luna.answers import normalized
from luna.arithmetic.corpus import thinking_reply
from luna.arithmetic.layouts import solve
from luna.arithmetic.problems import SKILLS, sample
from luna.arithmetic.wording import ask
from luna.contamination import SHARE, EvalNgrams, N
from luna.enhance.students import Dialogue, Turn
from luna.eval_set.items import make_items
from luna.judge.run import Judged, judge
from luna.laws import load_laws
from luna.records import Record
from luna.settings import Evaluation

LAWS = load_laws(Path(__file__).parents[2] / "laws.yaml")
QUESTION = "Why do ships that are made of heavy steel float on the water while a small stone goes down?"
SHORT = "Who wrote the Iliad?"
ASKED = {normalized(QUESTION), normalized(SHORT)}
word = st.sampled_from(["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"])


def _objection(*texts: str, asked: set[str] = ASKED) -> str | None:
    return EvalNgrams(asked).overlap(texts).objection


# ---------------------------------------------------------------- n-grams


def test_a_question_inside_another_text_is_found_and_quoted() -> None:
    said = _objection("A riddle:\n" + QUESTION.upper().replace(",", ";") + " Think well!")
    assert said is not None
    assert "12 of 12 n-grams of an eval question" in said
    assert "'why do ships that are made of heavy'" in said
    assert _objection("Tell me: who wrote the Iliad, and when?") is not None


def test_half_of_a_question_is_enough_and_less_is_not() -> None:
    words = QUESTION.split()
    grams = len(words) - N + 1
    enough = N + -(-grams // 2) - 1
    assert SHARE == 0.5
    assert _objection(" ".join(words[:enough])) is not None
    assert _objection(" ".join(words[: enough - 1])) is None


def test_the_texts_of_one_record_count_together_but_no_run_of_words_goes_over_their_edge() -> None:
    words = QUESTION.split()
    first, last = " ".join(words[:11]), " ".join(words[-11:])
    assert _objection(first) is None
    assert _objection(first, last) is not None
    assert _objection("Who wrote", "the Iliad?") is None


def test_numbers_and_signs_tell_templated_questions_from_another() -> None:
    asked = {"tom has 34 apples and gets 25 more. how many apples?", "what is 34-25?"}
    assert _objection("Tom has 34 apples and gets 25 more. How many apples?", asked=asked) is not None
    assert _objection("Tom has 43 apples and gets 52 more. How many apples?", asked=asked) is None
    assert _objection("Tom has 34 apples and gets 26 more. How many apples?", asked=asked) is None
    assert _objection("What is 34-25?", asked=asked) is not None
    assert _objection("What is 34+25?", asked=asked) is None
    assert _objection("What is 34-2500?", asked=asked) is None


@given(st.lists(word, min_size=4, max_size=20), st.lists(word, max_size=5), st.lists(word, max_size=5))
def test_a_whole_question_is_found_wherever_it_stands(question: list[str], before: list[str], after: list[str]) -> None:
    asked = {" ".join(question)}
    assert _objection(" ".join([*before, *question, *after]), asked=asked) is not None
    assert _objection(" ".join(["other", *after[:3]]), asked=asked) is None


def test_what_is_told_does_not_depend_on_the_order_of_the_questions() -> None:
    asked = [" ".join(f"w{n}" for n in range(start, start + 10)) for start in range(40)]
    text = " ".join(f"w{n}" for n in range(50))
    told = [EvalNgrams(order).overlap([text]) for order in (asked, asked[::-1])]
    assert told[0] == told[1]


def test_too_short_a_question_or_none_marks_nothing() -> None:
    assert _objection("Is it so?", "anything", asked={"is it so?"}) is None
    assert EvalNgrams([]).overlap(["some words that are more than eight in number"]) == (0, None)


def test_every_question_of_the_embedded_set_is_found_and_no_training_problem_is() -> None:
    items = make_items(Evaluation(recall_items=400, generalize_items=400))
    ngrams = EvalNgrams({normalized(item.question) for item in items})
    assert [item.id for item in items if ngrams.overlap([item.question]).objection is None] == []
    rng, skills = random.Random(5), list(SKILLS.values())
    for number in range(600):
        problem = sample(rng, skills[number % len(skills)], "train")
        reply = thinking_reply(solve(problem), problem.answer)
        assert ngrams.overlap([ask(rng, problem), reply]).objection is None


# ---------------------------------------------------------------- in the judge stage


def _judge(question: str, answer: str = "x", *turns: Turn, **metadata: Any) -> Judged:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    record = Record.model_validate({"messages": messages, "metadata": {"thinking": "thought", **metadata}})
    dialogue = Dialogue([{"role": "user", "content": question}], [*turns, Turn("so x", True, "right", None)])
    return judge([record], [dialogue], LAWS, ASKED, arithmetic=False, unconverged="reject")


PLANTED: dict[str, dict[str, Any]] = {
    "question": {"question": f"Hello. {QUESTION}"},
    "answer": {"question": "Q?", "answer": f"You may ask: {QUESTION}"},
    "thinking": {"question": "Q?", "thinking": f"They ask {QUESTION}"},
}


@pytest.mark.parametrize("where", PLANTED)
def test_a_record_that_holds_an_eval_question_anywhere_is_rejected(where: str) -> None:
    judged = _judge(**PLANTED[where])
    [rejected] = judged.rejected
    assert rejected.metadata["rejected_because"].startswith("contaminated: 12 of 12 n-grams of an eval question")
    assert judged.metrics["contaminated"] == 1


@pytest.mark.parametrize("part", ["attempt", "hint"])
def test_earlier_attempts_and_hints_count_too(part: str) -> None:
    turn = Turn(QUESTION if part == "attempt" else "7", False, "wrong", 0, hint=QUESTION if part == "hint" else "Look.")
    assert _judge("Q?", "x", turn).metrics["contaminated"] == 1


def test_a_clean_record_passes_and_what_was_checked_is_counted() -> None:
    metrics = _judge("What do ships carry over the wide sea in the winter?", "Grain and steel.").metrics
    assert (metrics["accepted"], metrics["contaminated"]) == (1, 0)
    assert metrics["eval_ngrams"] == 12 + 1
    assert metrics["ngrams_checked"] == (11 - N + 1) + (11 - 4 + 1)

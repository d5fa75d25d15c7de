"""The tutor behind LiteLLM: what it invents keeps the promises of the domain, what it cannot do it declines."""

import json
import re

import pytest

from luna.arithmetic.problems import SEALED_SKILLS, SKILLS, holds_sealed, is_sealed, skill_of, split_of
from luna.arithmetic.tutor import judge
from luna.arithmetic.wording import read
from luna.errors import TeacherError
from luna.generate.mix import prompts_of
from luna.generate.replies import parse_conversations, parse_invention
from luna.generate.socratic import SocraticGenerator
from luna.generate.subject import load_subject
from luna.llm import tutor
from luna.llm.client import Client, Request
from luna.settings import Endpoint

ARITHMETIC, CODE = load_subject("arithmetic"), load_subject("code")
INVENTING = ("self-instruct", "curriculum", "chain-of-thought", "template")
ENDPOINT = Endpoint(model="luna-tutor/arithmetic")


def _answer(prompt, seed=0):
    return tutor.answer([{"role": "user", "content": prompt.text}], seed)


@pytest.mark.parametrize("approach", INVENTING)
def test_every_prompt_gets_a_right_problem_of_the_skill_it_names(approach):
    prompts = prompts_of(approach, ARITHMETIC, 160, seed=5)
    for prompt in prompts:
        invention = parse_invention(_answer(prompt))
        problem = read(invention.question)
        assert skill_of(problem).name == prompt.facets["skill"]
        assert judge(problem, f"<think>\n{invention.thinking}\n</think>\n{invention.answer}").correct
        assert split_of(problem) == "train"
        assert not is_sealed(problem)
        assert not holds_sealed(f"{invention.question}\n<think>\n{invention.thinking}")
    if approach == "self-instruct":
        assert {p.facets["category"] for p in prompts} == {c.name for c in ARITHMETIC.self_instruct.categories}
    if approach == "curriculum":
        assert {p.facets["area"] for p in prompts} == {a.name for a in ARITHMETIC.curriculum.areas}


@pytest.mark.parametrize(
    ("category", "holds"),
    [
        ("story", lambda q, t: "How many" in q),
        ("expression", lambda q, t: "How many" not in q),
        ("columns", lambda q, t: re.search(r"=\d\d$", t, re.MULTILINE)),
        ("parts", lambda q, t: re.search(r"^\d+0\*\d=\d+$|^\d+[-+]\d0*=\d+$", t, re.MULTILINE)),
        ("carrying", lambda q, t: re.search(r"=[1-9]\d$|\+10=|0\*", t, re.MULTILINE)),
    ],
)
def test_the_tutor_does_what_a_category_asks(category, holds):
    for prompt in prompts_of("self-instruct", ARITHMETIC, 256, seed=2):
        too_long = category == "parts" and prompt.facets["skill"][-1] in "56"  # taken apart, it would fill the reply
        if prompt.facets["category"] == category and "-" not in prompt.facets["skill"] and not too_long:
            invention = parse_invention(_answer(prompt))
            assert holds(invention.question, invention.thinking), (prompt.facets, invention)


@pytest.mark.parametrize("conversations", [1, 3])
@pytest.mark.parametrize("exchanges", [1, 2, 4, 6, 12])
def test_dialogues_have_the_asked_numbers_and_the_tutor_tells_nothing(conversations, exchanges):
    generator = SocraticGenerator(ARITHMETIC, 3, conversations=conversations, exchanges=exchanges)
    for prompt in generator.generate_dialogue_prompts(16):
        dialogues = parse_conversations(_answer(prompt), exchanges, conversations).turns
        for turns in dialogues:
            problem = read(turns[0].content)
            assert skill_of(problem).name == prompt.facets["skill"]
            assert split_of(problem) == "train"
            assert not holds_sealed("\n".join(turn.content for turn in turns))
            tutor_says = " ".join(turn.content for turn in turns if turn.role == "assistant")
            assert not re.search(r"\d", tutor_says)
            assert tutor_says.count("?") >= exchanges
            if exchanges > 1:
                assert f"so {problem.answer}" in turns[-2].content


def test_no_prompt_draws_anything_held_out_or_sealed_even_if_asked():
    for skill in SEALED_SKILLS.values():
        assert tutor.answer([{"role": "user", "content": f"Invent one problem in {skill.title}."}]) == tutor.REFUSAL
    for seed in range(300):
        text = tutor.answer([{"role": "user", "content": "Invent a problem of integer arithmetic."}], seed)
        problem = read(json.loads(text)["question"])
        assert skill_of(problem).name in SKILLS
        assert split_of(problem) == "train"
        assert not is_sealed(problem)


def test_it_declines_what_is_not_arithmetic_and_says_what_it_is():
    for approach in (*INVENTING, "socratic"):
        for prompt in prompts_of(approach, CODE, 20, seed=1):
            assert _answer(prompt) == tutor.REFUSAL
    assert "integer arithmetic only" in tutor.REFUSAL


def test_the_same_request_has_the_same_reply_and_another_seed_another():
    prompt = prompts_of("self-instruct", ARITHMETIC, 1, seed=1)[0]
    assert _answer(prompt, 1) == _answer(prompt, 1)
    assert len({_answer(prompt, seed) for seed in range(20)}) > 15


def test_through_the_client_it_needs_no_key_and_counts_words():
    client = Client(ENDPOINT)
    requests = [Request([{"role": "user", "content": "one problem in two-digit addition"}], seed) for seed in range(8)]
    replies = client.ask_all(requests)
    assert [reply.text for reply in replies] == [tutor.answer(r.messages, r.seed) for r in requests]
    assert client.usage.prompt_tokens == 8 * 5
    assert client.usage.completion_tokens > 0


def test_registration_is_idempotent():
    import litellm

    Client(ENDPOINT), Client(ENDPOINT)
    assert [entry["provider"] for entry in litellm.custom_provider_map].count(tutor.PROVIDER) == 1


def test_another_model_of_the_tutor_is_refused_in_one_line():
    with pytest.raises(TeacherError, match=r"^teacher\.model: luna-tutor/algebra: .*write luna-tutor/arithmetic$"):
        Client(Endpoint(model="luna-tutor/algebra"))

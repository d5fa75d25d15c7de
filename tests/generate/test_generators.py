"""The prompts of all approaches and their mixes."""

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luna.errors import BadSettings
from luna.generate.chain_of_thought import ChainOfThoughtGenerator
from luna.generate.curriculum import CurriculumGenerator
from luna.generate.mix import MIXES, mixed_prompts, prompts_of
from luna.generate.self_instruct import SelfInstructGenerator
from luna.generate.socratic import SocraticGenerator
from luna.generate.subject import Templates, load_subject
from luna.generate.system_prompt import generate_enhanced_system_prompt, generate_socratic_system_prompt
from luna.generate.templates import PromptGenerator
from luna.laws import Item, load_laws, violations
from luna.settings import load_preset

ROOT = Path(__file__).parents[2]
SUBJECTS = sorted({load_preset(path).subject for path in (ROOT / "presets").glob("*.yaml")})
ARITHMETIC, CODE, SOCRATIC = (load_subject(name) for name in ("arithmetic", "code", "socratic"))
APPROACHES = ("self-instruct", "curriculum", "chain-of-thought", "template", "socratic")
KINDS = ("Clarification", "Assumptions", "Evidence", "Perspective", "Implications", "Meta-questions")


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize("approach", APPROACHES)
def test_every_preset_has_prompts_that_are_whole_varied_and_repeatable(name, approach):
    subject = load_subject(name)
    prompts = prompts_of(approach, subject, 60, seed=4)
    assert len(prompts) == 60
    assert prompts == prompts_of(approach, subject, 60, seed=4) != prompts_of(approach, subject, 60, seed=5)
    for prompt in prompts:
        assert prompt.approach == approach
        assert not re.search(r"\{\w+\}", prompt.text), "a field was left open"
        assert ('[{"conversations"' if approach == "socratic" else '{"question"') in prompt.text
        assert all(prompt.facets.values())
    assert len({prompt.text for prompt in prompts}) >= 50


def test_self_instruct_spreads_its_categories_and_says_what_each_wants():
    prompts = SelfInstructGenerator(CODE, 1).generate_meta_prompts(110)
    assert set(Counter(prompt.facets["category"] for prompt in prompts).values()) == {10}
    debugging = next(prompt for prompt in prompts if prompt.facets["category"] == "debugging")
    for words in ("subtle", "symptoms", "step by step", "prevent", "edge cases", debugging.facets["context"]):
        assert words in debugging.text


@pytest.mark.parametrize(
    ("category", "slot"),
    [
        ("domain-specific", "field"),
        ("debugging", "defect"),
        ("refactoring", "mess"),
        ("system-design", "tension"),
        ("performance", "burden"),
    ],
)
def test_a_category_with_matter_of_its_own_names_it_in_its_prompts_alone(category, slot):
    prompts = SelfInstructGenerator(CODE, 1).generate_meta_prompts(220)
    own = [prompt for prompt in prompts if prompt.facets["category"] == category]
    assert all(prompt.facets[slot] in prompt.text for prompt in own)
    assert len({prompt.facets[slot] for prompt in own}) >= 6
    assert not any(slot in prompt.facets for prompt in prompts if prompt not in own)


def test_focus_asks_for_weak_categories_and_areas_more_often():
    focus = {"debugging": 3.0, "concurrency-patterns": 2.0}
    tasks = Counter(p.facets["category"] for p in prompts_of("self-instruct", CODE, 130, 1, focus=focus))
    assert (tasks["debugging"], tasks["testing"], len(tasks)) == (30, 10, 11)
    for approach in ("curriculum", "chain-of-thought"):
        areas = Counter(p.facets["area"] for p in prompts_of(approach, CODE, 70, 1, focus=focus))
        assert (areas["concurrency-patterns"], areas["core-algorithms"]) == (20, 10)
    with pytest.raises(BadSettings, match=r"generate\.focus: code has no 'debuging'; choose from open-"):
        mixed_prompts("balanced", CODE, 10, 1, focus={"debuging": 2.0})


def test_the_package_itself_offers_the_generators_and_needs_no_subject_for_code():
    import luna.generate as offered

    assert len(offered.SelfInstructGenerator().generate_meta_prompts(3)) == 3
    assert len(offered.CurriculumGenerator().generate_curriculum_prompts(3)) == 3
    assert len(offered.ChainOfThoughtGenerator().generate_reasoning_prompts(3)) == 3
    assert len(offered.PromptGenerator().sample(3)) == 3
    assert len(offered.SocraticGenerator().generate_dialogue_prompts(3)) == 3
    assert offered.generate_enhanced_system_prompt() == generate_enhanced_system_prompt(CODE)


def test_curriculum_covers_all_areas_and_concepts():
    prompts = CurriculumGenerator(CODE, 1).generate_curriculum_prompts(120)
    assert set(Counter(prompt.facets["area"] for prompt in prompts).values()) == {20}
    assert {p.facets["concept"] for p in prompts} == {c for area in CODE.curriculum.areas for c in area.concepts}
    assert all(prompt.facets["concept"] in prompt.text for prompt in prompts)


def test_chain_of_thought_numbers_its_seven_steps():
    for prompt in ChainOfThoughtGenerator(CODE, 1).generate_reasoning_prompts(5):
        assert "\n1. Restate" in prompt.text
        assert "\n7. Edge cases" in prompt.text


def test_skills_follow_their_weights_exactly():
    weights = {"add2": 3.0, "mul-mul": 1.0}
    for approach in ("self-instruct", "curriculum", "chain-of-thought", "template", "socratic"):
        prompts = prompts_of(approach, ARITHMETIC, 40, 1, weights)
        assert Counter(prompt.facets["skill"] for prompt in prompts) == {"add2": 30, "mul-mul": 10}
        assert all(ARITHMETIC.skills[prompt.facets["skill"]] in prompt.text for prompt in prompts)
    with pytest.raises(BadSettings, match="no skill 'algebra'"):
        prompts_of("curriculum", ARITHMETIC, 4, 1, {"algebra": 1.0})


def test_your_own_templates_and_ready_prompts_have_their_shares():
    own = Templates(
        templates=["Write a {language} function to {task}."],
        slots={"task": ["sort mail", "count birds"]},
        prompts=["Explain {this} brace."],
        prompts_share=0.25,
    )
    prompts = PromptGenerator(CODE, 1, templates=own).sample(40)
    ready = [prompt for prompt in prompts if prompt.facets["template"] == "ready"]
    assert len(ready) == 10
    assert all(prompt.text.startswith("Explain {this} brace.") for prompt in ready)
    filled = [prompt for prompt in prompts if prompt.facets["template"] != "ready"]
    assert Counter(prompt.facets["task"] for prompt in filled).keys() == {"sort mail", "count birds"}
    assert all(f"Write a {p.facets['language']} function to {p.facets['task']}." in p.text for p in filled)


def test_the_socratic_prompt_states_numbers_topic_kinds_and_arc():
    generator = SocraticGenerator(CODE, 1, conversations=7, exchanges=5, topic="recursion")
    text = generator.generate_dialogue_prompts(1)[0].text
    for words in (
        "exactly 7 conversations",
        "exactly 5 exchanges",
        "Topic: recursion",
        "arc of a conversation",
        "JSON array",
    ):
        assert words in text
    assert all(kind in text for kind in KINDS)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 120), st.sampled_from(list(MIXES)), st.integers(0, 3))
def test_named_mixes_are_exact(n, name, seed):
    counts = Counter(prompt.approach for prompt in mixed_prompts(name, ARITHMETIC, n, seed))
    assert counts.total() == n
    for approach, share in MIXES[name].items():
        assert abs(counts[approach] - share * n) < 1


def test_the_named_mixes_are_those_asked_for():
    balanced = Counter(prompt.approach for prompt in mixed_prompts("balanced", CODE, 100, 0))
    assert balanced == {"self-instruct": 40, "curriculum": 30, "template": 20, "chain-of-thought": 10}
    first = Counter(prompt.approach for prompt in mixed_prompts("self-instruct-first", CODE, 100, 0))
    assert first == {"self-instruct": 60, "curriculum": 25, "chain-of-thought": 15}


def test_a_mix_is_shuffled_and_shares_of_your_own_work():
    prompts = mixed_prompts({"socratic": 0.5, "template": 0.5}, CODE, 40, 0)
    order = [prompt.approach for prompt in prompts]
    assert Counter(order) == {"socratic": 20, "template": 20}
    assert order != sorted(order)
    assert order != sorted(order, reverse=True)


def test_system_prompts():
    text = generate_enhanced_system_prompt(CODE)
    assert CODE.system.role.strip() in text
    assert "1. Restate" in text
    assert len(generate_enhanced_system_prompt(ARITHMETIC)) < 200
    assert "never give the answer" in generate_socratic_system_prompt(ARITHMETIC)


def test_the_tutor_takes_any_topic():
    for topic in ("general", "mathematics"):
        prompt = SocraticGenerator(SOCRATIC, 1, topic=topic).generate_dialogue_prompts(1)[0]
        assert f"Topic: {topic}\n" in prompt.text
    drawn = SocraticGenerator(SOCRATIC, 1).generate_dialogue_prompts(80)
    assert Counter(prompt.facets["area"] for prompt in drawn) == {area.title: 10 for area in SOCRATIC.curriculum.areas}


def test_single_turns_of_the_tutor_spread_the_six_kinds_of_question():
    for approach in ("self-instruct", "curriculum"):
        prompts = prompts_of(approach, SOCRATIC, 60, 1)
        kinds = Counter(prompt.facets["kind"].partition(":")[0] for prompt in prompts)
        assert kinds == {kind.lower(): 10 for kind in KINDS}
        assert all(prompt.facets["kind"] in prompt.text for prompt in prompts)


def test_no_prompt_for_a_single_turn_of_the_tutor_asks_for_the_solution():
    for prompt in mixed_prompts("balanced", SOCRATIC, 60, 0):
        assert "holds neither the solution" in prompt.text
        assert "want to be led to it by a question" in prompt.text


@pytest.mark.parametrize("name", SUBJECTS)
def test_system_prompts_keep_the_laws_of_training_texts(name):
    subject, laws = load_subject(name), load_laws(ROOT / "laws.yaml")
    for write in (generate_enhanced_system_prompt, generate_socratic_system_prompt):
        assert not violations(laws, "data", [Item(write(subject), write.__name__)])


def test_arithmetic_prompts_are_short():
    prompts = mixed_prompts("balanced", ARITHMETIC, 200, 0)
    assert sum(len(prompt.text) for prompt in prompts) / 200 < 700

"""Mixing approaches by ratio: exact in count, seeded, shuffled."""

import random
from collections.abc import Mapping

from luna.generate.chain_of_thought import ChainOfThoughtGenerator
from luna.generate.curriculum import CurriculumGenerator
from luna.generate.draw import apportion
from luna.generate.prompt import TeacherPrompt
from luna.generate.self_instruct import SelfInstructGenerator
from luna.generate.socratic import SocraticGenerator
from luna.generate.subject import Subject, Templates
from luna.generate.templates import PromptGenerator
from luna.settings import Approach

MIXES: dict[str, dict[Approach, float]] = {
    "balanced": {"self-instruct": 0.4, "curriculum": 0.3, "template": 0.2, "chain-of-thought": 0.1},
    "self-instruct-first": {"self-instruct": 0.6, "curriculum": 0.25, "chain-of-thought": 0.15},
}


def shares_of(mix: str | Mapping[Approach, float]) -> Mapping[Approach, float]:
    """The shares of a named mix; shares of your own stay as they are."""
    return MIXES[mix] if isinstance(mix, str) else mix


def prompts_of(
    approach: Approach,
    subject: Subject,
    n: int,
    seed: int,
    skill_weights: Mapping[str, float] | None = None,
    templates: Templates | None = None,
    focus: Mapping[str, float] | None = None,
) -> list[TeacherPrompt]:
    """`n` prompts of one approach.

    Raises:
        BadSettings: a skill, a category or an area is unknown to the subject.
    """
    subject.check_focus(focus or {})
    match approach:
        case "self-instruct":
            return SelfInstructGenerator(subject, seed, skill_weights, focus).generate_meta_prompts(n)
        case "curriculum":
            return CurriculumGenerator(subject, seed, skill_weights, focus).generate_curriculum_prompts(n)
        case "chain-of-thought":
            return ChainOfThoughtGenerator(subject, seed, skill_weights, focus).generate_reasoning_prompts(n)
        case "template":
            return PromptGenerator(subject, seed, skill_weights, templates).sample(n)
        case "socratic":
            return SocraticGenerator(subject, seed, skill_weights, focus=focus).generate_dialogue_prompts(n)


def mixed_prompts(
    mix: str | Mapping[Approach, float],
    subject: Subject,
    n: int,
    seed: int,
    skill_weights: Mapping[str, float] | None = None,
    templates: Templates | None = None,
    focus: Mapping[str, float] | None = None,
) -> list[TeacherPrompt]:
    """`n` prompts in random order; each approach has its share of them, by largest remainder.

    Args:
        mix: a name of `MIXES` or shares by approach.
        templates: your own templates, instead of the subject's.
        focus: categories and areas by name, and how many times as often as the others each is asked for.
    """
    counts = apportion({str(approach): share for approach, share in shares_of(mix).items()}, n)
    prompts = [
        prompt
        for approach in shares_of(mix)
        for prompt in prompts_of(approach, subject, counts[approach], seed, skill_weights, templates, focus)
    ]
    random.Random(f"mix {seed}").shuffle(prompts)
    return prompts

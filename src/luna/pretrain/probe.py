"""Probes: how much a model gets right on questions it never trains on and is never evaluated on."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from luna.arithmetic.problems import SKILLS, sample
from luna.arithmetic.tutor import judge
from luna.arithmetic.wording import ask
from luna.lm.chat import prompt_ids
from luna.lm.sample import Decoding, sample_replies

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Probe:
    """Share of right replies: over all questions, and by skill."""

    accuracy: float
    by_skill: dict[str, float]


def probe(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    decoding: Decoding,
    *,
    questions: int,
    seed: int,
) -> Probe:
    """Ask `questions` of every skill, from the probe split, and judge the replies exactly."""
    rng = random.Random(seed)
    problems = [sample(rng, skill, "probe") for skill in SKILLS.values() for _ in range(questions)]
    prompts = [prompt_ids(tokenizer, [{"role": "user", "content": ask(rng, problem)}]) for problem in problems]
    replies = sample_replies(model, tokenizer, prompts, decoding, seed)
    right = [judge(problem, reply).correct for problem, reply in zip(problems, replies, strict=True)]
    by_skill = {name: _mean(right[i * questions : (i + 1) * questions]) for i, name in enumerate(SKILLS)}
    return Probe(_mean(right), by_skill)


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values)

"""Weights of skills: what lies within the parent's reach, and no more of it than a share that it can do already.

Skills have levels, and what is far beyond a parent is no lesson for it yet: it is asked up to the level after the
highest one of which it can do something. So every generation masters the next one.

Of these skills, what the parent can do teaches little, so a strong parent is asked more of what it cannot. A weak one
is asked all alike. The weights are exp(lambda * accuracy), with lambda <= 0 found by bisection so that the expected
accuracy under the weights is the target: the least biased weights (of maximal entropy) with that expectation.
"""

import math
from pathlib import Path
from typing import Any

from luna.arithmetic.problems import LEVELS, SKILLS
from luna.lm.load import load_model
from luna.lm.sample import Decoding
from luna.outputs import read_json
from luna.pretrain.probe import probe
from luna.progress import say
from luna.settings import Settings

QUESTIONS = 20  # of each skill
STEEPEST = 8.0  # bound of lambda: no skill is wiped out


def find_frontier(settings: Settings, root: Path) -> dict[str, Any]:
    """Probe the parent and weigh the skills; with neither a target nor a reach all skills weigh the same."""
    target, reach = settings.params.generate.frontier, settings.params.generate.reach
    if (target is None and reach is None) or settings.preset.subject != "arithmetic":
        return {"accuracy": None, "weights": None}
    parent = read_json(root / "models" / "teachers" / "teachers.json")["parent"]["path"]
    loaded = load_model(parent, settings.preset.model, trainable=False)
    student = settings.preset.student
    decoding = Decoding(student.temperature, student.max_new_tokens, student.batch_size)
    found = probe(loaded.model, loaded.tokenizer, decoding, questions=QUESTIONS, seed=settings.params.seed)
    last = last_level(found.by_skill, reach)
    asked = {name: share for name, share in found.by_skill.items() if SKILLS[name].level <= last}
    accuracies = {name: smoothed(share, QUESTIONS) for name, share in asked.items()}
    weights = weigh(accuracies, 1.0 if target is None else target)
    say(f"frontier  the parent answers {found.accuracy:.3f} of the probe questions; level {last} is the last one asked")
    return {"accuracy": found.accuracy, "by_skill": found.by_skill, "last_level": last, "weights": weights}


def last_level(by_skill: dict[str, float], reach: float | None) -> int:
    """The level after the highest one of which at least the share `reach` is answered right; without it the last."""
    if reach is None:
        return LEVELS
    reached = [level for level in range(1, LEVELS + 1) if _of_level(by_skill, level) >= reach]
    return min(max(reached, default=0) + 1, LEVELS)


def _of_level(by_skill: dict[str, float], level: int) -> float:
    shares = [share for name, share in by_skill.items() if SKILLS[name].level == level]
    return round(sum(shares) / len(shares), 9)  # six times 0.2 are 0.2 on average


def smoothed(share: float, questions: int) -> float:
    """The rule of succession: a share of few questions, drawn a little toward one half."""
    return (share * questions + 1) / (questions + 2)


def weigh(accuracies: dict[str, float], target: float) -> dict[str, float]:
    """Weights that add up to 1 and lower the expected accuracy to `target`, as far as STEEPEST allows."""
    low, high = -STEEPEST, 0.0
    for _ in range(50):
        middle = (low + high) / 2
        if _expected(accuracies, middle) < target:
            low = middle
        else:
            high = middle
    return _weights(accuracies, (low + high) / 2)


def _weights(accuracies: dict[str, float], steepness: float) -> dict[str, float]:
    raw = {name: math.exp(steepness * accuracy) for name, accuracy in accuracies.items()}
    total = sum(raw.values())
    return {name: value / total for name, value in raw.items()}


def _expected(accuracies: dict[str, float], steepness: float) -> float:
    weights = _weights(accuracies, steepness)
    return sum(weights[name] * accuracies[name] for name in accuracies)

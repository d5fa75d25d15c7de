"""Chain of thought: the teacher shows its whole reasoning, step by step, around a concept of the curriculum."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from luna.generate.prompt import TeacherPrompt, draw_concepts, draw_fields, numbered, write
from luna.generate.subject import Subject, default_subject


@dataclass(frozen=True)
class ChainOfThoughtGenerator:
    """Prompts that ask for the reasoning steps of a subject. The same seed gives the same prompts.

    `focus` says how many times as often as the others an area is asked for, by its name.
    """

    subject: Subject = field(default_factory=default_subject)
    seed: int = 0
    skill_weights: Mapping[str, float] | None = None
    focus: Mapping[str, float] | None = None

    def generate_reasoning_prompts(self, n: int) -> list[TeacherPrompt]:
        """`n` prompts, areas spread evenly but for `focus`, and the concepts of each area evenly."""
        rng = random.Random(f"chain-of-thought {self.seed}")
        part = self.subject.chain_of_thought
        fields = draw_fields(rng, self.subject, self.skill_weights, n)
        concepts = draw_concepts(rng, self.subject.curriculum.areas, n, self.focus)
        steps = numbered(part.steps)
        return [
            write(
                self.subject,
                "chain-of-thought",
                part.frame,
                {"area": area.name, "concept": concept},
                {"area": area.title, "concept": concept, "steps": steps},
                drawn,
            )
            for (area, concept), drawn in zip(concepts, fields, strict=True)
        ]

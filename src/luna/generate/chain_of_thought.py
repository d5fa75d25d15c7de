"""Chain of thought: the teacher shows its whole reasoning, step by step, around a concept of the curriculum."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from luna.generate.prompt import TeacherPrompt, draw_concepts, draw_fields, numbered, write
from luna.generate.subject import Subject


@dataclass(frozen=True)
class ChainOfThoughtGenerator:
    """Prompts that ask for the reasoning steps of a subject. The same seed gives the same prompts."""

    subject: Subject
    seed: int = 0
    skill_weights: Mapping[str, float] | None = None

    def generate_reasoning_prompts(self, n: int) -> list[TeacherPrompt]:
        """`n` prompts, areas and their concepts spread evenly."""
        rng = random.Random(f"chain-of-thought {self.seed}")
        part = self.subject.chain_of_thought
        fields = draw_fields(rng, self.subject, self.skill_weights, n)
        concepts = draw_concepts(rng, self.subject.curriculum.areas, n)
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

"""Curriculum: each prompt has one learning objective, a concept to be taught through a practical example."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from luna.generate.prompt import TeacherPrompt, draw_concepts, draw_fields, write
from luna.generate.subject import Subject, default_subject


@dataclass(frozen=True)
class CurriculumGenerator:
    """Prompts over the areas and concepts of a subject. The same seed gives the same prompts.

    `focus` says how many times as often as the others an area is asked for, by its name.
    """

    subject: Subject = field(default_factory=default_subject)
    seed: int = 0
    skill_weights: Mapping[str, float] | None = None
    focus: Mapping[str, float] | None = None

    def generate_curriculum_prompts(self, n: int) -> list[TeacherPrompt]:
        """`n` prompts, areas spread evenly but for `focus`, and the concepts of each area evenly."""
        rng = random.Random(f"curriculum {self.seed}")
        part = self.subject.curriculum
        fields = draw_fields(rng, self.subject, self.skill_weights, n)
        concepts = draw_concepts(rng, part.areas, n, self.focus)
        return [
            write(
                self.subject,
                "curriculum",
                part.frame,
                {"area": area.name, "concept": concept},
                {"area": area.title, "concept": concept},
                drawn,
            )
            for (area, concept), drawn in zip(concepts, fields, strict=True)
        ]

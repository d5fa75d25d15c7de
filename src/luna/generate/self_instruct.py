"""Self-instruct: the teacher invents a new task of a given kind and solves it in full."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from luna.generate.draw import evenly
from luna.generate.prompt import TeacherPrompt, bullets, draw_fields, write
from luna.generate.subject import Subject, default_subject


@dataclass(frozen=True)
class SelfInstructGenerator:
    """Meta-prompts over the categories of a subject. The same seed gives the same prompts.

    `focus` says how many times as often as the others a category is asked for, by its name.
    """

    subject: Subject = field(default_factory=default_subject)
    seed: int = 0
    skill_weights: Mapping[str, float] | None = None
    focus: Mapping[str, float] | None = None

    def generate_meta_prompts(self, n: int) -> list[TeacherPrompt]:
        """`n` prompts, the categories spread evenly but for `focus`."""
        rng = random.Random(f"self-instruct {self.seed}")
        categories = {category.name: category for category in self.subject.self_instruct.categories}
        names = evenly(rng, list(categories), n, self.focus)
        fields = draw_fields(rng, self.subject, self.skill_weights, n)
        return [self._write(name, drawn) for name, drawn in zip(names, fields, strict=True)]

    def _write(self, name: str, drawn: dict[str, str]) -> TeacherPrompt:
        part = self.subject.self_instruct
        category = next(category for category in part.categories if category.name == name)
        words = {
            "category": category.title,
            "instruction": category.instruction.strip(),
            "demands": bullets(category.demands),
        }
        return write(self.subject, "self-instruct", part.frame, {"category": name}, words, drawn)

"""Templates: "write a {language} function to {task}". The baseline, and the door for prompts you already have."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from luna.generate.draw import apportion, evenly
from luna.generate.prompt import TeacherPrompt, draw_fields, write
from luna.generate.subject import Subject, Templates, default_subject


@dataclass(frozen=True)
class PromptGenerator:
    """Fills templates; None takes those of the subject. The same seed gives the same prompts."""

    subject: Subject = field(default_factory=default_subject)
    seed: int = 0
    skill_weights: Mapping[str, float] | None = None
    templates: Templates | None = None

    def sample(self, n: int) -> list[TeacherPrompt]:
        """`n` prompts: your ready ones by their share, the rest from templates, spread evenly and shuffled."""
        rng = random.Random(f"template {self.seed}")
        source = self.templates or self.subject.templates
        shares = {"templates": 1.0 - source.prompts_share, "prompts": source.prompts_share}
        if not source.prompts or not source.templates:
            shares = {"templates": float(bool(source.templates)), "prompts": float(bool(source.prompts))}
        counts = apportion(shares, n)
        chosen = [(text, "ready") for text in evenly(rng, source.prompts, counts["prompts"])] if source.prompts else []
        if source.templates:
            chosen += [(text, text) for text in evenly(rng, source.templates, counts["templates"])]
        rng.shuffle(chosen)
        columns = {name: evenly(rng, values, n) for name, values in source.slots.items()}
        fields = draw_fields(rng, self.subject, self.skill_weights, n)
        return [
            self._write(text, kind, {name: values[i] for name, values in columns.items()}, fields[i])
            for i, (text, kind) in enumerate(chosen)
        ]

    def _write(self, text: str, kind: str, slots: dict[str, str], drawn: dict[str, str]) -> TeacherPrompt:
        fields = {} if kind == "ready" else {**drawn, **slots}  # braces of a ready prompt are its own
        return write(
            self.subject, "template", self.subject.template_frame, {"template": kind}, {"prompt": text}, fields
        )

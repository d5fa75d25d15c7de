"""Socratic dialogues: a tutor who asks, a learner who finds the answer."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from luna.generate.draw import evenly
from luna.generate.prompt import TeacherPrompt, draw_concepts, draw_fields
from luna.generate.subject import Subject, default_subject, fields_of, fill

_PROMPT = """\
Write exactly {conversations} between a learner and a Socratic tutor, each of exactly {exchanges}. \
One exchange is one turn of the learner followed by one turn of the tutor.
Topic: {topic}
The learner: {learner}

How the tutor teaches
- It probes instead of answering: no turn states the solution or a part of it that the learner has not found.
- It challenges assumptions gently and never shames a mistake; a wrong turn is met with a question that exposes it.
- It guides discovery, one small step at a time, and breaks a big problem down into parts the learner can manage.
- It asks why and how far more often than what, and every turn ends with a question.
- It uses an analogy where one carries the idea, and lets the learner find where the analogy stops.
- It names what was good in the learner's reasoning, concretely, and then pushes it one step further.

The six kinds of question; use as many of them as the length allows, never the same twice in a row
1. Clarification: what do you mean, what exactly is asked, can you give an example?
2. Assumptions: what are you taking for granted, and would it still hold if that changed?
3. Evidence: how do you know, what would convince somebody who doubts it?
4. Perspective: how else could one see it, what would someone object?
5. Implications: what follows from that, what would happen in the extreme case?
6. Meta-questions: why does this question matter, how did you come to think of that, what did you learn about learning?

The arc of a conversation
It begins with the learner's own problem, told as people tell it: incomplete, sometimes mistaken. The tutor makes the
problem clear, then what the learner takes for granted, then lets the learner test it. The learner tries, errs, mends.
In the end the learner, not the tutor, says the conclusion or the next steps in their own words, and the tutor has them
look back on the way. Vary the difficulty, the mood and the length of turns from conversation to conversation; let no
two begin alike.

Reply with a JSON array and nothing else, one element for each conversation:
[{"conversations": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}, ...]}, ...]"""


@dataclass(frozen=True)
class SocraticGenerator:
    """Prompts for dialogues. The same seed gives the same prompts.

    `conversations` and `exchanges` are the numbers each prompt asks for; `topic` None draws topics of the subject, from
    its areas, of which `focus` can ask for some more often.
    """

    subject: Subject = field(default_factory=default_subject)
    seed: int = 0
    skill_weights: Mapping[str, float] | None = None
    conversations: int = 1
    exchanges: int = 4
    topic: str | None = None
    focus: Mapping[str, float] | None = None

    def generate_dialogue_prompts(self, n: int) -> list[TeacherPrompt]:
        """`n` prompts, topics and kinds of learner spread evenly."""
        rng = random.Random(f"socratic {self.seed}")
        learners = evenly(rng, self.subject.socratic.learners, n)
        concepts = draw_concepts(rng, self.subject.curriculum.areas, n, self.focus)
        fields = draw_fields(rng, self.subject, self.skill_weights, n)
        return [
            self._write(learner, {"area": area.title, "concept": concept, **drawn})
            for learner, (area, concept), drawn in zip(learners, concepts, fields, strict=True)
        ]

    def _write(self, learner: str, drawn: dict[str, str]) -> TeacherPrompt:
        spoken = dict(drawn)
        if "skill" in drawn:
            spoken["skill"] = self.subject.skills[drawn["skill"]]
        frame = self.topic or self.subject.socratic.topic
        words = {
            "conversations": _count(self.conversations, "conversation"),
            "exchanges": _count(self.exchanges, "exchange"),
            "topic": fill(frame, spoken),
            "learner": learner,
        }
        facets = {name: value for name, value in drawn.items() if name in fields_of(frame)}
        return TeacherPrompt("socratic", fill(_PROMPT, words), {"topic": words["topic"], "learner": learner, **facets})


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")

"""What one prompt is, and the drawing that all approaches share."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from luna.errors import BadSettings
from luna.generate.draw import evenly, spread
from luna.generate.subject import Area, Subject, fields_of, fill
from luna.settings import Approach


@dataclass(frozen=True)
class TeacherPrompt:
    """A prompt to the teacher. `facets` says what it asks for: category, area, concept, skill, context, ..."""

    approach: Approach
    text: str
    facets: dict[str, str] = field(default_factory=dict)


def reply_format(subject: Subject) -> str:
    """The closing words of a prompt: one JSON object, and what its fields hold."""
    reply = subject.reply
    return (
        'Reply with one JSON object and nothing else: {"question": ..., "thinking": ..., "answer": ...}\n'
        f"question: {reply.question}\nthinking: {reply.thinking}\nanswer: {reply.answer}"
    )


def draw_fields(
    rng: random.Random, subject: Subject, skill_weights: Mapping[str, float] | None, n: int
) -> list[dict[str, str]]:
    """For each of `n` prompts a value of every slot of the subject, and the skill it is about.

    Slots are spread evenly, skills exactly by weight (None: all alike).

    Raises:
        BadSettings: a weight names no skill of the subject.
    """
    columns = {name: evenly(rng, values, n) for name, values in subject.slots.items()}
    if subject.skills:
        columns["skill"] = spread(rng, _known_weights(subject, skill_weights), n)
    return [{name: values[i] for name, values in columns.items()} for i in range(n)]


def _known_weights(subject: Subject, skill_weights: Mapping[str, float] | None) -> Mapping[str, float]:
    if skill_weights is None:
        return dict.fromkeys(subject.skills, 1.0)
    unknown = sorted(set(skill_weights) - set(subject.skills))
    if unknown:
        known = ", ".join(subject.skills) or "none"
        raise BadSettings(f"skill weights: {subject.name} has no skill {unknown[0]!r}; its skills: {known}")
    return skill_weights


def draw_concepts(
    rng: random.Random, areas: Sequence[Area], n: int, focus: Mapping[str, float] | None = None
) -> list[tuple[Area, str]]:
    """`n` concepts, areas spread evenly but for those that `focus` names, and the concepts of each area evenly."""
    by_name = {area.name: area for area in areas}
    names = evenly(rng, list(by_name), n, focus)
    waiting = {name: evenly(rng, area.concepts, names.count(name)) for name, area in by_name.items()}
    return [(by_name[name], waiting[name].pop()) for name in names]


def write(
    subject: Subject,
    approach: Approach,
    frame: str,
    facets: Mapping[str, str],
    words: Mapping[str, str],
    drawn: Mapping[str, str],
) -> TeacherPrompt:
    """A finished prompt.

    Args:
        facets: what the approach itself says about the prompt.
        words: the fields that the approach brings; they may themselves hold fields that were drawn.
        drawn: what was drawn for this prompt, skills by name; added to the facets as far as the text uses it.
    """
    spoken = dict(drawn)
    if "skill" in drawn:
        spoken["skill"] = subject.skills[drawn["skill"]]
    used = fields_of(frame).union(*map(fields_of, words.values()))
    text = fill(fill(frame, words), spoken)
    told = {name: value for name, value in drawn.items() if name in used}
    return TeacherPrompt(approach, f"{text}\n\n{reply_format(subject)}", {**facets, **told})


def bullets(lines: Sequence[str]) -> str:
    """A list, a line each."""
    return "\n".join(f"- {line}" for line in lines)


def numbered(lines: Sequence[str]) -> str:
    """A numbered list, a line each."""
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, start=1))

"""Subjects: what there is to teach, as data. `arithmetic`, `code` and `socratic` come with Luna.

A subject holds a frame of words for each approach. Names in braces are filled per prompt: those of its own `slots`,
`{skill}` if it has skills, and what the approach brings (`APPROACH_FIELDS`).
"""

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from luna.errors import BadSettings

FileT = TypeVar("FileT", bound=BaseModel)
Words = Annotated[list[str], Field(min_length=1)]
_FIELD = re.compile(r"\{(\w+)\}")

APPROACH_FIELDS = {
    "self_instruct": {"category", "instruction", "demands"},
    "curriculum": {"area", "concept"},
    "chain_of_thought": {"area", "concept", "steps"},
    "template": {"prompt"},
    "socratic": {"area", "concept"},
}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Category(_Part):
    """One kind of self-instruct task: what to invent, and what its solution must hold."""

    name: str
    title: str
    instruction: str
    demands: list[str] = []


class SelfInstruct(_Part):
    frame: str
    categories: Annotated[list[Category], Field(min_length=1)]


class Area(_Part):
    """A field of the curriculum and its concepts."""

    name: str
    title: str
    concepts: Words


class Curriculum(_Part):
    frame: str
    areas: Annotated[list[Area], Field(min_length=1)]


class ChainOfThought(_Part):
    frame: str
    steps: Words


class Templates(_Part):
    """Templates with slots, and ready prompts that take `prompts_share` of the whole."""

    templates: list[str] = []
    slots: dict[str, Words] = {}
    prompts: list[str] = []
    prompts_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5

    @model_validator(mode="after")
    def _something_to_draw(self) -> "Templates":
        if not self.templates and not self.prompts:
            raise ValueError("holds neither templates nor prompts; add one")
        return self


class Socratic(_Part):
    """`topic` is the frame of a dialogue's topic, `persona` the tutor in the system prompt of dialogues."""

    topic: str
    learners: Words
    persona: str


class SystemPrompt(_Part):
    """The parts of the system prompt that all examples share."""

    role: str
    principles: list[str] = []
    method: list[str] = []
    style: list[str] = []


class ReplyFields(_Part):
    """What the three fields of a reply shall hold."""

    question: str
    thinking: str
    answer: str


class Subject(_Part):
    """Everything `generate` needs to know of a field of knowledge. `skills` maps names to the words of prompts."""

    name: str
    title: str
    question_type: str
    skills: dict[str, str] = {}
    slots: dict[str, Words] = {}
    near_duplicates: bool = True  # drop questions that are almost the same; False where a number makes the difference
    reply: ReplyFields
    system: SystemPrompt
    self_instruct: SelfInstruct
    curriculum: Curriculum
    chain_of_thought: ChainOfThought
    template_frame: str = "{prompt}"
    templates: Templates
    socratic: Socratic

    @model_validator(mode="after")
    def _fields_are_known(self) -> "Subject":
        for approach, frame in self._frames().items():
            known = APPROACH_FIELDS[approach] | (set() if approach == "template" else self.known_fields)
            unknown = sorted(fields_of(frame) - known)
            if unknown:
                raise ValueError(f"{approach}: nothing fills {{{unknown[0]}}}; known: {', '.join(sorted(known))}")
        check_slots(self.templates, self.known_fields)
        return self

    def _frames(self) -> dict[str, str]:
        return {
            "self_instruct": " ".join([self.self_instruct.frame, *self._asked_by_categories()]),
            "curriculum": self.curriculum.frame,
            "chain_of_thought": self.chain_of_thought.frame,
            "template": self.template_frame,
            "socratic": self.socratic.topic,
        }

    def _asked_by_categories(self) -> list[str]:
        return [
            text for category in self.self_instruct.categories for text in (category.instruction, *category.demands)
        ]

    def check_focus(self, focus: Mapping[str, float]) -> None:
        """Raise BadSettings if `focus` names neither a category nor an area."""
        known = [category.name for category in self.self_instruct.categories]
        known += [area.name for area in self.curriculum.areas]
        unknown = sorted(set(focus) - set(known))
        if unknown:
            names = ", ".join(dict.fromkeys(known))
            raise BadSettings(f"generate.focus: {self.name} has no {unknown[0]!r}; choose from {names}")

    @property
    def known_fields(self) -> set[str]:
        """The fields that every frame of this subject may use."""
        return set(self.slots) | ({"skill"} if self.skills else set())


def fields_of(text: str) -> set[str]:
    """The names in braces of a text."""
    return set(_FIELD.findall(text))


def fill(text: str, fields: Mapping[str, str]) -> str:
    """A text with its fields filled in; braces that name no field stay."""
    return _FIELD.sub(lambda found: fields.get(found[1], found[0]), text).strip()


def load_subject(name: str) -> Subject:
    """A subject that comes with Luna, or one from your own file (a path that ends with .yaml).

    Raises:
        BadSettings: there is none of that name, or the file is not as it should be.
    """
    if name.endswith((".yaml", ".yml")):
        return _load(Path(name), Subject)
    folder = resources.files("luna.generate") / "subjects"
    known = sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))
    if name not in known:
        raise BadSettings(f"subject: there is no {name!r}; choose one of {', '.join(known)} or give a .yaml file")
    with resources.as_file(folder / f"{name}.yaml") as path:
        return _load(path, Subject)


def default_subject() -> Subject:
    """The subject of generators that are not told one: software development."""
    return load_subject("code")


def load_templates(path: Path, subject: Subject) -> Templates:
    """Your own file of templates.

    Raises:
        BadSettings: the file is not as it should be, or a template names a slot that nothing fills.
    """
    templates = _load(path, Templates)
    try:
        check_slots(templates, subject.known_fields)
    except ValueError as error:
        raise BadSettings(f"{path}: {error}") from error
    return templates


def check_slots(templates: Templates, known: set[str]) -> None:
    """Raise ValueError if a template names a slot that neither its file nor `known` fills."""
    for index, template in enumerate(templates.templates):
        unknown = sorted(fields_of(template) - set(templates.slots) - known)
        if unknown:
            raise ValueError(f"templates.{index}: nothing fills {{{unknown[0]}}}; add slots.{unknown[0]}")


def _load(path: Path, kind: type[FileT]) -> FileT:
    if not path.is_file():
        raise BadSettings(f"{path}: no such file; give the path of a YAML file")
    try:
        return kind.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        problem = str(error).replace("\n", " ")
        raise BadSettings(f"{path}: is no YAML: {problem}; mend that line") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise BadSettings(f"{path}: {key + ': ' if key else ''}{message.lower()}; mend the value") from error

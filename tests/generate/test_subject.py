from pathlib import Path

import pytest
import yaml

from luna.arithmetic.problems import SKILLS
from luna.errors import BadSettings
from luna.generate.subject import fill, load_subject, load_templates
from luna.settings import load_preset

PRESETS = sorted((Path(__file__).parents[2] / "presets").glob("*.yaml"))

CATEGORIES = {
    "open-ended",
    "domain-specific",
    "debugging",
    "system-design",
    "refactoring",
    "multi-file",
    "performance",
    "testing",
    "api-design",
    "error-handling",
    "code-review",
}
AREAS = {
    "core-algorithms",
    "design-patterns",
    "best-practices",
    "testing-strategies",
    "performance-optimisation",
    "concurrency-patterns",
}


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_the_subject_of_every_preset_exists(path):
    preset = load_preset(path)
    assert load_subject(preset.subject).name == preset.subject


def test_the_socratic_subject_is_complete():
    socratic = load_subject("socratic")
    areas = {area.name for area in socratic.curriculum.areas}
    assert areas >= {"general", "mathematics", "science", "history", "ethics", "programming"}
    assert all(len(set(area.concepts)) == len(area.concepts) >= 10 for area in socratic.curriculum.areas)
    assert len({category.name for category in socratic.self_instruct.categories}) >= 10
    assert len(socratic.chain_of_thought.steps) == 7
    kinds = [kind.partition(":")[0] for kind in socratic.slots["kind"]]
    assert kinds == ["clarification", "assumptions", "evidence", "perspective", "implications", "meta-questions"]
    persona = " ".join(socratic.socratic.persona.split())
    assert all(f"{number}. {kind.capitalize()}: " in persona for number, kind in enumerate(kinds, start=1))
    for principle in (
        "You probe instead of answering",
        "challenge assumptions gently",
        "guide discovery",
        "break a big problem down",
        "why and how",
        "analogy",
        "acknowledge good reasoning",
        "push one step deeper",
        "next steps, which the learner says in their own words",
    ):
        assert principle in persona


def test_the_code_subject_is_complete():
    code = load_subject("code")
    assert {category.name for category in code.self_instruct.categories} == CATEGORIES
    assert {area.name for area in code.curriculum.areas} == AREAS
    assert all(len(set(area.concepts)) == len(area.concepts) >= 6 for area in code.curriculum.areas)
    steps = [step.partition(":")[0] for step in code.chain_of_thought.steps]
    assert steps == ["Restate", "Key challenges", "Approaches", "Trade-offs", "Choice", "Implementation", "Edge cases"]
    assert "write a {language} function to {task}" in code.templates.templates[0].lower()


def test_the_skills_of_arithmetic_are_those_of_the_domain_and_none_is_sealed():
    assert load_subject("arithmetic").skills == {skill.name: skill.title for skill in SKILLS.values()}


def test_filling_leaves_braces_that_name_no_field():
    assert fill("{a} {b} {c", {"a": "1"}) == "1 {b} {c"


def test_your_own_subject_is_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    value = load_subject("arithmetic").model_dump() | {"name": "mine"}
    path.write_text(yaml.safe_dump(value))
    assert load_subject(str(path)).name == "mine"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": 1}, "colour"),
        (
            {"curriculum": {"frame": "Teach {concpt}", "areas": [{"name": "a", "title": "a", "concepts": ["c"]}]}},
            "concpt",
        ),
        ({"templates": {"templates": ["do {this}"]}}, "add slots.this"),
        ({"templates": {}}, "neither templates nor prompts"),
    ],
)
def test_a_broken_subject_is_refused_by_file_and_key(tmp_path, change, words):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(load_subject("arithmetic").model_dump() | change))
    with pytest.raises(BadSettings, match=words) as error:
        load_subject(str(path))
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_an_unknown_subject_names_the_known_ones(tmp_path):
    with pytest.raises(BadSettings, match="arithmetic, code"):
        load_subject("chemistry")
    with pytest.raises(BadSettings, match="no such file"):
        load_subject(str(tmp_path / "none.yaml"))


def test_a_template_with_a_slot_that_nothing_fills_is_refused(tmp_path):
    path = tmp_path / "templates.yaml"
    path.write_text("templates: ['write {what} in {langauge}']\nslots: {what: [a parser]}\n")
    with pytest.raises(BadSettings, match=r"templates\.yaml: templates\.0: nothing fills \{langauge\}"):
        load_templates(path, load_subject("code"))
    path.write_text("templates: [write: {")
    with pytest.raises(BadSettings, match="is no YAML"):
        load_templates(path, load_subject("code"))

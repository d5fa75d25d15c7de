"""The evolution manifest: it says what was done, comes back as it went out, and is refused where it contradicts."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luna.errors import LunaError
from luna.promote.manifest import Ages, Manifest, ManifestError, ages_of, build_manifest, number_of, read_manifest
from luna.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
SFT = {"gen": None, "source": "sft", "role": "primary", "path": "models/sft"}
BASE = {"gen": None, "source": "base", "role": "stabilizing_critic", "path": "models/base"}


def _settings(**changes: Any) -> Settings:
    settings = load_settings(ROOT)
    first = {"generation": "Luna-G001", "parent": None, "grandparent": None, "alpha": 0.1, "beta": 0.9}
    return settings.model_copy(update={"params": settings.params.model_copy(update={**first, **changes})})


def _tag(gen: str, role: str) -> dict[str, Any]:
    return {"gen": gen, "role": role, "path": f"models/teachers/{gen}"}


def _third() -> dict[str, Any]:
    """A manifest as the request words it, without ages."""
    return {
        "evolution_request": {
            "parent_gen": "Luna-G002",
            "grandparent_gen": "Luna-G001",
            "child_gen": "Luna-G003",
            "training_method": "logit_blending_kd",
        },
        "teachers": [_tag("Luna-G002", "primary"), _tag("Luna-G001", "stabilizing_critic")],
        "training_params": {
            "method": "logit_blending_kd",
            "alpha": 0.1,
            "beta": 0.9,
            "gamma": 0.0,
            "temperature": 2.0,
            "steps": 1200,
            "lr": 1.5e-5,
        },
        "stabilizers": {
            "ema": True,
            "ema_decay": 0.999,
            "replay_buffer": True,
            "replay_size": 100,
            "token_masking": False,
        },
    }


def _write(folder: Path, value: Any) -> Path:
    path = folder / "manifest.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_the_first_generation_grows_from_the_base() -> None:
    manifest = build_manifest(_settings(alpha=0.2), [SFT, BASE], steps=50, lr=5e-4, replay_size=0)
    assert manifest.model_dump() == {
        "evolution_request": {
            "parent_gen": None,
            "grandparent_gen": None,
            "child_gen": "Luna-G001",
            "training_method": "logit_blending_kd",
        },
        "teachers": [SFT, BASE],
        "training_params": {**_third()["training_params"], "alpha": 0.2, "steps": 50, "lr": 5e-4},
        "stabilizers": {**_third()["stabilizers"], "replay_buffer": False, "replay_size": 0},
        "ages": {"sft": "2->3", "distill": "3->4"},
    }


def test_a_generation_by_tags_is_what_the_request_words(tmp_path: Path) -> None:
    settings = _settings(generation="Luna-G003", parent="Luna-G002", grandparent="Luna-G001")
    teachers = _third()["teachers"]
    built = build_manifest(settings, teachers, steps=1200, lr=1.5e-5, replay_size=100)
    assert built.model_dump() == {**_third(), "ages": {"sft": "6->7", "distill": "7->8"}}
    assert read_manifest(_write(tmp_path, built.model_dump())) == built


def test_a_handed_in_manifest_may_lean_on_the_defaults(tmp_path: Path) -> None:
    whole = _third()
    lean = {name: whole[name] for name in ("evolution_request", "teachers")}
    assert read_manifest(_write(tmp_path, lean)) == read_manifest(_write(tmp_path, whole))


def test_both_teachers_may_be_the_base_in_the_first_generation(tmp_path: Path) -> None:
    value = build_manifest(_settings(), [{**BASE, "role": "primary"}, BASE], 50, 5e-4, replay_size=0).model_dump()
    assert [teacher.source for teacher in read_manifest(_write(tmp_path, value)).teachers] == ["base", "base"]


@given(number=st.integers(1, 999))
def test_the_ladder_has_no_gap(number: int) -> None:
    parent = f"Luna-G{number:03d}"
    age = 2 * number + 2
    assert number_of(parent) == number
    assert ages_of(parent) == Ages(sft=f"{age}->{age + 1}", distill=f"{age + 1}->{age + 2}")
    below = ages_of(f"Luna-G{number - 1:03d}" if number > 1 else None)
    assert below.distill.split("->")[1] == ages_of(parent).sft.split("->")[0]


@given(
    weights=st.tuples(*[st.floats(0, 10)] * 3),
    temperature=st.floats(0.01, 100),
    steps=st.integers(1, 10**6),
    replay=st.integers(0, 500),
)
def test_what_is_built_can_be_read_back(
    weights: tuple[float, ...], temperature: float, steps: int, replay: int
) -> None:
    names = dict(zip(("alpha", "beta", "gamma"), weights, strict=True))
    settings = _settings(**names, temperature=temperature)
    built = build_manifest(settings, [SFT, BASE], steps, 1e-4, replay_size=replay)
    assert Manifest.model_validate(json.loads(json.dumps(built.model_dump()))) == built


CONTRADICTIONS = [
    ("evolution_request", {"grandparent_gen": "Luna-G002", "parent_gen": "Luna-G001"}, "Luna-G002 is no ancestor of"),
    ("evolution_request", {"parent_gen": "Luna-G003"}, "Luna-G003 is no ancestor of Luna-G003"),
    ("evolution_request", {"grandparent_gen": "Luna-G002"}, "Luna-G002 is no ancestor of Luna-G002"),
    ("evolution_request", {"parent_gen": None}, "grandparent_gen Luna-G001 without a parent_gen"),
    ("evolution_request", {"child_gen": "Luna"}, "'Luna' names no generation"),
    ("evolution_request", {"child_gen": None}, "evolution_request.child_gen: input should be a valid string"),
    ("evolution_request", {"training_method": "weight_averaging"}, "is refused: neurons .* use logit_blending_kd"),
    ("training_params", {"method": "model_soup"}, "is refused: neurons .* use logit_blending_kd"),
    ("training_params", {"method": "sorcery"}, "training_params.method: input should be 'logit_blending_kd'"),
    ("training_params", {"temperature": 0}, "training_params.temperature: input should be greater than 0"),
    ("training_params", {"alpha": -0.1}, "training_params.alpha: "),
    ("training_params", {"beta": float("nan")}, "training_params.beta: "),
    ("training_params", {"steps": 0}, "training_params.steps: "),
    ("training_params", {"alpa": 0.1}, r"training_params.alpa: unknown key; did you mean alpha\?"),
    ("stabilizers", {"ema_decay": 1.0}, "stabilizers.ema_decay: "),
    ("stabilizers", {"replay_size": 0}, "replay_buffer is true and replay_size 0"),
    ("teachers", [], "needs one primary and one stabilizing_critic"),
    ("teachers", [SFT, {**SFT}], "needs one primary and one stabilizing_critic"),
    ("teachers", [SFT, _tag("Luna-G001", "stabilizing_critic"), {**SFT}], "no more"),
    ("teachers", [SFT, _tag("Luna-G003", "stabilizing_critic")], "Luna-G003 is not older than its student Luna-G003"),
    ("teachers", [SFT, BASE], "source base stands for a null ancestor"),
    ("teachers", [SFT, {**BASE, "source": None}], "teachers.1: give either gen"),
    ("teachers", [{**SFT, "gen": "Luna-G002"}, _tag("Luna-G001", "stabilizing_critic")], "teachers.0: give either gen"),
    ("teachers", [{**SFT, "role": "boss"}, BASE], "teachers.0.role: input should be 'primary' or"),
    ("teachers", [{**SFT, "path": ""}, BASE], "teachers.0.path: "),
    ("ages", {"sft": "2->3", "distill": "3->4"}, "a child of Luna-G002 climbs 6->7 in sft and 7->8 in distill"),
]


@pytest.mark.parametrize(("part", "change", "reason"), CONTRADICTIONS)
def test_a_contradiction_is_refused_with_its_reason(tmp_path: Path, part: str, change: Any, reason: str) -> None:
    value = _third()
    value[part] = {**value.get(part, {}), **change} if isinstance(change, dict) else change
    path = _write(tmp_path, value)
    with pytest.raises(ManifestError, match=rf"^{path}: .*{reason}") as refused:
        read_manifest(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("part", ["evolution_request", "teachers"])
def test_the_two_parts_without_defaults_are_needed(tmp_path: Path, part: str) -> None:
    value = {name: section for name, section in _third().items() if name != part}
    with pytest.raises(ManifestError, match=f"{part}: is missing; add it"):
        read_manifest(_write(tmp_path, value))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b'{"a": 1,\n]', ":2: broken JSON .*mend that line"), (b"\xff", "is not UTF-8"), (b"[]", "mend the value")],
)
def test_an_unreadable_file_is_told_in_one_line(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=complaint) as refused:
        read_manifest(path)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such file"):
        read_manifest(tmp_path / "manifest.json")


def test_settings_that_contradict_make_no_manifest() -> None:
    with pytest.raises(LunaError, match="Luna-G004 is no ancestor of Luna-G003"):
        build_manifest(_settings(generation="Luna-G003", parent="Luna-G004"), [SFT, BASE], 50, 1e-4, replay_size=0)


@pytest.mark.parametrize("name", ["Luna", "Luna-G", "G1x", ""])
def test_names_without_a_number_are_refused(name: str) -> None:
    with pytest.raises(ManifestError, match="names no generation"):
        number_of(name)

"""A manifest that somebody hands in becomes the dials that grow it, or is refused and changes nothing."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from luna.errors import BadSettings
from luna.generations.manifests import apply_manifest, params_from
from luna.promote.manifest import Manifest, ManifestError, build_manifest
from luna.settings import Params, Settings, load_settings

REPO = Path(__file__).parents[2]
SHIPPED = load_settings(REPO)
LINES = [
    ("Luna-G001", None, None),
    ("Luna-G002", "Luna-G001", None),
    ("Luna-G003", "Luna-G002", "Luna-G001"),
    ("Luna-G009", "Luna-G007", "Luna-G003"),
]


def _with(params: dict[str, Any], edits: dict[str, Any]) -> dict[str, Any]:
    """Edits with dotted keys carried out, those of sections that params lack left out."""
    for key, value in edits.items():
        *sections, name = key.split(".")
        section = params
        for part in sections:
            section = section.get(part, {})
        section[name] = value
    return params


def _taught(params: Params) -> list[dict[str, Any]]:
    """The teachers that the distill stage writes for such params."""
    places = {"parent": params.parent, "grandparent": params.grandparent}
    teachers = []
    for role, name in (("primary", params.teachers.primary), ("stabilizing_critic", params.teachers.critic)):
        place = next((place for place, tag in places.items() if name in (place, tag)), None)
        if place is None:
            teachers.append({"gen": None, "source": "sft", "role": role, "path": "models/sft"})
        elif places[place] is None:
            teachers.append({"gen": None, "source": "base", "role": role, "path": "models/base"})
        else:
            teachers.append({"gen": places[place], "role": role, "path": f"models/teachers/{place}"})
    return teachers


@st.composite
def wired_params(draw: st.DrawFn) -> Params:
    """Params of any wiring whose student starts from T1, as a person may write them: by place or by tag."""
    child, parent, grandparent = draw(st.sampled_from(LINES))
    names = st.sampled_from(["sft", "parent", "grandparent", *(tag for tag in (parent, grandparent) if tag)])
    primary, weight = draw(names), st.floats(0, 10)
    edits = {
        **{"generation": child, "parent": parent, "grandparent": grandparent},
        **{"student_init": primary, "teachers.primary": primary, "teachers.critic": draw(names)},
        **{name: draw(weight) for name in ("alpha", "beta", "gamma")},
        "temperature": draw(st.floats(0.01, 100)),
        "distill.ema": draw(st.booleans()),
        "distill.ema_decay": draw(st.floats(0, 0.9999)),
        "distill.taboo.enabled": draw(st.booleans()),
        "distill.max_steps": draw(st.integers(1, 10**6)),
        "distill.learning_rate": draw(st.floats(1e-9, 1)),
    }
    return Params.model_validate(_with(SHIPPED.params.model_dump(), edits))


def _by_place(params: Params, name: str) -> str:
    """One name for each model: a tag by its place, and both ancestors of a first generation are the base."""
    name = {params.grandparent: "grandparent", params.parent: "parent"}.get(name, name)
    return "parent" if name == "grandparent" and params.parent is None else name


def _manifest(params: Params, replay_size: int = 0) -> Manifest:
    steps, rate = params.distill.max_steps, params.distill.learning_rate
    assert steps is not None
    assert rate is not None
    settings = Settings(params=params, preset=SHIPPED.preset)
    return build_manifest(settings, _taught(params), steps, rate, replay_size=replay_size)


@given(params=wired_params())
def test_a_manifest_gives_back_the_settings_that_it_was_built_from(params: Params) -> None:
    manifest = _manifest(params)
    back = Params.model_validate(_with(SHIPPED.params.model_dump(), params_from(manifest)))
    wired = {
        "student_init": _by_place(params, params.student_init),
        "teachers.primary": _by_place(params, params.teachers.primary),
        "teachers.critic": _by_place(params, params.teachers.critic),
    }
    expected = Params.model_validate(_with(params.model_dump(), wired))
    unsaid = {"replay"}
    assert back.model_dump(exclude=unsaid) == expected.model_dump(exclude=unsaid)
    assert _manifest(back) == manifest


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, {"replay.enabled": False}), (60, {"replay.enabled": True, "replay.size": 60})],
)
def test_replay_is_asked_for_with_its_size(size: int, expected: dict[str, Any]) -> None:
    dials = {"distill.max_steps": 5, "distill.learning_rate": 1e-4}
    params = Params.model_validate(_with(SHIPPED.params.model_dump(), dials))
    edits = params_from(_manifest(params, replay_size=size))
    assert {key: value for key, value in edits.items() if key.startswith("replay")} == expected


# ---------------------------------------------------------------- held against a repo


def _git(root: Path, *command: str) -> None:
    who = ["-c", "user.name=Luna", "-c", "user.email=luna@localhost", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(root), *who, *command], check=True, capture_output=True)


def _third() -> dict[str, Any]:
    """The literal wiring: T1 is the parent generation, T2 the grandparent."""
    return {
        "evolution_request": {
            "parent_gen": "Luna-G002",
            "grandparent_gen": "Luna-G001",
            "child_gen": "Luna-G003",
            "training_method": "logit_blending_kd",
        },
        "teachers": [
            {"gen": "Luna-G002", "role": "primary", "path": "models/teachers/Luna-G002"},
            {"gen": "Luna-G001", "role": "stabilizing_critic", "path": "models/teachers/grandparent"},
        ],
        "training_params": {
            "method": "logit_blending_kd",
            "alpha": 0.2,
            "beta": 0.8,
            "gamma": 0.05,
            "temperature": 3.0,
            "steps": 1200,
            "lr": 1e-5,
        },
        "stabilizers": {"ema": False, "ema_decay": 0.99, "replay_buffer": False, "token_masking": True},
    }


def _release(root: Path, tag: str, parent: str | None, verdict: str = "PROMOTED") -> None:
    teachers = [
        {"gen": None, "source": "sft", "role": "primary", "path": "models/sft"},
        {"gen": parent, "role": "stabilizing_critic", "path": "x", **({} if parent else {"source": "base"})},
    ]
    line = {"parent_gen": parent, "grandparent_gen": None, "child_gen": tag}
    said = {
        "weights_sha256": f"weights of {tag}",
        **{"generation": tag, "verdict": verdict, "gates": {}, "failed": [] if verdict == "PROMOTED" else ["recall"]},
        "manifest": {"evolution_request": line, "teachers": teachers},
    }
    (root / "generation.json").write_text(json.dumps(said))
    _git(root, "add", "-A")
    _git(root, "commit", "-q", "-m", tag)
    _git(root, "tag", "-a", tag, "-m", tag)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repo with two promoted generations, one that was rejected and one on another branch."""
    shutil.copy(REPO / "params.yaml", tmp_path)
    shutil.copytree(REPO / "presets", tmp_path / "presets")
    _git(tmp_path, "init", "-q", "-b", "main")
    _release(tmp_path, "Luna-G001", None)
    _release(tmp_path, "Luna-G002", "Luna-G001")
    _release(tmp_path, "Weak-G001", None, verdict="REJECTED")
    _git(tmp_path, "switch", "-q", "-c", "aside", "Luna-G001")
    _release(tmp_path, "Aside-G002", "Luna-G001")
    _git(tmp_path, "switch", "-q", "main")
    return tmp_path


def _hand_in(root: Path, value: dict[str, Any]) -> Path:
    path = root / "manifest.json"
    path.write_text(json.dumps(value))
    return path


def test_the_literal_wiring_becomes_params(root: Path) -> None:
    before = load_settings(root).params
    manifest = apply_manifest(root, _hand_in(root, _third()))
    after = load_settings(root).params
    assert manifest.evolution_request.child_gen == after.generation == "Luna-G003"
    assert (after.parent, after.grandparent) == ("Luna-G002", "Luna-G001")
    assert (after.parent_sha256, after.grandparent_sha256) == ("weights of Luna-G002", "weights of Luna-G001")
    assert (after.student_init, after.teachers.primary, after.teachers.critic) == ("parent", "parent", "grandparent")
    assert (after.alpha, after.beta, after.gamma, after.temperature) == (0.2, 0.8, 0.05, 3.0)
    assert (after.distill.max_steps, after.distill.learning_rate) == (1200, 1e-5)
    assert (after.distill.ema, after.distill.ema_decay, after.distill.taboo.enabled) == (False, 0.99, True)
    assert (after.generate, after.gates, after.seed) == (before.generate, before.gates, before.seed)


def test_the_dials_that_stay_for_later_generations_are_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    apply_manifest(root, _hand_in(root, _third()))
    (told,) = capsys.readouterr().out.splitlines()
    assert "distill.max_steps null -> " in told
    assert "teachers.primary sft -> parent" in told
    assert "generation" not in told.partition(";")[0]
    apply_manifest(root, _hand_in(root, _third()))
    assert capsys.readouterr().out == ""


def test_comments_of_params_stay(root: Path) -> None:
    def comments() -> list[str]:
        lines = (root / "params.yaml").read_text().splitlines()
        return [line.partition("#")[2] for line in lines if "#" in line]

    before = comments()
    apply_manifest(root, _hand_in(root, _third()))
    assert comments() == before


def test_a_first_generation_grows_from_the_base_again(root: Path) -> None:
    value = _third()
    value["evolution_request"] |= {"parent_gen": None, "grandparent_gen": None, "child_gen": "New-G001"}
    base = {"gen": None, "source": "base", "path": "models/base/"}
    value["teachers"] = [{**base, "role": "primary"}, {**base, "role": "stabilizing_critic"}]
    apply_manifest(root, _hand_in(root, _third()))
    apply_manifest(root, _hand_in(root, value))
    after = load_settings(root).params
    assert (after.parent, after.grandparent, after.student_init) == (None, None, "parent")
    assert (after.parent_sha256, after.grandparent_sha256) == (None, None)


def test_replay_is_written_where_params_know_it(root: Path) -> None:
    value = _third()
    value["stabilizers"] |= {"replay_buffer": True, "replay_size": 60}
    apply_manifest(root, _hand_in(root, value))
    replay = yaml.safe_load((root / "params.yaml").read_text())["replay"]
    assert (replay["enabled"], replay["size"]) == (True, 60)


PRIMARY, CRITIC = _third()["teachers"]
REFUSED = {
    "no such parent": ({"parent_gen": "Luna-G0002"}, r"evolution_request\.parent_gen: there is no git tag Luna-G0002"),
    "a rejected parent": (
        {"parent_gen": "Weak-G001", "grandparent_gen": None},
        r"evolution_request\.parent_gen: Weak-G001 was rejected; name a promoted generation",
    ),
    "a parent on another branch": (
        {"parent_gen": "Aside-G002"},
        r"evolution_request\.parent_gen: Aside-G002 is no ancestor of this branch; switch to a branch that descends",
    ),
    "no such grandparent": ({"grandparent_gen": "Old-G001"}, r"evolution_request\.grandparent_gen: there is no git"),
    "a child that is there": (
        {"child_gen": "Luna-G002", "parent_gen": "Luna-G001", "grandparent_gen": None},
        r"evolution_request\.child_gen: the tag Luna-G002 exists; name a new generation",
    ),
    "a name that params refuse": (
        {"child_gen": "My Luna-G003"},
        r"does not fit params\.yaml: generation: .+; mend the value",
    ),
    "averaging": ({"training_method": "weight_averaging"}, r".*is refused: .*use logit_blending_kd"),
    "a stranger as teacher": (
        [PRIMARY, {**CRITIC, "gen": "Weak-G001"}],
        r"teachers: Weak-G001 is neither parent_gen \(Luna-G002\) nor grandparent_gen \(Luna-G001\); name it as one",
    ),
    "a path of the other teacher": (
        [{**PRIMARY, "path": "models/teachers/grandparent"}, CRITIC],
        r"teachers\.0\.path: models/teachers/grandparent is not the Luna-G002 model; write models/teachers/parent",
    ),
    "a path of another generation": (
        [PRIMARY, {**CRITIC, "path": "models/Luna-G002"}],
        r"teachers\.1\.path: models/Luna-G002 is not the Luna-G001 model; write models/teachers/grandparent",
    ),
    "a path of another fine-tuning": (
        [{"gen": None, "source": "sft", "role": "primary", "path": "elsewhere/sft"}, CRITIC],
        r"teachers\.0\.path: elsewhere/sft is not the sft model; write models/sft",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_and_changes_nothing(root: Path, case: str) -> None:
    change, complaint = REFUSED[case]
    value = _third()
    if isinstance(change, list):
        value["teachers"] = change
    else:
        value["evolution_request"] |= change
        line = value["evolution_request"]
        for teacher, key in zip(value["teachers"], ("parent_gen", "grandparent_gen"), strict=True):
            teacher |= {"gen": line[key], "path": "x"} if line[key] else {"gen": None, "source": "base", "path": "x"}
    before = (root / "params.yaml").read_bytes()
    path = _hand_in(root, value)
    with pytest.raises(ManifestError, match=rf"^{path}: {complaint}") as refused:
        apply_manifest(root, path)
    assert "\n" not in str(refused.value)
    assert (root / "params.yaml").read_bytes() == before


def test_the_base_of_another_preset_is_another_model(root: Path) -> None:
    value = _third()
    value["evolution_request"]["grandparent_gen"] = None
    value["teachers"][1] = {"gen": None, "source": "base", "role": "stabilizing_critic", "path": "some/hub-model"}
    with pytest.raises(ManifestError, match=r"some/hub-model is not the base model; write models/base$"):
        apply_manifest(root, _hand_in(root, value))


def test_a_dial_that_params_do_not_write_out_is_named(root: Path) -> None:
    path = root / "params.yaml"
    path.write_text("".join(line for line in path.open() if not line.startswith("student_init")))
    with pytest.raises(ManifestError, match=r"params\.yaml: student_init: is missing; add it$"):
        apply_manifest(root, _hand_in(root, _third()))


def test_params_that_are_broken_already_are_told_first(root: Path) -> None:
    (root / "params.yaml").write_text("preset: embedded\n")
    with pytest.raises(BadSettings, match="generation: is missing"):
        apply_manifest(root, _hand_in(root, _third()))

"""Settings are refused by file and key, in one line that ends with the mend."""

from pathlib import Path

import pytest
import yaml

from luna.errors import BadSettings
from luna.settings import load_preset, load_settings

ROOT = Path(__file__).parent.parent


@pytest.fixture
def project(tmp_path):
    """A copy of the repo's settings that a test may spoil."""
    (tmp_path / "presets").mkdir()
    for path in ["params.yaml", "presets/embedded.yaml", "presets/phi3.5-mini.yaml"]:
        (tmp_path / path).write_text((ROOT / path).read_text())
    return tmp_path


def change(path, **keys):
    """Set keys (`a__b` is b of a) of a YAML file."""
    value = yaml.safe_load(path.read_text())
    for key, new in keys.items():
        *parents, last = key.split("__")
        section = value
        for parent in parents:
            section = section[parent]
        section[last] = new
    path.write_text(yaml.safe_dump(value))


def complaint(project):
    with pytest.raises(BadSettings) as caught:
        load_settings(project)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_shipped_settings_are_valid():
    settings = load_settings(ROOT)
    assert (settings.params.beta, settings.params.distill.js_threshold) == (0.5, 0.1)
    assert settings.preset.subject == "arithmetic"


def test_preset_is_chosen_by_name(project):
    change(project / "params.yaml", preset="phi3.5-mini")
    assert load_settings(project).preset.model.base == "microsoft/Phi-3.5-mini-instruct"


def test_unknown_preset_lists_those_there_are(project):
    change(project / "params.yaml", preset="qwen")
    assert complaint(project).endswith("choose one of embedded, phi3.5-mini")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"bata": 0.5}, "params.yaml: bata: unknown key; did you mean beta?"),
        ({"distill__js_treshold": 0.2}, "distill.js_treshold: unknown key; did you mean js_threshold?"),
        ({"gates__xyz": 1}, "gates.xyz: unknown key; known keys: recall_drop, "),
        ({"alpha": "much"}, "params.yaml: alpha: input should be a valid number"),
        ({"threads": 0}, "threads: input should be greater than or equal to 1, not 0; mend the value"),
        ({"temperature": 0.0}, "temperature: input should be greater than 0, not 0.0"),
        ({"distill__kl": "backward"}, "distill.kl: input should be 'forward', 'reverse' or 'jsd', not 'backward'"),
        (
            {"generate__mix": {"curriculum": 0.5, "template": 0.2}},
            "the shares of mix add up to 0.7; make them add up to 1",
        ),
        ({"generate__mix": "wild"}, "generate.mix"),
        ({"replay__share": 1.0}, "replay.share: input should be less than 1, not 1.0; mend the value"),
        ({"replay__size": -1}, "replay.size: input should be greater than or equal to 0, not -1"),
    ],
)
def test_wrong_params_name_the_key_and_the_mend(project, keys, expected):
    change(project / "params.yaml", **keys)
    assert expected in complaint(project)


def test_missing_key_is_named(project):
    (project / "params.yaml").write_text("preset: embedded\n")
    assert "generation: is missing; add it" in complaint(project)


def test_broken_yaml_names_the_file_and_line(project):
    (project / "params.yaml").write_text("preset: embedded\nbeta: [0.9\nalpha: 1\n")
    message = complaint(project)
    assert "params.yaml: is no YAML:" in message
    assert "line 3" in message


@pytest.mark.parametrize("text", ["", "- a list\n", "just words\n"])
def test_yaml_that_is_no_mapping_is_refused(project, text):
    (project / "params.yaml").write_text(text)
    assert "params.yaml: " in complaint(project)


def test_run_outside_the_repo_says_so(tmp_path):
    assert complaint(tmp_path).endswith("params.yaml: no such file; run from the root of the repo")


def test_mix_by_shares_is_accepted(project):
    change(project / "params.yaml", generate__mix={"socratic": 0.75, "curriculum": 0.25})
    assert load_settings(project).params.generate.mix == {"socratic": 0.75, "curriculum": 0.25}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"model__lora__rnak": 8}, "model.lora.rnak: unknown key; did you mean rank?"),
        ({"model__backend": "jax"}, "model.backend: input should be 'transformers' or 'unsloth', not 'jax'"),
        ({"sft__max_steps": 5}, "sft: give either epochs or max_steps"),
        ({"sft__scheduler": "linear", "sft__final_rate": 0.1}, "set scheduler to cosine or final_rate to 0"),
        ({"model__base": "scratch"}, "model.base: scratch and a pretrain section belong together"),
    ],
)
def test_wrong_preset_names_the_key_and_the_mend(project, keys, expected):
    path = project / "presets" / "phi3.5-mini.yaml"
    change(path, **keys)
    with pytest.raises(BadSettings) as caught:
        load_preset(path)
    assert str(caught.value).startswith(str(path))
    assert expected in str(caught.value)

"""The whole graph, run once as a user runs it: in a clone of its own, by `dvc repro`, with the smoke preset.

Most tests only look at what that run left behind; those that go on from there work on a copy.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from luna.arithmetic.problems import is_sealed, split_of
from luna.arithmetic.wording import read

REPO = Path(__file__).parents[1]
EXAMPLES = 48
SMALL = {
    "preset": "smoke",
    "threads": 1,
    "generate": {"num_examples": EXAMPLES},
    "evaluate": {"recall_items": 64, "generalize_items": 64, "bootstrap_samples": 200},
}
STAGES = list(yaml.safe_load((REPO / "dvc.yaml").read_text(encoding="utf-8"))["stages"])

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def _run(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command in a clone, with this interpreter's programs first; DVC's own caches stay beside the clone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_"))}
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**kept, "PATH": programs, "DVC_SITE_CACHE_DIR": str(root.parent / "dvc"), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)


def _must(root: Path, *command: str) -> str:
    """What a command prints, if it ends well."""
    done = _run(root, *command)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def _json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _set_params(root: Path, changes: dict[str, Any]) -> None:
    """Set keys of params.yaml; a section keeps the keys that are not named."""
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    for key, value in changes.items():
        params[key] = params[key] | value if isinstance(value, dict) else value
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


# ---------------------------------------------------------------- the clones


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, copy_of_luna: Callable[[Path], None]) -> Path:
    """A fresh repo with params cut down to seconds."""
    root = tmp_path_factory.mktemp("pipeline") / "luna"
    copy_of_luna(root)
    _set_params(root, SMALL)
    _must(root, "git", "init", "-q", "-b", "main")
    for key, value in (("user.name", "Luna"), ("user.email", "luna@localhost")):
        _must(root, "git", "config", key, value)
    _commit(root, "start", ".")
    return root


@pytest.fixture(scope="module")
def grown(clone: Path) -> Path:
    """The clone after its one `dvc repro`. For looking only."""
    _must(clone, "dvc", "repro")
    return clone


@pytest.fixture
def released(grown: Path, tmp_path: Path) -> Path:
    """A copy of the grown clone whose generation is committed and tagged by hand. For going on."""
    root = tmp_path / "luna"
    shutil.copytree(grown, root, symlinks=True)
    _commit(root, "Luna-G001", "dvc.lock", "generation.json", "metrics", "plots")
    _must(root, "git", "tag", "-a", "Luna-G001", "-m", "Luna-G001")
    return root


def _commit(root: Path, message: str, *paths: str) -> None:
    _must(root, "git", "add", *paths)
    _must(root, "git", "commit", "-q", "-m", message)


# ---------------------------------------------------------------- what a run leaves behind


@pytest.mark.parametrize(
    ("file", "keys"),
    [
        (
            "metrics/enhance.json",
            ["total_examples", "enhanced_examples", "average_iterations", "convergence_rate", "hint_leaks"],
        ),
        ("metrics/distill.json", ["blended", "t1_only", "gold_fallback", "skip", "final_loss"]),
        ("metrics/eval.json", ["recall", "generalize", "tone_drift", "law_violations"]),
    ],
)
def test_metrics_hold_their_numbers_at_the_top(grown: Path, file: str, keys: list[str]) -> None:
    metrics = _json(grown / file)
    assert {key for key in keys if type(metrics.get(key)) not in (int, float)} == set()


def test_every_example_is_enhanced_and_some_needed_a_hint(grown: Path) -> None:
    metrics = _json(grown / "metrics" / "enhance.json")
    assert metrics["total_examples"] == metrics["enhanced_examples"] == EXAMPLES
    assert 1.0 < metrics["average_iterations"] <= 3.0
    assert 0.0 < metrics["convergence_rate"] <= 1.0
    assert metrics["hint_leaks"] == 0


def test_the_shares_of_the_gates_add_up(grown: Path) -> None:
    metrics = _json(grown / "metrics" / "distill.json")
    assert sum(metrics[name] for name in ("blended", "t1_only", "gold_fallback", "skip")) == pytest.approx(1.0)


def test_the_last_logged_step_is_the_last_step(grown: Path) -> None:
    steps = _json(grown / "metrics" / "distill.json")["steps"]
    last = (grown / "plots" / "distill.csv").read_text(encoding="utf-8").splitlines()[-1]
    assert int(last.partition(",")[0]) == steps


def test_the_generation_says_how_it_was_decided(grown: Path) -> None:
    generation = _json(grown / "generation.json")
    assert (generation["generation"], generation["parent"], generation["grandparent"]) == ("Luna-G001", None, None)
    gates = generation["gates"]
    assert list(gates) == ["recall", "generalize", "tone_drift", "law_violations"]
    assert all({"value", "threshold", "pass"} <= set(gate) for gate in gates.values())
    assert generation["checks"]["comparable"]["differs"] == []
    held = all(row["pass"] for row in (*gates.values(), *generation["checks"].values()))
    assert generation["verdict"] == ("PROMOTED" if held else "REJECTED")
    metrics = _json(grown / "metrics" / "eval.json")
    assert {name: gate["value"] for name, gate in gates.items()} == {name: metrics[name] for name in gates}


def test_the_manifest_tells_the_evolution(grown: Path) -> None:
    recipe = yaml.safe_load((grown / "presets" / "smoke.yaml").read_text(encoding="utf-8"))["distill"]
    manifest = _json(grown / "generation.json")["manifest"]
    assert manifest["evolution_request"] == {
        "parent_gen": None,
        "grandparent_gen": None,
        "child_gen": "Luna-G001",
        "training_method": "logit_blending_kd",
    }
    assert manifest["teachers"] == [
        {"gen": None, "source": "sft", "role": "primary", "path": "models/sft"},
        {"gen": None, "source": "base", "role": "stabilizing_critic", "path": "models/base"},
    ]
    assert manifest["training_params"] == {
        "method": "logit_blending_kd",
        "alpha": 0.5,
        "beta": 0.5,
        "gamma": 0.0,
        "temperature": 2.0,
        "steps": recipe["max_steps"],
        "lr": recipe["learning_rate"],
    }
    assert set(manifest["stabilizers"]) == {"ema", "ema_decay", "replay_buffer", "replay_size", "token_masking"}
    assert manifest["ages"] == {"sft": "2->3", "distill": "3->4"}


def test_the_weights_are_the_ones_that_were_judged(grown: Path) -> None:
    weights = (grown / "models" / "luna" / "model.safetensors").read_bytes()
    assert _json(grown / "generation.json")["weights_sha256"] == hashlib.sha256(weights).hexdigest()


@pytest.mark.parametrize("name", ["base", "sft", "luna"])
def test_a_model_loads_with_plain_transformers_and_thinks(grown: Path, name: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = grown / "models" / name
    pickles = {".bin", ".pt", ".pth", ".pkl", ".ckpt", ".pickle"}
    assert {path.name for path in folder.rglob("*") if path.suffix in pickles} == set()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    turns = [{"role": "user", "content": "What is 12+13?"}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert prompt == "<|im_start|>user\nWhat is 12+13?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.eos_token == "<|im_end|>"
    assert model.generation_config.eos_token_id in (tokenizer.eos_token_id, [tokenizer.eos_token_id])
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    said = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(said).startswith("<think>")


def test_the_card_is_printed(grown: Path) -> None:
    generation = _json(grown / "generation.json")
    assert _must(grown, "luna", "card").startswith(f"Luna-G001: {generation['verdict']}")


# ---------------------------------------------------------------- what flows between the stages


def test_enhance_adds_four_fields_and_changes_nothing_else(grown: Path) -> None:
    raw, enhanced = _lines(grown / "data" / "raw.jsonl"), _lines(grown / "data" / "enhanced.jsonl")
    assert len(raw) == len(enhanced) == EXAMPLES
    for before, after in zip(raw, enhanced, strict=True):
        known, found = before.pop("metadata"), after.pop("metadata")
        assert after == before
        assert {key: found[key] for key in known if key != "thinking"} == _without(known, "thinking")
        assert found.keys() - known.keys() == {"original_thinking", "thinking_iterations", "thinking_converged"}
        assert found["original_thinking"] == known["thinking"]
        assert len(found["thinking"]) > 200
        assert 1 <= found["thinking_iterations"] <= 3
        assert isinstance(found["thinking_converged"], bool)


def _without(values: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


def test_the_thinking_of_a_second_attempt_holds_its_hints(grown: Path) -> None:
    enhanced, dialogues = _lines(grown / "data" / "enhanced.jsonl"), _lines(grown / "data" / "dialogues.jsonl")
    hinted = 0
    for record, dialogue in zip(enhanced, dialogues, strict=True):
        assert record["metadata"]["thinking_iterations"] == len(dialogue["turns"])
        hints = [turn["hint"] for turn in dialogue["turns"] if turn["hint"]]
        assert all(hint in record["metadata"]["thinking"] for hint in hints)
        hinted += len(dialogue["turns"]) > 1 and bool(hints)
    assert hinted > 0


def test_nothing_is_dropped_between_enhance_and_judge(grown: Path) -> None:
    files = {name: _lines(grown / "data" / f"{name}.jsonl") for name in ("enhanced", "judged", "rejected")}
    ids = {name: [record["metadata"]["id"] for record in records] for name, records in files.items()}
    assert sorted(ids["judged"] + ids["rejected"]) == sorted(ids["enhanced"])
    assert ids["judged"]
    assert all(record["metadata"]["rejected_because"] for record in files["rejected"])


# Written apart from the code that keeps these promises.
SEALED_OPERAND = re.compile(r"(?<!\d)(?:6[5-9]|7[0-4])\d*\s*[-+*]|[-+*(]\s*(?:6[5-9]|7[0-4])\d*")


def test_no_training_text_holds_what_is_kept_for_evaluation(grown: Path) -> None:
    items = _lines(grown / "data" / "eval" / "items.jsonl")
    asked = {" ".join(item["question"].lower().split()) for item in items}
    records = _lines(grown / "data" / "judged.jsonl")
    assert len(items) == 128
    for record in records:
        question = record["messages"][-2]["content"]
        problem = read(question)
        assert problem is not None
        assert (split_of(problem), is_sealed(problem)) == ("train", False)
        learned = [turn["attempt"] for turn in record["metadata"]["attempts"] if turn["correct"]]
        for text in (question, record["metadata"]["original_thinking"], *learned):
            assert " ".join(text.lower().split()) not in asked
            assert not SEALED_OPERAND.search(text), text


# ---------------------------------------------------------------- going on from there


def _stages_run(output: str) -> list[str]:
    return re.findall(r"Running stage '(\w+)'", output)


def test_a_second_repro_runs_nothing(grown: Path) -> None:
    output = _must(grown, "dvc", "repro")
    assert _stages_run(output) == []
    assert "up to date" in output


def test_a_repro_after_a_lost_result_restores_the_same_bytes(released: Path) -> None:
    weights = (released / "models" / "luna" / "model.safetensors").read_bytes()
    shutil.rmtree(released / "models" / "luna")
    (released / "generation.json").unlink()
    _must(released, "dvc", "repro")
    assert (released / "models" / "luna" / "model.safetensors").read_bytes() == weights
    assert _must(released, "git", "diff", "--stat", "HEAD", "--", "generation.json", "dvc.lock") == ""


def test_an_experiment_with_beta_trains_only_the_second_rung(released: Path) -> None:
    output = _must(released, "dvc", "exp", "run", "-S", "beta=0.8")
    assert _stages_run(output) == ["distill", "evaluate", "promote"]
    assert _json(released / "generation.json")["manifest"]["training_params"]["beta"] == 0.8
    turned = json.loads(_must(released, "dvc", "params", "diff", "--json"))
    assert turned["params.yaml"]["beta"] == {"old": 0.5, "new": 0.8, "diff": pytest.approx(0.3)}
    moved = json.loads(_must(released, "dvc", "metrics", "diff", "--json", "Luna-G001"))
    assert moved["metrics/distill.json"]["final_loss"]["old"] != moved["metrics/distill.json"]["final_loss"]["new"]


@pytest.mark.parametrize("command", ["metrics show", "metrics diff", "plots show", "params diff"])
def test_the_commands_of_dvc_answer(released: Path, command: str) -> None:
    _must(released, "dvc", *command.split())


def test_the_curves_are_drawn(released: Path) -> None:
    _must(released, "dvc", "plots", "show", "--out", "drawn")
    page = (released / "drawn" / "index.html").read_text(encoding="utf-8")
    assert all(title in page for title in ("loss of fine-tuning", "loss of distillation", "gate shares"))


def test_a_tag_teaches_the_next_generation(released: Path) -> None:
    _set_params(released, {"generation": "Luna-G002", "parent": "Luna-G001"})
    _must(released, "dvc", "repro", "--single-item", "teachers")
    teachers = _json(released / "models" / "teachers" / "teachers.json")
    assert teachers["grandparent"] == {"gen": None, "source": "base", "path": "models/base"}
    assert teachers["parent"] == {
        "gen": "Luna-G001",
        "source": "tag",
        "path": "models/teachers/parent",
        "weights_sha256": _json(released / "generation.json")["weights_sha256"],
        "eval_set_sha256": _json(released / "generation.json")["eval_set_sha256"],
    }
    brought = (released / "models" / "teachers" / "parent" / "model.safetensors").read_bytes()
    assert brought == (released / "models" / "luna" / "model.safetensors").read_bytes()


def test_a_tag_whose_weights_are_others_than_it_says_is_refused(released: Path) -> None:
    generation = _json(released / "generation.json")
    (released / "generation.json").write_text(json.dumps({**generation, "weights_sha256": "0" * 64}))
    _commit(released, "forged", "generation.json")
    _must(released, "git", "tag", "-f", "Luna-G001")
    assert _refusal_of_teachers(released).endswith("do not match its generation.json; run `dvc fetch -T`")


def test_weights_in_no_cache_and_no_remote_are_one_line(released: Path) -> None:
    shutil.rmtree(released / ".dvc" / "cache")
    line = _refusal_of_teachers(released)
    assert "in no cache and no remote" in line
    assert line.endswith("run `dvc fetch -T`, or `luna rebuild Luna-G001` if they are lost")


def _refusal_of_teachers(root: Path) -> str:
    """The one line by which the teachers stage refuses the parent Luna-G001; DVC adds one of its own."""
    _set_params(root, {"generation": "Luna-G002", "parent": "Luna-G001"})
    done = _run(root, "dvc", "repro", "--single-item", "teachers")
    assert done.returncode != 0
    ours, dvcs = done.stderr.strip().splitlines()
    assert ours.startswith("teachers: params.yaml: Luna-G001: ")
    assert dvcs.startswith("ERROR: failed to reproduce 'teachers'")
    return ours

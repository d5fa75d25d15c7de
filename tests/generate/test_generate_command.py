"""`luna generate`: options over the settings of the repo, records and a card as results."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from luna.cli import app
from luna.errors import BadSettings
from luna.generate.card import markdown_table
from luna.generate.options import MODES, with_options
from luna.records import read_records
from luna.settings import load_settings

ROOT = Path(__file__).parents[2]
TUTOR = ["--provider", "luna-tutor", "--model", "arithmetic"]


def _luna_generate(root, *options):
    """The command in a folder that holds the settings of the repo."""
    (root / "presets").mkdir()
    for name in ("params.yaml", "presets/embedded.yaml"):
        (root / name).write_text((ROOT / name).read_text())
    return CliRunner().invoke(app, ["generate", "--root", str(root), *map(str, options)])


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_as_many_examples_as_asked_for(mode, tmp_path):
    out = tmp_path / "mine.jsonl"
    done = _luna_generate(tmp_path, "--mode", mode, "--num-examples", 10, "--out", out, *TUTOR)
    assert done.exit_code == 0, done.output
    approaches = {record.metadata["approach"] for record in read_records(out)}
    assert len(read_records(out)) == 10
    assert approaches == {"self-instruct", "curriculum", "template", "chain-of-thought"} if mode == "mixed" else {mode}
    assert done.stdout.startswith(f"10 examples in {out}, described in {tmp_path / 'mine.md'}: 10 calls, ")
    card = (tmp_path / "mine.md").read_text()
    assert "10 examples of arithmetic, invented and solved by `luna-tutor/arithmetic`" in card
    assert "share 80%" not in card, "arithmetic drops no near-duplicates"


def test_a_teacher_over_http_with_templates_of_your_own(tmp_path, loopback_teacher):
    asked = []

    def answer(messages):
        asked.append(messages[1]["content"])
        return json.dumps({"question": f"Q{len(asked)}", "thinking": "t", "answer": "a"})

    endpoint = loopback_teacher(answer)
    mine = tmp_path / "templates.yaml"
    mine.write_text("prompts: [Explain monads., Explain leases.]")
    options = ["--mode", "template", "--templates", mine, "--subject", "code", "--num-examples", 2, "--seed", 3]
    address = ["--provider", "hosted_vllm", "--model", "m", "--api-base", endpoint.api_base]
    done = _luna_generate(tmp_path, *options, *address, "--out", tmp_path / "x.jsonl")
    assert done.exit_code == 0, done.output
    assert {prompt.split(".")[0] for prompt in asked} == {"Explain monads", "Explain leases"}
    assert "2 calls, 200 + 100 tokens" in done.stdout
    assert "share 80%" in (tmp_path / "x.md").read_text()


def test_provider_and_model_make_the_name_and_leave_no_foreign_address_or_price():
    settings = load_settings(ROOT)
    changed = with_options(settings, provider="openai", model="gpt-4o-mini", subject="code", seed=5, num_examples=7)
    assert (changed.preset.teacher.model, changed.preset.teacher.api_base) == ("openai/gpt-4o-mini", None)
    assert changed.preset.teacher.concurrency == settings.preset.teacher.concurrency
    assert (changed.params.seed, changed.params.generate.num_examples, changed.preset.subject) == (5, 7, "code")
    assert with_options(settings, model="openai/gpt-4o").preset.teacher.model == "openai/gpt-4o"
    assert with_options(settings) == settings
    paid = settings.preset.teacher.model_copy(update={"price": "free"})
    settings = settings.model_copy(update={"preset": settings.preset.model_copy(update={"teacher": paid})})
    assert with_options(settings, model="openai/gpt-4o").preset.teacher.price is None, "it is not free for that"
    assert with_options(settings, mode="curriculum").params.generate.mix == {"curriculum": 1.0}
    assert with_options(settings, mix="self-instruct-first").params.generate.mix == "self-instruct-first"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "telepathy"}, "--mode: there is no 'telepathy'; choose one of self-instruct, "),
        ({"mix": "wild"}, "mix"),
        ({"mode": "socratic", "mix": "balanced"}, "--mix: --mode socratic asks for one approach alone"),
        ({"provider": "openai"}, "--model: is missing"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words):
    with pytest.raises(BadSettings, match=words) as error:
        with_options(load_settings(ROOT), **options)
    assert "\n" not in str(error.value)


def test_the_stages_own_file_is_not_written_over(tmp_path):
    done = _luna_generate(tmp_path, "--num-examples", 2, "--out", tmp_path / "data" / "raw.jsonl", *TUTOR)
    assert done.exit_code == 1
    assert "raw.jsonl is the generate stage's own; run `dvc repro generate` or give another path" in done.stderr


def test_a_table_in_markdown():
    assert markdown_table(["a", "b"], [[1, "x"]]) == "| a | b |\n| --- | --- |\n| 1 | x |"

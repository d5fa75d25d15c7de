"""`luna compare-approaches` through the tutor, through a teacher over HTTP, and over the data of a tree."""

import csv
import itertools
import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from luna.cli import app
from luna.compare.prices import Price, price_of
from luna.compare.sample import from_tree
from luna.compare.table import mix_costs, proposed_mix, weak_spots
from luna.compare.trained import Trained, trained_models
from luna.errors import BadRecord, BadSettings
from luna.generate.run import COUNTED
from luna.outputs import write_json
from luna.records import Record, write_records
from luna.settings import Endpoint

ROOT = Path(__file__).parents[2]
MIX = {"self-instruct": 0.4, "curriculum": 0.3, "template": 0.2, "chain-of-thought": 0.1}


@pytest.fixture
def tree(tmp_path):
    """A repo's settings without its git."""
    (tmp_path / "presets").mkdir()
    for name in ("params.yaml", "laws.yaml", "presets/embedded.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    return tmp_path


def _compare(tree, *options):
    done = CliRunner().invoke(app, ["compare-approaches", "--root", str(tree), "--out", str(tree / "out"), *options])
    report = tree / "out" / "approaches.json"
    return done, json.loads(report.read_text()) if report.is_file() else None


def test_a_pilot_through_the_tutor_costs_nothing_and_is_accepted(tree):
    done, report = _compare(tree, "--pilot", "12", "--seed", "1")
    assert done.exit_code == 0, done.output
    assert [row["approach"] for row in report["approaches"]] == [
        "self-instruct",
        "curriculum",
        "chain-of-thought",
        "template",
    ]
    for row in report["approaches"]:
        assert (row["examples"], row["judged"], row["acceptance"]) == (12, 12, 1.0)
        assert row["usd_per_example"] == 0.0
        assert row["eval"] is None
    assert report["mix_usd"]["balanced"] == {"per_example": 0.0, "100": 0.0, "5000": 0.0}
    assert sum(report["proposal"].values()) == pytest.approx(1.0)
    assert "pilot  48 calls, at most about 0.00 USD" in done.stdout
    assert "not measured" in done.stdout
    assert (tree / "out" / "approaches.md").read_text() in done.stdout


def _talkative(messages, count=itertools.count()):  # noqa: B008  # one count for all calls is what is wanted
    """Templates get the same question again and again; an invention is new."""
    number = next(count)
    same = "write a" in messages[1]["content"].casefold()[:10]
    question = (
        f"Task {number} of kind {number * number} wants {number * 31}." if not same or number % 3 == 0 else "Again?"
    )
    return json.dumps({"question": question, "thinking": "t", "answer": "a"})


def test_a_teacher_over_http_is_billed_for_lost_calls_too(tree, loopback_teacher):
    endpoint = loopback_teacher(_talkative)
    address = ["--provider", "hosted_vllm", "--model", "m", "--api-base", endpoint.api_base, "--subject", "code"]
    kinds = ["--approach", "template", "--approach", "self-instruct"]
    done, report = _compare(tree, "--pilot", "3", *kinds, *address, "--price-prompt", "10", "--price-completion", "20")
    assert done.exit_code == 0, done.output
    new, old = report["approaches"]
    assert (new["approach"], old["approach"]) == ("self-instruct", "template")
    assert new["usd_per_example"] == pytest.approx(100 * 10e-6 + 50 * 20e-6)
    assert new["usd_for"] == {"100": pytest.approx(0.2), "5000": pytest.approx(10.0)}
    calls = old["prompt_tokens_per_example"] * 3 / 100
    assert old["duplicates"] == pytest.approx((calls - 3) / calls)
    assert old["usd_per_example"] == pytest.approx(new["usd_per_example"] * calls / 3)
    assert report["mix_usd"]["balanced"] is None, "two approaches of it have no figures"
    assert "times as much" in done.stdout
    rows = list(csv.DictReader((tree / "out" / "approaches.csv").open()))
    assert float(rows[0]["usd_for_5000"]) == pytest.approx(10.0)
    chart = json.loads((tree / "out" / "approaches.vl.json").read_text())
    assert {"approach": "template", "figure": "usd per example", "value": old["usd_per_example"]} in chart["data"][
        "values"
    ]


def test_a_pilot_that_may_cost_too_much_is_refused_before_the_first_call(tree, loopback_teacher):
    asked = []
    endpoint = loopback_teacher(lambda messages: asked.append(messages) or "{}")
    address = ["--provider", "hosted_vllm", "--model", "m", "--api-base", endpoint.api_base, "--subject", "code"]
    done, _ = _compare(tree, "--pilot", "50", *address, "--max-usd", "1")
    assert (done.exit_code, asked) == (1, [])
    assert "its price is not known; set teacher.price, or give --price-prompt and --price-completion" in done.stderr
    done, _ = _compare(
        tree, "--pilot", "50", *address, "--max-usd", "1", "--price-prompt", "3", "--price-completion", "15"
    )
    assert (done.exit_code, asked) == (1, [])
    assert done.stderr.endswith("--max-usd: 1 may not be enough for 200 calls; ask for fewer\n")


def test_prices_are_given_set_known_or_nobodys():
    assert price_of(Endpoint(model="luna-tutor/arithmetic")) == Price(0.0, 0.0)
    mini = Endpoint(model="openai/gpt-4o-mini")
    known = price_of(mini)
    assert known is not None
    assert known.completion > known.prompt > 0
    assert known.usd(1_000_000, 0) == known.prompt
    assert price_of(Endpoint(model="hosted_vllm/gpt-4o-mini")) is None, "your own server has no list price"
    assert price_of(Endpoint(model="hosted_vllm/m", price="free")) == Price(0.0, 0.0)
    own = Endpoint.model_validate({"model": "openai/gpt-4o-mini", "price": {"prompt": 3.0, "completion": 15.0}})
    assert price_of(own) == Price(3.0, 15.0), "what the settings say comes before LiteLLM's table"
    assert price_of(own, 1.0, 2.0) == Price(1.0, 2.0)
    with pytest.raises(BadSettings, match="belong together"):
        price_of(mini, prompt=1.0)


def test_the_price_in_the_settings_is_the_reports(tree):
    """A tree that pays for its teacher by a contract of its own."""
    _write_tree(tree)
    preset = yaml.safe_load((tree / "presets" / "embedded.yaml").read_text())
    preset["teacher"] |= {"model": "hosted_vllm/m", "price": {"prompt": 0.0, "completion": 5.0}}
    (tree / "presets" / "embedded.yaml").write_text(yaml.safe_dump(preset))
    _, report = _compare(tree)
    assert [row["usd_per_example"] for row in report["approaches"]] == [pytest.approx(200 * 5e-6)] * 2


# ---------------------------------------------------------------- the data of a tree


def _record(number, approach, **metadata):
    messages = [{"role": "user", "content": f"Question {number}?"}, {"role": "assistant", "content": "a"}]
    told = {"id": str(number), "approach": approach, "thinking": "t", **metadata}
    return Record.model_validate({"messages": messages, "metadata": told})


def _write_tree(root, per_approach=20):
    """Everything about `debugging` goes wrong in the end; half of what the templates gave is rejected."""
    raw = [
        _record(i, approach, category="debugging" if i % 2 else "testing", thinking_converged=not i % 2)
        for i, approach in enumerate(["self-instruct"] * per_approach + ["template"] * per_approach)
    ]
    rejected = [record for i, record in enumerate(raw[per_approach:]) if i % 2]
    write_records(root / "data" / "raw.jsonl", raw)
    write_records(root / "data" / "rejected.jsonl", rejected)
    write_records(root / "data" / "judged.jsonl", [record for record in raw if record not in rejected])
    counts = dict.fromkeys(COUNTED, 0) | {"examples": per_approach, "calls": per_approach, "completion_tokens": 4000}
    write_json(root / "metrics" / "generate.json", {"by_approach": {"self-instruct": counts, "template": counts}})


def test_the_data_of_a_tree_brings_the_judges_acceptance_and_the_students_weak_spots(tree):
    _write_tree(tree)
    samples = from_tree(tree)
    assert [(one.approach, one.accepted, one.judged) for one in samples] == [
        ("self-instruct", 20, 20),
        ("template", 10, 20),
    ]
    [weak] = weak_spots(samples)
    assert (weak["name"], weak["mastered"], weak["overall"], weak["n"]) == ("debugging", 0.0, 0.5, 20)
    done, report = _compare(tree, "--price-prompt", "1", "--price-completion", "5")
    assert done.exit_code == 0, done.output
    assert "  focus: {debugging: 2}" in done.stdout
    assert report["approaches"][1]["usd_per_accepted"] == pytest.approx(2 * 200 * 5e-6)
    assert report["proposal"]["template"] < 0.2
    assert report["proposal"]["curriculum"] == 0.3, "nothing was measured of it"


def test_the_proposal_is_what_params_take(tree):
    _write_tree(tree)
    done, _ = _compare(tree)
    proposal = yaml.safe_load(done.stdout.split("```yaml\n")[1].split("```")[0])
    params = yaml.safe_load((tree / "params.yaml").read_text())
    params["generate"] |= proposal["generate"]
    (tree / "params.yaml").write_text(yaml.safe_dump(params))
    assert _compare(tree)[0].exit_code == 0


def test_records_of_another_run_are_refused(tree):
    _write_tree(tree)
    (tree / "data" / "raw.jsonl").write_text((tree / "data" / "raw.jsonl").read_text().split("\n", 1)[1])
    with pytest.raises(BadRecord, match="counts other records; run `dvc repro generate`"):
        from_tree(tree)


def test_models_of_other_runs_are_listed_by_their_one_approach(tree):
    other = tree / "other"
    (other / "metrics").mkdir(parents=True)
    (other / "params.yaml").write_text("generate: {mix: {template: 1.0}}")
    write_json(other / "metrics" / "eval.json", {"recall": 0.5, "generalize": 0.25})
    [one] = trained_models(tree, [other])
    assert one == Trained(str(other), {"template": 1.0}, 0.5, 0.25)
    assert one.approach == "template"
    assert Trained("x", "balanced", 0.0, 0.0).approach is None
    _write_tree(tree)
    done, report = _compare(tree, "--run", str(other))
    assert [row["eval"] and row["eval"]["generalize"] for row in report["approaches"]] == [None, 0.25]
    assert f"| {other} | template: 1.0 | 0.500 | 0.250 |" in done.stdout
    with pytest.raises(BadSettings, match="give the root of a tree in which"):
        trained_models(tree, [tree / "nowhere"])


# ---------------------------------------------------------------- the proposal


def _row(approach, acceptance=1.0, similarity=0.0, usd=0.0, generalize=None):
    told = None if generalize is None else {"generalize": generalize}
    return {
        "approach": approach,
        "acceptance": acceptance,
        "self_similarity": similarity,
        "usd_per_example": usd,
        "eval": told,
    }


def test_equal_approaches_keep_their_shares():
    assert proposed_mix([_row(approach) for approach in MIX], MIX) == MIX


def test_what_is_accepted_new_and_cheap_gets_more_but_never_more_than_twice():
    half = [_row("self-instruct", 0.5), *(_row(approach) for approach in list(MIX)[1:])]
    assert proposed_mix(half, MIX)["self-instruct"] < 0.3
    assert proposed_mix([_row("self-instruct"), _row("curriculum", similarity=0.9)], MIX)["curriculum"] < 0.3
    cheap = proposed_mix([_row("self-instruct", usd=0.06), _row("template", usd=0.0001)], MIX)
    assert cheap["template"] / cheap["self-instruct"] <= 4 * MIX["template"] / MIX["self-instruct"] + 0.05
    assert cheap["template"] > 0.2
    trained = proposed_mix([_row("self-instruct", generalize=0.2), _row("template", generalize=0.4)], MIX)
    assert trained["template"] > 0.2
    assert sum(trained.values()) == pytest.approx(1.0)


def test_a_mix_costs_what_its_parts_cost():
    rows = [_row("template", usd=0.05), _row("self-instruct", usd=0.06)]
    costs = mix_costs(
        rows, {"half": {"template": 0.5, "self-instruct": 0.5}, "more": {"template": 0.5, "curriculum": 0.5}}
    )
    assert costs["half"] == {
        "per_example": pytest.approx(0.055),
        "100": pytest.approx(5.5),
        "5000": pytest.approx(275),
    }
    assert costs["more"] is None

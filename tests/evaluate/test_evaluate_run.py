"""The evaluate stage on tiny models: complete metrics, fair pairs, laws that are counted."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from luna.errors import LunaError
from luna.eval_set.items import ITEMS, eval_set_sha256, read_items, read_voice
from luna.evaluate.how import evaluator_sha256
from luna.evaluate.run import Evaluated, evaluate
from luna.records import Record, read_lines, write_lines
from luna.settings import Settings

Make = Callable[..., Settings]
WEIGHTS = Path("models/luna/model.safetensors")


def _plant(monkeypatch: pytest.MonkeyPatch, reply: Callable[[int, str], str]) -> None:
    """Every model answers item `i` by `reply(i, right answer)`, in the place of its sampling."""

    def sample(model: Any, tokenizer: Any, prompts: list[list[int]], *_: Any) -> list[str]:
        items = read_items(Path("data/eval"))
        return [reply(number, item.answer) for number, item in enumerate(items)]

    monkeypatch.setattr("luna.evaluate.asking.sample_replies", sample)


def _count(evaluated: Evaluated, law: str) -> int:
    return sum(broken["law"] == law for broken in evaluated.metrics["laws_broken"])


def test_a_tiny_model_is_evaluated_in_full(
    grown_root: Path, tiny_settings: Make, accepted_records: list[Record]
) -> None:
    evaluated = evaluate(tiny_settings(), accepted_records, grown_root)
    metrics = evaluated.metrics
    assert metrics.keys() >= {
        "recall",
        "generalize",
        "tone_drift",
        "law_violations",
        "n",
        "interval",
        "models",
        "paired",
        "same_weights",
        "eval_set_sha256",
        "parameters",
    }
    assert metrics["n"] == {"recall": 14, "generalize": 8}
    assert metrics["models"].keys() == metrics["paired"].keys() == {"sft", "parent", "base"}
    assert metrics["eval_set_sha256"] == eval_set_sha256(Path("data/eval"))
    assert ["parent", "base"] in metrics["same_weights"]
    assert metrics["parameters"] > 0
    for suite in ("recall", "generalize"):
        low, high = metrics["interval"][suite]
        assert low <= metrics[suite] <= high
    json.dumps(metrics, allow_nan=False)
    assert evaluated.speed.keys() >= {"child", "sft", "parent", "base", "peak_memory_mb"}
    assert len(evaluated.replies) == 22


def test_identical_models_differ_by_nothing(
    grown_root: Path, tiny_settings: Make, accepted_records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant(monkeypatch, lambda number, answer: answer if number % 2 else "no")
    metrics = evaluate(tiny_settings(), accepted_records, grown_root).metrics
    assert metrics["recall"] == metrics["generalize"] == 0.5
    for suites in metrics["paired"].values():
        for found in suites.values():
            assert (found["delta"], found["low"], found["high"], found["p"]) == (0.0, 0.0, 0.0, 1.0)
            assert found["detectable"] > 0


def test_a_later_attempt_has_wider_intervals_and_says_so(
    grown_root: Path, tiny_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for attempt in (1, 3):
        turn = iter(range(3))  # child, fine-tuned model, parent

        def sample(*_: Any, turn: Any = turn) -> list[str]:
            asked = next(turn)
            return [item.answer if (n + asked) % 3 else "no" for n, item in enumerate(read_items(Path("data/eval")))]

        monkeypatch.setattr("luna.evaluate.asking.sample_replies", sample)
        found.append(evaluate(tiny_settings({"attempt": attempt}), [], grown_root).metrics)
    first, third = found
    assert (first["confidence"], third["confidence"]) == (0.95, pytest.approx(0.98333, abs=1e-5))
    usual, strict = (one["paired"]["parent"]["recall"] for one in found)
    assert strict["low"] < usual["low"] < usual["high"] < strict["high"]
    assert strict["detectable"] > usual["detectable"]
    assert (usual["n"], usual["delta"], usual["p"]) == (14, strict["delta"], strict["p"])
    assert first["interval"] == third["interval"]


def test_every_model_says_how_it_was_asked(
    grown_root: Path, tiny_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant(monkeypatch, lambda number, answer: answer)
    preset = tiny_settings().preset
    half = tiny_settings(None, {"model": preset.model.model_copy(update={"dtype": "bfloat16"})})
    usual, other = (evaluate(settings, [], grown_root).metrics["how"] for settings in (tiny_settings(), half))
    assert usual.keys() == {"child", "sft", "parent", "base"}
    assert usual["child"] == usual["parent"] == usual["base"]
    child = usual["child"]
    assert child["eval_set_sha256"] == eval_set_sha256(Path("data/eval"))
    assert child["evaluator_sha256"] == evaluator_sha256()
    assert child["items"] == {"recall": 14, "generalize": 8}
    assert child["decoding"] == {"temperature": 0.0, "max_new_tokens": 8, "batch_size": 64, "seed": 0}
    assert child["engine"].keys() == {"torch", "transformers", "threads", "device"}
    assert {key for key in child if child[key] != other["child"][key]} == {"dtype"}
    assert (child["dtype"], other["child"]["dtype"]) == ("float32", "bfloat16")


def test_a_child_with_another_chat_template_shows(
    grown_root: Path, tiny_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant(monkeypatch, lambda number, answer: answer)
    template = Path("models/luna/chat_template.jinja")
    template.write_text("{# mine #}" + template.read_text())
    how = evaluate(tiny_settings(), [], grown_root).metrics["how"]
    assert {key for key in how["child"] if how["child"][key] != how["parent"][key]} == {"chat_template_sha256"}


def test_a_parent_stands_by_the_eval_set_that_promoted_it(
    grown_root: Path, tiny_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant(monkeypatch, lambda number, answer: answer)
    path = Path("models/teachers/teachers.json")
    teachers = json.loads(path.read_text())
    for said in ({"eval_set_sha256": "0" * 64}, {"eval_set_sha256": None}, {}):
        parent = {"gen": "Luna-G001", "source": "tag", "path": "models/sft", **said}
        path.write_text(json.dumps({**teachers, "parent": parent}))
        how = evaluate(tiny_settings(), [], grown_root).metrics["how"]
        assert how["parent"]["eval_set_sha256"] == said.get("eval_set_sha256")
        assert how["child"] == how["sft"] == how["base"]


def test_models_of_the_same_weights_are_known_even_in_two_places(
    grown_root: Path, tiny_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant(monkeypatch, lambda number, answer: answer)
    assert ["child", "parent"] in evaluate(tiny_settings(), [], grown_root).metrics["same_weights"]
    save_file({**load_file(WEIGHTS), "extra": torch.zeros(1)}, WEIGHTS, metadata={"format": "pt"})
    same = evaluate(tiny_settings(), [], grown_root).metrics["same_weights"]
    assert ["sft", "parent"] in same
    assert not any("child" in pair for pair in same)


def test_the_version_of_the_evaluator_is_its_sources(tmp_path: Path) -> None:
    for name in ("answers.py", "evaluate/asking.py", "lm/sample.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a")
    first = evaluator_sha256(tmp_path)
    (tmp_path / "elsewhere.py").write_text("b")
    assert evaluator_sha256(tmp_path) == first
    (tmp_path / "evaluate" / "asking.py").write_text("b")
    assert evaluator_sha256(tmp_path) != first


def test_an_evaluation_repeats(grown_root: Path, tiny_settings: Make, accepted_records: list[Record]) -> None:
    first, again = (evaluate(tiny_settings(), accepted_records, grown_root) for _ in range(2))
    assert (first.metrics, first.replies, first.families) == (again.metrics, again.replies, again.families)


def test_right_and_wrong_replies_are_told_apart(
    grown_root: Path, tiny_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ["{}", "<think>\n1\n</think>\nIt is {}.", "<think>\n{}", "{}0", "<think>\n{}\n</think>\nno idea"]
    right = [True, True, False, False, False]
    _plant(monkeypatch, lambda number, answer: said[number % 5].format(answer))
    evaluated = evaluate(tiny_settings(), [], grown_root)
    assert [row["right"] for row in evaluated.replies] == [right[number % 5] for number in range(22)]
    assert evaluated.metrics["recall"] == pytest.approx(sum(right[n % 5] for n in range(14)) / 14)


def test_families_add_up_to_their_suites(
    grown_root: Path, tiny_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant(monkeypatch, lambda number, answer: answer if number % 3 else "no")
    evaluated = evaluate(tiny_settings(), [], grown_root)
    items = read_items(Path("data/eval"))
    assert {(row["suite"], row["family"]) for row in evaluated.families} == {(i.suite, i.family) for i in items}
    for row in evaluated.families:
        alike = [r["right"] for r in evaluated.replies if (r["suite"], r["family"]) == (row["suite"], row["family"])]
        assert row["n"] == len(alike)
        assert row["child"] == row["sft"] == row["parent"] == row["base"] == pytest.approx(sum(alike) / len(alike))
    for suite in ("recall", "generalize"):
        rows = [row for row in evaluated.families if row["suite"] == suite]
        assert sum(row["n"] for row in rows) == evaluated.metrics["n"][suite]
        right = sum(row["n"] * row["child"] for row in rows)
        assert right / sum(row["n"] for row in rows) == pytest.approx(evaluated.metrics[suite])


# ---------------------------------------------------------------- laws and tone


def _spoiled(record: Record, **changes: Any) -> Record:
    return record.model_copy(update=changes)


def test_clean_data_and_replies_break_no_law(
    grown_root: Path, tiny_settings: Make, accepted_records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant(monkeypatch, lambda number, answer: f"<think>\nso {answer}\n</think>\n{answer}")
    metrics = evaluate(tiny_settings(), accepted_records, grown_root).metrics
    assert (metrics["law_violations"], metrics["laws_broken"]) == (0, [])


@pytest.mark.parametrize("where", ["message", "hint", "thinking", "attempt"])
def test_a_law_broken_in_the_training_data_is_counted_once_with_its_record(
    grown_root: Path,
    tiny_settings: Make,
    accepted_records: list[Record],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    """Whatever of a record is trained on counts: its turns, its hints, its thinking and its final attempt."""
    _plant(monkeypatch, lambda number, answer: answer)
    record = accepted_records[2].model_copy(deep=True)
    law = "taboo-words"
    if where == "message":
        record.messages[0].content += " Leverage it!"
    elif where == "thinking":
        record.metadata["thinking"] = "Let us optimize."
    elif where == "attempt":
        last = record.metadata["attempts"][-1]
        last["attempt"] = last["attempt"].replace("<think>\n", "<think>\nSynergy first.\n")
    else:
        record.metadata["attempts"][0]["hint"] = f"It is {record.answer}, of course."
        law = "hint-reveals-answer"
    preset = tiny_settings().preset
    thinking = "iterative" if where == "thinking" else "final"
    settings = tiny_settings(None, {"lessons": preset.lessons.model_copy(update={"thinking": thinking})})
    evaluated = evaluate(settings, [*accepted_records[:2], record], grown_root)
    assert evaluated.metrics["law_violations"] == _count(evaluated, law) == 1
    assert evaluated.metrics["laws_broken"][0]["where"] == "r2"


@pytest.mark.parametrize(
    ("reply", "law"),
    [
        ("<think>\n5", "unclosed-thinking"),
        ("<think>\n5\n</think>\n", "empty-reply"),
        ("5 <|im_start|>", "template-markers"),
    ],
)
def test_a_law_broken_in_a_reply_is_counted_for_each_reply(
    grown_root: Path, tiny_settings: Make, monkeypatch: pytest.MonkeyPatch, reply: str, law: str
) -> None:
    _plant(monkeypatch, lambda number, answer: reply if number < 3 else answer)
    evaluated = evaluate(tiny_settings(), [], grown_root)
    assert _count(evaluated, law) == 3
    assert evaluated.metrics["law_violations"] >= 3


def test_the_reference_voice_itself_drifts_little_and_corporate_speak_much(
    grown_root: Path, tiny_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    voice = read_voice(Path("data/eval"))
    voices = voice * (22 // len(voice) + 1)
    _plant(monkeypatch, lambda number, answer: "\n".join(voices[number::22]))
    calm = evaluate(tiny_settings(), [], grown_root).metrics["tone_drift"]
    _plant(monkeypatch, lambda number, answer: "Let us leverage our core synergies going forward. " * 20 + answer)
    loud = evaluate(tiny_settings(), [], grown_root).metrics["tone_drift"]
    assert calm < 0.05 < 0.3 < loud <= 1.0


def test_a_model_that_says_no_word_has_no_tone(
    grown_root: Path, tiny_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant(monkeypatch, lambda number, answer: "...")
    metrics = evaluate(tiny_settings(), [], grown_root).metrics
    assert metrics["tone_drift"] is None
    assert not any(isinstance(value, float) and math.isnan(value) for value in metrics.values())


def test_an_eval_set_without_a_suite_is_refused(grown_root: Path, tiny_settings: Make) -> None:
    path = Path("data/eval") / ITEMS
    write_lines(path, [row for row in read_lines(path) if row["suite"] == "recall"])
    with pytest.raises(LunaError, match=r"^data/eval: holds no generalize item; raise evaluate\.generalize_items"):
        evaluate(tiny_settings(), [], grown_root)

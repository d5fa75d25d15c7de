"""Who stays as it is is asked once, and nobody can tell by the results; what was kept for another question is not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import torch
from safetensors.torch import load_file, save_file

from luna.eval_set.items import EvalItem, read_items
from luna.evaluate import run
from luna.evaluate.kept_replies import FOLDER, kept_file
from luna.evaluate.run import Evaluated, evaluate
from luna.lm.load import add_adapter, load_model, save_model
from luna.lm.sample import sample_replies
from luna.outputs import write_json
from luna.settings import Lora, Settings

Make = Callable[..., Settings]
KEPT = Path(".luna") / FOLDER
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def right_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights say nothing right: here what they say decides by its hash whether the right answer follows."""

    def sample(model: Any, tokenizer: Any, prompts: Any, *how: Any) -> list[str]:
        replies = sample_replies(model, tokenizer, prompts, *how)
        both = zip(read_items(Path("data/eval")), replies, strict=True)
        return [item.answer if crc32(f"{item.id} {reply}".encode()) % 2 else "no" for item, reply in both]

    monkeypatch.setattr("luna.evaluate.asking.sample_replies", sample)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of those who are asked, in turn."""
    names: list[str] = []
    ask = run.ask

    def noting(settings: Any, loaded: Any, items: Any, name: str) -> Any:
        names.append(name)
        return ask(settings, loaded, items, name)

    monkeypatch.setattr(run, "ask", noting)
    return names


def _train(folder: str, seed: int) -> None:
    """Other weights."""
    path = Path(folder) / "model.safetensors"
    weights = load_file(path)
    generator = torch.Generator().manual_seed(seed)
    moved = {name: tensor + torch.randn(tensor.shape, generator=generator) for name, tensor in weights.items()}
    save_file(moved, path, metadata={"format": "pt"})


def _open_the_next_generation() -> None:
    """The child becomes the parent, as its tag brings it back; the new child and its first rung have other weights."""
    shutil.copytree("models/luna", "models/teachers/parent")
    teachers = json.loads(Path("models/teachers/teachers.json").read_text())
    parent = {"gen": "Luna-G001", "source": "tag", "path": "models/teachers/parent", "eval_set_sha256": None}
    write_json(Path("models/teachers/teachers.json"), {**teachers, "parent": parent})
    _train("models/sft", 2)
    _train("models/luna", 3)


def _same_results(one: Evaluated, other: Evaluated) -> bool:
    """Equal to the byte, as the stage writes them."""
    write_json(Path("one.json"), one.metrics)
    write_json(Path("other.json"), other.metrics)
    same_bytes = Path("one.json").read_bytes() == Path("other.json").read_bytes()
    return same_bytes and (one.replies, one.families) == (other.replies, other.families)


def test_a_second_generation_asks_only_what_is_new(grown_root: Path, tiny_settings: Make, asked: list[str]) -> None:
    _train("models/luna", 1)
    evaluate(tiny_settings(), [], grown_root)
    assert asked == ["child", "sft", "parent"]  # the parent is the base
    _open_the_next_generation()
    kept = evaluate(tiny_settings(), [], grown_root)
    assert asked[3:] == ["child", "sft"]
    shutil.rmtree(KEPT)
    anew = evaluate(tiny_settings(), [], grown_root)
    assert asked[5:] == ["child", "sft", "parent", "base"]
    assert _same_results(kept, anew)
    everybody = ("child", "sft", "parent", "base")
    assert len({tuple(row[name] for row in kept.families) for name in everybody}) == 4


def test_the_speed_of_who_was_not_asked_is_not_made_up(grown_root: Path, tiny_settings: Make) -> None:
    first = evaluate(tiny_settings(), [], grown_root).speed
    again = evaluate(tiny_settings(), [], grown_root).speed
    for speed, name in [(first, name) for name in ("child", "sft", "parent", "base")] + [(again, "child")]:
        assert speed[name].pop("asked") is True
        assert all(figure > 0 for figure in speed[name].values())
        assert speed[name].keys() == {"seconds", "replies_per_second"}
    assert again["parent"] == again["base"] == {"asked": False}


def test_a_child_is_asked_even_where_its_replies_are_kept(
    grown_root: Path, tiny_settings: Make, asked: list[str]
) -> None:
    for _ in range(2):
        evaluate(tiny_settings(), [], grown_root)
    assert asked == ["child", "sft", "parent", "child", "sft"]


@pytest.mark.parametrize("harm", ["cut", "emptied", "edited", "of another model"])
def test_a_damaged_file_is_not_trusted(
    grown_root: Path, tiny_settings: Make, asked: list[str], capsys: pytest.CaptureFixture[str], harm: str
) -> None:
    _train("models/luna", 1)
    whole = evaluate(tiny_settings(), [], grown_root)
    items = read_items(Path("data/eval"))
    file, childs = (kept_file(tiny_settings(), f"models/{name}", items, grown_root) for name in ("base", "luna"))
    assert file is not None
    assert childs is not None
    written = file.read_bytes()
    seal, _, content = written.partition(b"\n")
    said = json.loads(content)
    edited = json.dumps({**said, "replies": [items[0].answer, *said["replies"][1:]]}).encode()
    harmed = {
        "cut": written[: len(written) // 2],
        "emptied": b"",
        "edited": seal + b"\n" + edited,
        "of another model": childs.read_bytes(),
    }
    file.write_bytes(harmed[harm])
    capsys.readouterr()
    again = evaluate(tiny_settings(), [], grown_root)
    assert asked[3:] == ["child", "sft", "parent"]
    assert f"evaluate  {file}: is damaged; parent is asked again\n" in capsys.readouterr().out
    assert _same_results(whole, again)
    assert file.read_bytes() == written


# ---------------------------------------------------------------- what replies depend on


@pytest.fixture
def file_of(grown_root: Path, tiny_settings: Make) -> Callable[..., Path | None]:
    """Where the replies of a model would be kept."""

    def find(settings: Settings | None = None, items: list[EvalItem] | None = None, path: str = "models/luna") -> Any:
        return kept_file(settings or tiny_settings(), path, items or read_items(Path("data/eval")), grown_root)

    return find


def _edit(name: str, old: str, new: str) -> None:
    path = Path("models/luna") / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("chat_template.jinja", "", "{# mine #}"),
        ("config.json", '"num_attention_heads": 2', '"num_attention_heads": 1'),
        ("generation_config.json", "{", '{"x": 1,'),
        ("tokenizer.json", '"version"', ' "version"'),
    ],
)
def test_other_files_of_a_model_are_another_model(file_of: Any, file: str, old: str, new: str) -> None:
    before = file_of()
    assert before == file_of(path="models/sft")
    _edit("README.md", "tiny", "small")
    assert file_of() == before
    _edit(file, old, new)
    assert file_of() != before


def test_other_weights_code_packages_and_threads_are_another_model(
    file_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [file_of()]
    for name, value in (("code_sha256", lambda: "0"), ("version", lambda package: "0")):
        with monkeypatch.context() as patch:
            patch.setattr(f"luna.evaluate.kept_replies.{name}", value)
            files.append(file_of())
    with monkeypatch.context() as patch:
        patch.setattr("torch.get_num_threads", lambda: 64)
        files.append(file_of())
    assert file_of() == files[0]
    _train("models/luna", 1)
    files.append(file_of())
    assert len(set(files)) == 5


def test_other_settings_and_questions_are_asked_anew(file_of: Any, tiny_settings: Make) -> None:
    usual = tiny_settings()
    params, preset = usual.params.evaluate, usual.preset
    evaluations = [params.model_copy(update=changed) for changed in ({"seed": 1}, {"temperature": 0.5})]
    students = [preset.student.model_copy(update=changed) for changed in ({"max_new_tokens": 9}, {"batch_size": 63})]
    settings = [tiny_settings({"evaluate": one}) for one in evaluations]
    settings += [tiny_settings(None, {"student": one}) for one in students]
    settings += [tiny_settings(None, {"model": preset.model.model_copy(update={"dtype": "bfloat16"})})]
    items = read_items(Path("data/eval"))
    others = [items[1:], items[::-1], [items[0]._replace(question="What is 1+1?"), *items[1:]]]
    files = [file_of(), *(file_of(one) for one in settings), *(file_of(None, one) for one in others)]
    assert len(set(files)) == 9
    assert file_of(tiny_settings({"beta": 0.123, "generation": "Luna-G002"})) == files[0]


def test_a_name_of_the_hub_is_asked_unless_it_is_pinned_to_a_commit(file_of: Any, tiny_settings: Make) -> None:
    def at(revision: str | None) -> Path | None:
        model = tiny_settings().preset.model.model_copy(update={"base": "somebody/model", "revision": revision})
        found: Path | None = file_of(tiny_settings(None, {"model": model, "pretrain": None}), path="somebody/model")
        return found

    assert [at(None), at("main"), at(COMMIT[:-1])] == [None] * 3
    assert at(COMMIT) is not None
    assert at(COMMIT) != at(COMMIT[::-1])


def test_an_adapter_is_known_by_its_base_too(file_of: Any, tiny_settings: Make) -> None:
    loaded = load_model("models/base", tiny_settings().preset.model, trainable=True)
    lora = Lora(rank=2, alpha=4)
    model = add_adapter(loaded, lora)
    save_model(model, loaded.tokenizer, Path("models/adapter"), "# adapter\n")
    before = file_of(path="models/adapter")
    template = Path("models/base/chat_template.jinja")
    template.write_text("{# mine #}" + template.read_text())
    assert before is not None
    assert file_of(path="models/adapter") != before
    config = Path("models/adapter/adapter_config.json")
    config.write_text(config.read_text().replace('"models/base"', '"somebody/model"'))
    assert file_of(path="models/adapter") is None

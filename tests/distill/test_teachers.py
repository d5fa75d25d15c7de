"""Frozen teachers: what is kept of them is what they say, nothing is read twice, and adapters share one base."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from luna.distill import teachers as teachers_module
from luna.distill.run import distill
from luna.distill.teacher_cache import TeacherCache, make_room, sample_key
from luna.distill.teachers import AdapterReader, Teacher, load_teachers
from luna.errors import LunaError
from luna.kept import kept_folder
from luna.lm.chat import IGNORE, Example
from luna.lm.load import LoadedModel, add_adapter, load_model, save_model
from luna.lm.reproducible import set_reproducible
from luna.lm.weights import model_key
from luna.records import Record
from luna.settings import Lora, Settings
from luna.train_sft.run import fine_tune
from luna.training.final_states import StatesReader
from luna.training.lessons import encode_lessons

Make = Callable[..., Settings]
WIRED = {"student_init": "sft", "alpha": 0.2, "beta": 0.8}


@pytest.fixture
def frozen(tiny_model_folder: Path, tiny_settings: Make) -> LoadedModel:
    set_reproducible(0, 1)
    return load_model(tiny_model_folder, tiny_settings().preset.model, trainable=False)


@pytest.fixture
def examples(frozen: LoadedModel, accepted_records: list[Record], tiny_settings: Make) -> list[Example]:
    lessons = encode_lessons(frozen.tokenizer, accepted_records, tiny_settings().preset, 0)
    return list({str(lesson["input_ids"]): lesson for lesson in lessons}.values())[:6]


def _batch(examples: list[Example]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids and mask [B, T] padded on the right, and the supervised places [B, T - 1]."""
    longest = max(len(example["input_ids"]) for example in examples)

    def padded(rows: list[list[int]], fill: int) -> torch.Tensor:
        return torch.tensor([row + [fill] * (longest - len(row)) for row in rows])

    ids_BT = padded([example["input_ids"] for example in examples], 0)
    mask_BT = padded([[1] * len(example["input_ids"]) for example in examples], 0)
    labels_BT = padded([example["labels"] for example in examples], IGNORE)
    return ids_BT, mask_BT, labels_BT[:, 1:] != IGNORE


# ---------------------------------------------------------------- kept states


def test_kept_states_are_what_the_teacher_says_and_nothing_is_read_twice(
    tmp_path: Path, frozen: LoadedModel, examples: list[Example]
) -> None:
    batch = _batch(examples)
    told = Teacher(StatesReader(frozen.model))(*batch)
    first = Teacher(StatesReader(frozen.model), TeacherCache(tmp_path / "t"))
    computed = first(*batch)
    first.finish()
    torch.testing.assert_close(computed.logits(), told.logits(), rtol=1e-4, atol=1e-5)
    again = Teacher(StatesReader(frozen.model), TeacherCache(tmp_path / "t"))
    other_order = [examples[i] for i in (3, 0, 5)]
    assert torch.equal(again(*batch).hidden_ND, computed.hidden_ND)
    again(*_batch(other_order))  # another layout of the same samples
    assert (first.read, first.kept, again.read, again.kept) == (6, 0, 0, 9)


def test_other_places_of_the_same_sample_are_another_sample(frozen: LoadedModel, examples: list[Example]) -> None:
    ids_BT, _, chosen_BT = _batch(examples[:1])
    other_BT = chosen_BT.clone()
    other_BT[0, -1] ^= True
    assert sample_key(ids_BT[0], chosen_BT[0]) != sample_key(ids_BT[0], other_BT[0])
    assert sample_key(ids_BT[0], chosen_BT[0]) == sample_key(ids_BT[0].int(), chosen_BT[0])


def test_a_shard_that_was_not_finished_is_not_read(tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path / "t")
    cache.put("a", torch.ones(2, 3))
    cache.write()
    (tmp_path / "t" / "half.new").write_bytes(b"torn")
    assert len(TeacherCache(tmp_path / "t")) == 1
    assert TeacherCache(tmp_path / "t").get("b") is None


def test_other_weights_or_dtype_are_another_teacher(
    tmp_path: Path, frozen: LoadedModel, tiny_model_folder: Path, tiny_settings: Make
) -> None:
    model = tiny_settings().preset.model
    keys = {model_key(str(tiny_model_folder), model)}
    assert model_key(str(tiny_model_folder), model) in keys
    keys.add(model_key(str(tiny_model_folder), model.model_copy(update={"dtype": "bfloat16"})))
    with torch.no_grad():
        next(frozen.model.parameters()).add_(1e-3)
    save_model(frozen.model, frozen.tokenizer, tmp_path / "changed", "# changed\n")
    keys.add(model_key(str(tmp_path / "changed"), model))
    assert len(keys) == 3


def test_those_unused_for_longest_make_room(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "old", "mine")):
        cache = TeacherCache(tmp_path / name)
        cache.put("a", torch.ones(100, 10))
        cache.write()
        os.utime(tmp_path / name, times=(time.time() - 1000 * age,) * 2)
    make_room(tmp_path, 8000, 13_000, {"mine"})
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["mine", "new"]
    message = r"^params\.yaml: distill\.teacher_cache_gb: .* raise it, or set it to 0 to have"
    with pytest.raises(LunaError, match=message):
        make_room(tmp_path, 14_000, 13_000, {"mine"})
    with pytest.raises(LunaError, match=r"the disk has .*; make room, or set distill\.teacher_cache_gb to 0"):
        make_room(tmp_path, 10**18, 10**18, {"mine"})


@pytest.mark.parametrize("around", [".dvc/tmp/exps/tmpabc", ".luna/rebuild/Luna-G001"])
def test_work_trees_for_a_while_share_what_the_repo_keeps(tmp_path: Path, around: str) -> None:
    (tmp_path / "dvc.yaml").touch()
    inner = tmp_path / around
    inner.mkdir(parents=True)
    (inner / "dvc.yaml").touch()
    assert kept_folder(inner) == tmp_path / ".luna"
    assert kept_folder(tmp_path) == tmp_path / ".luna"


# ---------------------------------------------------------------- in distillation


@pytest.fixture
def with_sft(luna_root: Path, frozen: LoadedModel) -> Path:
    """A root whose SFT rung differs from its base."""
    with torch.no_grad():
        for parameter in frozen.model.parameters():
            parameter.mul_(1.05)
    save_model(frozen.model, frozen.tokenizer, Path("models/sft"), "# sft\n")
    return luna_root


def _distilled(settings: Settings, root: Path, records: list[Record], name: str) -> dict[str, torch.Tensor]:
    distill(settings, records, root, Path(f"models/{name}"), Path("scratch"))
    return load_file(f"models/{name}/model.safetensors")


def test_another_beta_asks_no_teacher_and_kept_states_change_no_byte(
    with_sft: Path, tiny_settings: Make, accepted_records: list[Record], capsys: pytest.CaptureFixture[str]
) -> None:
    other = tiny_settings({**WIRED, "beta": 0.3})
    _distilled(tiny_settings(WIRED), with_sft, accepted_records, "first")
    assert "samples read by T1 11, by T2 11; kept before 1, 1" in capsys.readouterr().out  # one question comes twice
    kept = _distilled(other, with_sft, accepted_records, "kept")
    assert "samples read by T1 0, by T2 0; kept before 12, 12" in capsys.readouterr().out
    for shard in Path(".luna/teacher_states").glob("*/*"):
        shard.unlink()
    fresh = _distilled(other, with_sft, accepted_records, "fresh")
    assert "samples read by T1 11" in capsys.readouterr().out
    assert all(torch.equal(kept[name], fresh[name]) for name in fresh)


def test_without_a_budget_nothing_is_kept(
    with_sft: Path, tiny_settings: Make, accepted_records: list[Record], capsys: pytest.CaptureFixture[str]
) -> None:
    dials = tiny_settings().params.distill.model_copy(update={"teacher_cache_gb": 0.0})
    _distilled(tiny_settings({**WIRED, "distill": dials}), with_sft, accepted_records, "child")
    assert "samples read by T1 12, by T2 12; kept before 0, 0" in capsys.readouterr().out
    assert not Path(".luna/teacher_states").exists()


# ---------------------------------------------------------------- one base, three adapters


@pytest.fixture
def adapted(tmp_path: Path, tiny_model_folder: Path, tiny_settings: Make) -> tuple[Settings, LoadedModel, list[str]]:
    """A student with an adapter of its own, and two teachers that are adapters on the same base."""
    model = tiny_settings().preset.model.model_copy(update={"lora": Lora(rank=2, alpha=4, target_modules="all-linear")})
    settings = tiny_settings({**WIRED}, {"model": model})

    def fresh(seed: int) -> LoadedModel:
        set_reproducible(seed, 1)
        loaded = load_model(str(tiny_model_folder), model, trainable=True)
        network: Any = add_adapter(loaded, model.lora)
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        return LoadedModel(network, loaded.tokenizer, model)

    paths = [str(tmp_path / "one"), str(tmp_path / "two")]
    for seed, path in enumerate(paths):
        other = fresh(seed)
        save_model(other.model, other.tokenizer, Path(path), "# teacher\n")
    return settings, fresh(2), paths


def _alone(settings: Settings, path: str) -> StatesReader:
    return StatesReader(load_model(path, settings.preset.model, trainable=False).model)


def test_adapters_on_the_students_base_say_what_they_say_alone(
    tmp_path: Path, adapted: tuple[Settings, LoadedModel, list[str]], examples: list[Example]
) -> None:
    settings, student, paths = adapted
    before = sum(parameter.numel() for parameter in student.model.parameters())
    one_adapter = sum(p.numel() for name, p in student.model.named_parameters() if "lora_" in name)
    teachers = load_teachers(settings, student, paths, examples, tmp_path)
    assert all(isinstance(teacher.reader, AdapterReader) for teacher in teachers)
    assert sum(parameter.numel() for parameter in student.model.parameters()) == before + 2 * one_adapter
    batch = _batch(examples)
    for teacher, path in zip(teachers, paths, strict=True):
        assert torch.equal(teacher.reader.read(*batch).hidden_ND, _alone(settings, path).read(*batch).hidden_ND)


def test_the_bare_base_can_teach_its_adapter(
    tmp_path: Path,
    adapted: tuple[Settings, LoadedModel, list[str]],
    examples: list[Example],
    tiny_model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings, student, paths = adapted
    alone = _alone(settings, str(tiny_model_folder))
    monkeypatch.setattr(teachers_module, "load_model", None)  # nothing is loaded a second time
    _, critic = load_teachers(settings, student, [paths[0], str(tiny_model_folder)], examples, tmp_path)
    batch = _batch(examples)
    assert torch.equal(critic.reader.read(*batch).hidden_ND, alone.read(*batch).hidden_ND)


def test_after_a_teacher_has_spoken_the_student_learns_and_alone_is_saved(
    tmp_path: Path, adapted: tuple[Settings, LoadedModel, list[str]], examples: list[Example]
) -> None:
    settings, student, paths = adapted
    primary, _ = load_teachers(settings, student, paths, examples, tmp_path)
    batch = _batch(examples)
    own = StatesReader(student.model)
    before = own.read(*batch).hidden_ND.detach()
    student.model.train()
    primary(*batch)
    assert student.model.training
    after = own.read(*batch).hidden_ND
    assert torch.equal(before, after)
    after.sum().backward()
    learning = {name for name, p in student.model.named_parameters() if p.grad is not None}
    assert learning == {name for name, _ in student.model.named_parameters() if ".default." in name}
    save_model(student.model, student.tokenizer, tmp_path / "child", "# child\n")
    assert not list((tmp_path / "child").glob("t[12]"))
    names = load_file(tmp_path / "child" / "adapter_model.safetensors")
    assert len(names) == len(learning)


def test_one_path_is_one_teacher(
    tmp_path: Path, adapted: tuple[Settings, LoadedModel, list[str]], examples: list[Example]
) -> None:
    settings, student, paths = adapted
    primary, critic = load_teachers(settings, student, [paths[0]] * 2, examples, tmp_path)
    assert primary is critic


def _base_weights(model: Any) -> dict[str, int]:
    """Where each weight of the base lies in memory."""
    return {name: p.data_ptr() for name, p in model.named_parameters() if "lora_" not in name}


@pytest.mark.parametrize("four_bit", [False, True], ids=["float32", "4 bits"])
def test_a_generation_of_adapters_has_its_base_in_memory_once_and_publishes_its_own_adapter_alone(
    luna_root: Path,
    tiny_settings: Make,
    accepted_records: list[Record],
    four_bit: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Student, SFT rung and parent are three adapters on one base, through both rungs as the stages run them."""
    more = {"lora": Lora(rank=2, alpha=4), "load_in_4bit": four_bit}
    model = tiny_settings().preset.model.model_copy(update=more)
    settings = tiny_settings(WIRED, {"model": model})
    fine_tune(settings, accepted_records[:6], luna_root, Path("models/parent"), Path("s"))
    known = {"gen": "Luna-G001", "source": "tag", "path": "models/parent"}
    Path("models/teachers/teachers.json").write_text(json.dumps({"parent": known, "grandparent": known}))
    fine_tune(settings, accepted_records, luna_root, Path("models/sft"), Path("s"))
    found: list[tuple[Teacher, Teacher]] = []

    def watched(settings: Settings, student: LoadedModel, *rest: Any) -> tuple[Teacher, Teacher]:
        before = _base_weights(student.model)
        found.append(load_teachers(settings, student, *rest))
        for teacher in found[-1]:
            assert isinstance(teacher.reader, AdapterReader)
            assert teacher.reader.model is student.model
        assert _base_weights(student.model) == before
        assert any("Linear4bit" in type(part).__name__ for part in student.model.modules()) == four_bit
        return found[-1]

    monkeypatch.setattr("luna.distill.run.load_teachers", watched)
    distill(settings, accepted_records, luna_root, Path("models/luna"), Path("s"))
    [(primary, _)] = found
    assert isinstance(primary.reader, AdapterReader)
    assert set(primary.reader.model.peft_config) == {"default", "t1", "t2"}
    weights = [load_file(f"models/{name}/adapter_model.safetensors") for name in ("luna", "sft", "parent")]
    assert weights[0].keys() == weights[1].keys()
    assert all("lora_" in name and weight.dtype == torch.float32 for name, weight in weights[0].items())
    assert [path.name for path in Path("models/luna").rglob("*.safetensors")] == ["adapter_model.safetensors"]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(not torch.equal(weights[1][name], weights[2][name]) for name in weights[0])

"""The distillation trainer and stage on tiny models: loss, shares, frozen teachers, full weights and adapters."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import TrainerCallback

from luna.distill.loss import Blend
from luna.distill.run import distill
from luna.distill.teachers import Teacher
from luna.distill.trainer import SHARES, DistillTrainer
from luna.errors import BadRecord, BadSettings
from luna.lm.chat import IGNORE, Example
from luna.lm.load import LoadedModel, add_adapter, load_model, save_model
from luna.lm.reproducible import set_reproducible
from luna.records import Record
from luna.settings import Lora, Replay, Settings, Training, load_settings
from luna.train_sft.examples import gather_examples
from luna.train_sft.run import fine_tune
from luna.training.final_states import StatesReader
from luna.training.lessons import encode_lessons
from luna.training.trainer import StepLog, TokenTrainer, make_trainer

REPO = Path(__file__).parents[2]
TEACHING = {"alpha": 0.1, "beta": 0.9, "gamma": 0.0}
Make = Callable[..., Settings]


@pytest.fixture(scope="module")
def other_model_folder(tiny_model_folder: Path, tiny_settings: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same architecture with other, stronger weights."""
    loaded = load_model(tiny_model_folder, tiny_settings().preset.model, trainable=True)
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("other") / "model"
    save_model(loaded.model, loaded.tokenizer, folder, "# other\n")
    return folder


@pytest.fixture
def load(tiny_model_folder: Path, other_model_folder: Path, tiny_settings: Make) -> Callable[..., LoadedModel]:
    """A fresh copy of the tiny model or of the other one; trainable unless frozen."""

    def make(*, other: bool = False, frozen: bool = False) -> LoadedModel:
        set_reproducible(0, 1)
        folder = other_model_folder if other else tiny_model_folder
        return load_model(folder, tiny_settings().preset.model, trainable=not frozen)

    return make


@pytest.fixture
def examples(load: Callable[..., LoadedModel], accepted_records: list[Record], tiny_settings: Make) -> list[Example]:
    return encode_lessons(load().tokenizer, accepted_records, tiny_settings().preset, 0)[:12]


def _blend(settings: Settings, **dials: Any) -> Blend:
    params = settings.params.model_copy(update={**TEACHING, "temperature": 2.0})
    return Blend(**{**Blend.from_params(params).__dict__, **dials})


def _trainer(
    student: LoadedModel,
    examples: list[Example],
    folder: Path,
    teachers: tuple[Any, Any] | None,
    blend: Blend | None,
    log_every: int = 1,
    **training: Any,
) -> tuple[Any, StepLog]:
    quick = {"learning_rate": 1e-3, "max_steps": 2, "batch_size": 4, "gradient_accumulation": 1, "warmup_ratio": 0.0}
    extra: dict[str, Any] = {}
    if teachers is not None:
        primary, critic = (Teacher(StatesReader(model)) for model in teachers)
        critic = primary if teachers[0] is teachers[1] else critic
        extra = {"primary": primary, "critic": critic, "blend": blend, "taboo_ids": None}
    return make_trainer(
        TokenTrainer if teachers is None else DistillTrainer,
        student.model,
        student.tokenizer,
        examples,
        Training.model_validate({**quick, **training}),
        title="test",
        output_dir=folder,
        seed=0,
        log_every=log_every,
        **extra,
    )


def _copies(model: Any) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def _equal(model: Any, before: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(model.parameters(), before, strict=True))


def test_shares_add_up_and_count_every_supervised_token_of_the_run(
    tmp_path: Path, load: Callable[..., LoadedModel], examples: list[Example], tiny_settings: Make
) -> None:
    """Three steps of four examples are the whole data, and two steps are logged at most."""
    teachers = (load(other=True, frozen=True).model, load(frozen=True).model)
    dials = {"js_threshold": 0.128, "confidence_threshold": 0.028}  # about the medians of these two
    trainer, log = _trainer(
        load(), examples, tmp_path, teachers, _blend(tiny_settings(), **dials), log_every=2, max_steps=3
    )
    trainer.train()
    for row in log.rows:
        assert sum(row[name] for name in SHARES.values()) == pytest.approx(1.0)
    assert (trainer.branch_counts > 0).sum() == 3
    supervised = sum(label != IGNORE for example in examples for label in example["labels"])
    assert int(trainer.branch_counts.sum()) == supervised


def test_the_parts_of_the_loss_are_logged_and_make_the_loss(
    tmp_path: Path, load: Callable[..., LoadedModel], examples: list[Example], tiny_settings: Make
) -> None:
    teachers = (load(other=True, frozen=True).model, load(frozen=True).model)
    blend = _blend(tiny_settings(), gamma=0.5, residual="agreement")
    trainer, log = _trainer(load(), examples, tmp_path, teachers, blend, batch_size=2, gradient_accumulation=3)
    trainer.train()
    for row in log.rows:
        whole = 0.1 * row["loss_ce"] + 0.9 * row["loss_kd"] + 0.5 * row["loss_residual"]
        assert row["loss"] == pytest.approx(whole, rel=1e-4)
    assert log.rows[0]["loss_residual"] > 0


@pytest.mark.parametrize("batch", [1, 2])
def test_one_by_eight_is_eight_by_one(
    tmp_path: Path, load: Callable[..., LoadedModel], examples: list[Example], tiny_settings: Make, batch: int
) -> None:
    """Steps of eight and of the four examples that are left, over three epochs; every branch has its tokens."""
    seen = []
    for size in (batch, 8):
        student, teachers = load(), (load(other=True, frozen=True).model, load(frozen=True).model)
        dials = {"gamma": 0.5, "residual": "agreement", "js_threshold": 0.128, "confidence_threshold": 0.028}
        cut = {"batch_size": size, "gradient_accumulation": 8 // size, "max_steps": 6, "scheduler": "constant"}
        blend = _blend(tiny_settings(), **dials)
        trainer, log = _trainer(student, examples, tmp_path / str(size), teachers, blend, **cut)
        trainer.train()
        seen.append((student.model, trainer, log))
    (model, cut_up, log), (whole_model, whole, whole_log) = seen
    for row, twin in zip(log.rows, whole_log.rows, strict=True):
        assert row == pytest.approx(twin, rel=1e-5, abs=2e-6)
    assert torch.equal(cut_up.branch_counts, whole.branch_counts)
    for one, other in zip(model.parameters(), whole_model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_alpha_alone_is_fine_tuning(
    tmp_path: Path, load: Callable[..., LoadedModel], examples: list[Example], tiny_settings: Make
) -> None:
    teachers = (load(other=True, frozen=True).model, load(frozen=True).model)
    blend = _blend(tiny_settings(), alpha=1.0, beta=0.0, gamma=0.0)
    student, plain = load(), load()
    trainer, log = _trainer(student, examples, tmp_path / "kd", teachers, blend)
    trainer.train()
    sft, sft_log = _trainer(plain, examples, tmp_path / "sft", None, None)
    sft.train()
    assert [row["loss"] for row in log.rows] == pytest.approx([row["loss"] for row in sft_log.rows], rel=1e-5)
    for one, other in zip(student.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-4)


def test_teachers_are_neither_changed_nor_given_gradients(
    tmp_path: Path, load: Callable[..., LoadedModel], examples: list[Example], tiny_settings: Make
) -> None:
    teachers = (load(frozen=True).model, load(other=True, frozen=True).model)
    before = [_copies(teacher) for teacher in teachers]
    student = load()
    start = _copies(student.model)
    trainer, _ = _trainer(student, examples, tmp_path, teachers, _blend(tiny_settings()))
    trainer.train()
    assert not _equal(student.model, start)
    for teacher, weights in zip(teachers, before, strict=True):
        assert _equal(teacher, weights)
        assert all(parameter.grad is None for parameter in teacher.parameters())
        assert not teacher.training


@pytest.mark.parametrize("without_head", ["student", "primary"])
@pytest.mark.parametrize("lora", [None, Lora(rank=2, alpha=4)], ids=["full weights", "lora"])
def test_hidden_states_and_logits_teach_the_same(
    tmp_path: Path,
    load: Callable[..., LoadedModel],
    examples: list[Example],
    tiny_settings: Make,
    lora: Lora | None,
    without_head: str,
) -> None:
    """One model without a head that can be reached sends all three the way of logits."""
    seen = []
    for headless in (False, True):
        student, teachers = load(), (load(other=True, frozen=True).model, load(frozen=True).model)
        model = student.model if lora is None else add_adapter(student, lora)
        student = dataclasses.replace(student, model=model)
        blend = _blend(tiny_settings(), gamma=0.5, js_threshold=0.128, confidence_threshold=0.028)
        trainer, log = _trainer(
            student, examples, tmp_path / str(headless), teachers, blend, batch_size=12, max_steps=1
        )
        gradients = Gradients()
        trainer.add_callback(gradients)
        if headless:
            (trainer.reader if without_head == "student" else trainer.primary).head = None
        trainer.train()
        seen.append((log.rows, gradients.seen))
    (rows, ours), (rows_of_logits, theirs) = seen
    for name, value in rows[0].items():
        assert value == pytest.approx(rows_of_logits[0][name], rel=1e-4), name
    assert len(ours) == len(theirs) > 0
    assert any(gradient.abs().max() > 1e-4 for gradient in ours)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


class Gradients(TrainerCallback):
    """The gradients of a step."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.seen = [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_a_student_that_is_both_its_teachers_has_nothing_to_learn(
    tmp_path: Path, load: Callable[..., LoadedModel], examples: list[Example], tiny_settings: Make
) -> None:
    teacher = load(frozen=True).model
    trainer, log = _trainer(load(), examples, tmp_path, (teacher, teacher), _blend(tiny_settings()), max_steps=1)
    trainer.train()
    assert log.rows[0]["loss_kd"] == pytest.approx(0.0, abs=1e-5)
    assert log.rows[0]["share_blended"] == 1.0
    assert log.rows[0]["loss_ce"] > 1.0


def test_the_signal_pulls_the_student_toward_its_teachers(
    tmp_path: Path, load: Callable[..., LoadedModel], examples: list[Example], tiny_settings: Make
) -> None:
    teacher = load(other=True, frozen=True).model
    blend = _blend(tiny_settings(), alpha=0.0, beta=1.0)
    trainer, log = _trainer(
        load(), examples, tmp_path, (teacher, teacher), blend, max_steps=12, learning_rate=2e-2, batch_size=12
    )
    trainer.train()
    assert log.rows[-1]["loss_kd"] < 0.8 * log.rows[0]["loss_kd"]


# ---------------------------------------------------------------- the two rungs as stages run them


def _weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


@pytest.mark.parametrize("lora", [None, Lora(rank=2, alpha=4)], ids=["full weights", "lora"])
def test_both_rungs_leave_models_that_load(
    luna_root: Path, tiny_settings: Make, accepted_records: list[Record], lora: Lora | None
) -> None:
    model = tiny_settings().preset.model.model_copy(update={"lora": lora})
    settings = tiny_settings(TEACHING, {"model": model})
    base = _weights(Path("models/base"))
    set_reproducible(0, 1)
    tuned = fine_tune(settings, accepted_records, luna_root, Path("models/sft"), Path(".luna/sft"))
    distilled = distill(settings, accepted_records, luna_root, Path("models/luna"), Path(".luna/distill"))
    assert tuned.metrics["records"] == 12
    assert tuned.metrics["steps"] == distilled.metrics["steps"] == settings.preset.sft.max_steps
    shares = [distilled.metrics[name.removeprefix("share_")] for name in SHARES.values()]
    assert sum(shares) == pytest.approx(1.0)
    assert [teacher["path"] for teacher in distilled.metrics["teachers"]] == ["models/sft", "models/base"]
    assert [teacher["role"] for teacher in distilled.metrics["teachers"]] == ["primary", "stabilizing_critic"]
    assert [teacher["source"] for teacher in distilled.metrics["teachers"]] == ["sft", "base"]
    json.dumps([tuned.metrics, distilled.metrics, distilled.log], allow_nan=False)
    file = "adapter_model.safetensors" if lora else "model.safetensors"
    assert [list(_weights(Path(folder))) for folder in ("models/sft", "models/luna")] == [[file], [file]]
    assert _weights(Path("models/sft")) != _weights(Path("models/luna"))
    assert _weights(Path("models/base")) == base
    models = [load_model(f"models/{name}", model, trainable=False).model for name in ("base", "sft", "luna")]
    tokens = torch.tensor([[5, 9, 12, 40]])
    with torch.no_grad():
        logits = [one.eval()(input_ids=tokens).logits for one in models]
    assert not torch.allclose(logits[0], logits[1])
    assert not torch.allclose(logits[1], logits[2])
    assert not list(Path("models").rglob("*.bin"))


def test_the_same_run_gives_the_same_bytes(
    luna_root: Path, tiny_settings: Make, accepted_records: list[Record]
) -> None:
    settings = tiny_settings(TEACHING)
    for name in ("one", "two"):
        set_reproducible(0, 1)
        shutil.rmtree("models/sft", ignore_errors=True)
        fine_tune(settings, accepted_records, luna_root, Path("models/sft"), Path(f".luna/{name}-sft"))
        distill(settings, accepted_records, luna_root, Path(f"models/{name}"), Path(f".luna/{name}"))
    assert _weights(Path("models/one")) == _weights(Path("models/two"))


def test_both_rungs_replay_their_share(
    luna_root: Path, tiny_settings: Make, accepted_records: list[Record], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tiny_settings({**TEACHING, "replay": Replay(corpus=0.2)})
    tags = ["Luna-G002"] * 2 + ["Luna-G001"]
    again = [
        record.model_copy(update={"metadata": {**record.metadata, "replayed_from": tag}})
        for record, tag in zip(accepted_records, tags, strict=False)
    ]
    own = accepted_records[3:]
    without = fine_tune(settings, own, luna_root, Path("models/without"), Path("s")).metrics
    tuned = fine_tune(settings, own, luna_root, Path("models/sft"), Path("s"), replay=again).metrics
    distilled = distill(settings, own, luna_root, Path("models/luna"), Path("s"), replay=again).metrics
    assert without["replayed_examples"] == 0
    lessons, replayed, corpus = (without["lessons"] // part for part in (1, 9, 4))  # a tenth and a fifth beside them
    for metrics in (tuned, distilled):
        assert (metrics["lessons"], metrics["replayed_examples"]) == (lessons, replayed)
        assert metrics["corpus_examples"] == without["corpus_examples"] == corpus
    assert distilled["replay_size"] == 2
    said = capsys.readouterr().out
    assert said.count(f"  {lessons + corpus} examples") == 1
    assert said.count(f"  {lessons + replayed + corpus} examples") == 2
    assert _weights(Path("models/sft")) != _weights(Path("models/without"))
    assert "replayed" in Path("models/sft/README.md").read_text()
    assert "replayed" not in Path("models/without/README.md").read_text()


def test_a_lesson_too_long_names_the_replayed_file(
    luna_root: Path, tiny_settings: Make, accepted_records: list[Record]
) -> None:
    [endless] = accepted_records[:1]
    endless = endless.model_copy(update={"metadata": {"thinking": "1 " * 600, "replayed_from": "Luna-G001"}})
    with pytest.raises(BadRecord, match=r"^data/replay\.jsonl: record 1: \d+ tokens are more than max_length 512"):
        fine_tune(tiny_settings(), accepted_records, luna_root, Path("models/sft"), Path("s"), replay=[endless])


def test_without_anything_to_replay_the_examples_are_the_lessons(
    load: Callable[..., LoadedModel], accepted_records: list[Record], tiny_settings: Make
) -> None:
    settings, loaded = tiny_settings({"replay": Replay(corpus=0.0)}), load()
    lessons = encode_lessons(loaded.tokenizer, accepted_records, settings.preset, settings.params.seed)
    assert gather_examples(settings, loaded.tokenizer, accepted_records, []) == (lessons, [], [])


def test_the_corpus_is_drawn_anew_in_each_generation_and_only_for_a_base_of_ones_own(
    load: Callable[..., LoadedModel], accepted_records: list[Record], tiny_settings: Make
) -> None:
    tokenizer = load().tokenizer

    def corpus(settings: Settings) -> list[Example]:
        return gather_examples(settings, tokenizer, accepted_records, []).corpus

    first, again = (corpus(tiny_settings()) for _ in range(2))
    second = corpus(tiny_settings({"generation": "Luna-G002"}))
    assert first == again
    assert len(first) == len(second) > 0
    assert second != first
    model = tiny_settings().preset.model.model_copy(update={"base": "HuggingFaceTB/SmolLM2-135M-Instruct"})
    assert corpus(tiny_settings(preset_={"model": model, "pretrain": None})) == []


def test_the_average_is_saved_unless_it_is_off(
    luna_root: Path, tiny_settings: Make, accepted_records: list[Record]
) -> None:
    shutil.copytree("models/base", "models/sft")
    settings = tiny_settings(TEACHING)
    for ema in (True, False):
        changed = settings.params.distill.model_copy(update={"ema": ema})
        distill(
            tiny_settings({**TEACHING, "distill": changed}),
            accepted_records,
            luna_root,
            Path(f"models/{ema}"),
            Path("s"),
        )
    assert _weights(Path("models/True")) != _weights(Path("models/False"))


def test_any_place_or_tag_can_teach_and_start(
    luna_root: Path, tiny_settings: Make, accepted_records: list[Record]
) -> None:
    """The wiring of the manifest: student = T1 = parent, T2 = grandparent, which has a tag here."""
    shutil.copytree("models/base", "models/teachers/grandparent")
    teachers = json.loads(Path("models/teachers/teachers.json").read_text())
    teachers["parent"]["gen"] = "Luna-G002"
    teachers["grandparent"] = {"gen": "Luna-G001", "source": "tag", "path": "models/teachers/grandparent"}
    Path("models/teachers/teachers.json").write_text(json.dumps(teachers))
    wiring = tiny_settings().params.teachers.model_copy(update={"primary": "parent", "critic": "Luna-G001"})
    tags = {"parent": "Luna-G002", "grandparent": "Luna-G001"}
    settings = tiny_settings({**TEACHING, **tags, "teachers": wiring, "student_init": "parent"})
    metrics = distill(settings, accepted_records, luna_root, Path("models/luna"), Path("s")).metrics
    assert [teacher["path"] for teacher in metrics["teachers"]] == ["models/base", "models/teachers/grandparent"]
    assert metrics["teachers"][1]["gen"] == "Luna-G001"


WRONG_NAMES: list[dict[str, Any]] = [
    {"student_init": "Luna-G099"},
    {"teachers": {"primary": "Luna-G099"}},
    {"teachers": {"critic": "Luna-G099"}},
]


@pytest.mark.parametrize("wrong", WRONG_NAMES)
def test_a_misspelt_teacher_is_refused_in_one_line_before_anything_is_trained(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    shutil.copytree(REPO / "presets", tmp_path / "presets")
    params = yaml.safe_load((REPO / "params.yaml").read_text(encoding="utf-8"))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({**params, **wrong}))
    with pytest.raises(BadSettings, match=r"Luna-G099.*choose one of sft, parent, grandparent") as refused:
        load_settings(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("place", ["primary", "critic", "student_init"])
def test_a_teacher_that_was_not_brought_back_is_named_in_one_line(
    luna_root: Path, tiny_settings: Make, accepted_records: list[Record], place: str
) -> None:
    """params.yaml names it as a grandparent, but models/teachers is from before."""
    shutil.copytree("models/base", "models/sft")
    wired = {"student_init": "Luna-G009"} if place == "student_init" else {}
    wiring = tiny_settings().params.teachers.model_copy(update={} if wired else {place: "Luna-G009"})
    settings = tiny_settings({"grandparent": "Luna-G009", "teachers": wiring, **wired})
    with pytest.raises(BadSettings, match=r"^params\.yaml: .*Luna-G009 is neither sft, .*; mend the name$") as refused:
        distill(settings, accepted_records, luna_root, Path("models/luna"), Path("s"))
    assert "\n" not in str(refused.value)
    assert not Path("models/luna").exists()

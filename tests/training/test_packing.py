"""Packed rows teach what their examples teach alone: the same losses, gradients and teachers; else they are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from luna.distill.run import distill
from luna.errors import LunaError
from luna.lm.chat import IGNORE, Example
from luna.lm.reproducible import set_reproducible
from luna.records import Record
from luna.settings import Lora, Settings
from luna.train_sft.run import fine_tune
from luna.training.final_states import StatesReader
from luna.training.packing import check_packing, pack, unpack
from luna.training.trainer import StepLog, TokenTrainer

Make = Callable[..., Settings]
ROW = 300
LENGTHS = st.lists(st.integers(2, 20), min_size=1, max_size=30)


def _examples(lengths: list[int]) -> list[Example]:
    """Tokens that are all different, so that each tells where it comes from."""
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    ids = [list(range(start, start + length)) for start, length in zip(starts, lengths, strict=True)]
    return [{"input_ids": one, "labels": [t if t % 3 else IGNORE for t in one]} for one in ids]


@given(LENGTHS)
def test_every_example_is_in_one_row_and_comes_out_of_it_again(lengths: list[int]) -> None:
    examples = _examples(lengths)
    rows = pack(examples, 20, "test")
    assert all(len(row["input_ids"]) == len(row["labels"]) == sum(row["seq_lengths"]) <= 20 for row in rows)
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(lists: list[list[int]], fill: int) -> torch.Tensor:
        return torch.tensor([one + [fill] * (longest - len(one)) for one in lists])

    ids_BT = padded([row["input_ids"] for row in rows], 0)
    mask_BT = padded([[1] * len(row["input_ids"]) for row in rows], 0)
    positions_BT = padded([[p for n in row["seq_lengths"] for p in range(n)] for row in rows], 0)
    supervised_BT = padded([row["labels"] for row in rows], IGNORE)[:, 1:] != IGNORE
    alone = unpack(ids_BT, mask_BT, positions_BT, supervised_BT)
    found = {}
    for ids_T, mask_T, chosen_T in zip(*alone, strict=True):
        length = int(mask_T.sum())
        found[tuple(ids_T[:length].tolist())] = (chosen_T[: length - 1].tolist(), bool(chosen_T[length - 1 :].any()))
    assert found == {
        tuple(one["input_ids"]): ([label != IGNORE for label in one["labels"][1:]], False) for one in examples
    }
    assert ids_BT[:, 1:][supervised_BT].tolist() == alone.input_ids[:, 1:][alone.supervised].tolist()


def test_a_row_too_short_is_refused_in_one_line() -> None:
    with pytest.raises(LunaError, match=r"^sft: packing: rows of 10 tokens, and an example has 12; raise it"):
        pack(_examples([3, 12]), 10, "sft")


# ---------------------------------------------------------------- in both rungs


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """Shapes of the batches and gradients of the steps of every run."""
    found: dict[str, list[Any]] = {"shapes": [], "gradients": []}
    compute = TokenTrainer._loss_of

    def watched(self: Any, model: Any, inputs: Any, num_items: Any) -> Any:
        found["shapes"].append(tuple(inputs["input_ids"].shape))
        return compute(self, model, inputs, num_items)

    def on_pre_optimizer_step(self: Any, *_: Any, model: Any, **__: Any) -> None:
        found["gradients"].append([p.grad.clone() for p in model.parameters() if p.grad is not None])

    monkeypatch.setattr(TokenTrainer, "_loss_of", watched)
    monkeypatch.setattr(StepLog, "on_pre_optimizer_step", on_pre_optimizer_step)
    return found


def _settings(make: Make, row: int | None, lora: Lora | None) -> Settings:
    """Steps that see the whole data, so that packing changes no step."""
    shape = {"packing": row, "batch_size": 64 if row is None else 2, "gradient_accumulation": 1 if row is None else 32}
    steps = {"max_steps": 2, "learning_rate": 1e-3, "warmup_ratio": 0.0, "scheduler": "constant"}
    rungs = {name: getattr(make().preset, name).model_copy(update=steps | shape) for name in ("sft", "distill")}
    model = make().preset.model.model_copy(update={"lora": lora})
    dials = make().params.distill.model_copy(update={"js_threshold": 0.0, "confidence_threshold": 0.005})
    wired = {"alpha": 0.5, "beta": 0.5, "gamma": 0.2, "residual": "agreement", "distill": dials}
    return make(wired, {"model": model, **rungs})


@pytest.mark.parametrize("lora", [None, Lora(rank=2, alpha=4)], ids=["full weights", "lora"])
@pytest.mark.parametrize("rung", ["sft", "distill"])
def test_packed_rows_teach_what_their_examples_do_alone(
    luna_root: Path,
    tiny_settings: Make,
    accepted_records: list[Record],
    rung: str,
    lora: Lora | None,
    seen: dict[str, list[Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    if rung == "distill":
        fine_tune(_settings(tiny_settings, None, lora), accepted_records, luna_root, Path("models/sft"), Path("s"))
    train: Any = fine_tune if rung == "sft" else distill
    logs, shapes, gradients = [], [], []
    for row in (None, ROW):
        seen["shapes"].clear()
        seen["gradients"].clear()
        set_reproducible(0, 1)
        logs.append(train(_settings(tiny_settings, row, lora), accepted_records, luna_root, Path("m"), Path("s")).log)
        shapes.append(list(seen["shapes"]))
        gradients.append(list(seen["gradients"]))
    assert shapes[0][0][0] > 20
    assert len(shapes[1]) > 2
    assert {rows for rows, _ in shapes[1]} <= {1, 2}
    assert ROW - 50 < max(length for _, length in shapes[1]) <= ROW
    if rung == "distill":  # what a teacher said of an example is kept for packed runs too
        assert "samples read by T1 0, by T2 0" in capsys.readouterr().out
    for row, twin in zip(*logs, strict=True):
        assert row == pytest.approx(twin, rel=1e-5, abs=1e-6)
    assert len(gradients[0]) == 2
    for whole, packed in zip(*gradients, strict=True):
        assert any(gradient.abs().max() > 1e-3 for gradient in whole)
        for one, other in zip(whole, packed, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


# ---------------------------------------------------------------- who cannot

SHAPE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
    "initializer_range": 0.3,
}


def _model(kind: str, **more: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SHAPE, **more}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "phi3", "smollm3", "mistral", "glm", "gemma2"])
def test_these_can_be_packed(kind: str, dtype: torch.dtype) -> None:
    model = _model(kind).to(dtype).train()
    check_packing(StatesReader(model), "sft")
    assert model.training


@pytest.mark.parametrize(
    ("kind", "more", "reason"),
    [
        ("mamba", {"state_size": 4}, r"MambaForCausalLM takes no position ids, .*"),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, r"in Lfm2ForCausalLM examples of one row see each other"),
    ],
)
def test_a_model_that_sees_across_examples_is_refused_by_name(kind: str, more: dict[str, Any], reason: str) -> None:
    with pytest.raises(LunaError, match=rf"^sft: packing: {reason}; set packing to null in the preset$"):
        check_packing(StatesReader(_model(kind, **more)), "sft")

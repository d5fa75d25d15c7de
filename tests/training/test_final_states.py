"""Final states of every kind of model: head times hidden states is what the model itself says, gradients included."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from luna.training.final_states import StatesReader

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
KINDS = ["llama", "qwen2", "qwen3", "phi3", "smollm3", "mistral", "glm"]


def model_of(kind: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SHAPE, **changes})
    return AutoModelForCausalLM.from_config(config).double()


def batch(left: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids [B, T] padded on one side, their mask, and where the loss looks: [B, T - 1], shifted."""
    rng = torch.Generator().manual_seed(1)
    lengths = torch.tensor([[9], [6], [3]])
    places = torch.arange(9)[None]
    mask = (places >= 9 - lengths if left else places < lengths).long()
    ids = torch.randint(2, 40, (3, 9), generator=rng) * mask
    chosen = (torch.rand(3, 8, generator=rng) < 0.6) & (mask[:, 1:] == 1) & (mask[:, :-1] == 1)
    assert 5 < chosen.sum() < 15
    return ids, mask, chosen


def by_logits(model: Any, ids: torch.Tensor, mask: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return logits[:, :-1][chosen]


def gradients(model: Any, loss: torch.Tensor) -> list[torch.Tensor]:
    wanted = [p for p in model.parameters() if p.requires_grad]
    return list(torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True))


def assert_reads(model: Any, reader: StatesReader, left: bool = False, headless: bool = False) -> None:
    """Logits and gradients by hidden states and head are those of the model's own logits."""
    case = batch(left)
    states = reader.read(*case)
    assert (states.weight_VD is None) == headless
    expected_NV = by_logits(model, *case)
    torch.testing.assert_close(states.logits(), expected_NV)
    ours, theirs = (gradients(model, logits.log_softmax(-1)[:, 3].sum()) for logits in (states.logits(), expected_NV))
    assert any(gradient.abs().max() > 1e-3 for gradient in ours)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture(kind: str, tied: bool, left: bool) -> None:
    model = model_of(kind, tie_word_embeddings=tied)
    assert_reads(model, StatesReader(model), left)


def adapted(model: Any, targets: list[str], **more: Any) -> Any:
    wrapped = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=targets, **more))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return wrapped.double()


@pytest.mark.parametrize("kind", KINDS[:2])
def test_under_an_adapter_whose_head_is_frozen(kind: str) -> None:
    model = adapted(model_of(kind), ["q_proj", "v_proj"])
    reader = StatesReader(model)
    assert_reads(model, reader)
    assert reader.read(*batch()).weight_VD is not None
    assert not reader.head.weight.requires_grad


UNREACHABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "capped": (lambda: model_of("gemma2"), "Gemma2ForCausalLM caps its logits (final_logit_softcapping)"),
    "scaled": (lambda: model_of("granite", logits_scaling=3.0), "GraniteForCausalLM makes logits that its output head"),
    "cohere": (lambda: model_of("cohere"), "CohereForCausalLM makes logits that its output head"),
    "adapted head": (lambda: adapted(model_of("llama", tie_word_embeddings=False), ["lm_head"]), "has a Linear as its"),
    "trained head": (
        lambda: adapted(model_of("llama", tie_word_embeddings=False), ["q_proj"], modules_to_save=["lm_head"]),
        "has a ModulesToSaveWrapper as its output head",
    ),
}


@pytest.mark.parametrize("name", UNREACHABLE)
def test_what_cannot_be_reached_is_named_once_and_read_as_logits(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, reason = UNREACHABLE[name]
    model = make()
    reader = StatesReader(model)
    for _ in range(2):
        assert_reads(model, reader, headless=True)
    said = capsys.readouterr().out
    assert said.count("its logits are formed in full") == 1
    assert reason in said


def test_the_head_sees_one_position_of_each_row() -> None:
    model = model_of("llama")
    seen = []
    model.lm_head.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].shape))
    StatesReader(model).read(*batch())
    assert seen == [(3, 1, 16)]
    assert not model.model._forward_hooks


class Wrapper(nn.Module):
    """Stands for DDP: its forward has to be called."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.calls = module, 0

    def forward(self, **inputs: Any) -> Any:
        self.calls += 1
        return self.module(**inputs)


def test_it_reads_through_a_wrapper() -> None:
    model = model_of("qwen2")
    wrapper = Wrapper(model)
    states = StatesReader(model).read(*batch(), called_through=wrapper)
    assert wrapper.calls == 1
    torch.testing.assert_close(states.logits(), by_logits(model, *batch()))


# ---------------------------------------------------------------- the attention mask


def masks_seen(model: Any, left: bool) -> list[torch.Tensor | None]:
    seen = []
    model.register_forward_pre_hook(lambda _m, _a, inputs: seen.append(inputs["attention_mask"]), with_kwargs=True)
    StatesReader(model).read(*batch(left))
    return seen


def test_a_mask_is_dropped_only_where_causal_attention_does_its_work() -> None:
    assert masks_seen(model_of("llama"), left=False) == [None]
    assert masks_seen(model_of("llama"), left=True)[0] is not None


def test_a_model_that_looks_ahead_keeps_its_mask() -> None:
    model = model_of("llama")
    model.model.layers[1].self_attn.is_causal = False
    assert masks_seen(model, left=False)[0] is not None

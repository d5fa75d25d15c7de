"""Tiny random checkpoints of the families that the presets name, each with a tokenizer and template of its style."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before the hub's client is imported: no test asks a hub

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import trl.chat_template_utils as known_templates
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "What is 2 + 2? It is four.",
    "Why do you think so? Say what you know.",
    "def add(a, b):\n    return a + b\n",
] * 3

CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GLM = (
    "[gMASK]<sop>{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_bpe(special: list[str], *, metaspace: bool = False) -> Tokenizer:
    """Byte-level BPE, or the SentencePiece style of Phi-3 whose role tokens swallow the white space behind them."""
    raw = Tokenizer(models.BPE(unk_token="<unk>" if metaspace else None))
    if metaspace:
        raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    else:
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
    alphabet = [chr(i) for i in range(32, 127)] + ["\n", "▁"] if metaspace else pre_tokenizers.ByteLevel.alphabet()
    tokens = [AddedToken(token, special=True, normalized=False, rstrip=metaspace) for token in special]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=tokens, initial_alphabet=alphabet, show_progress=False, min_frequency=2
    )
    raw.train_from_iterator(TEXTS, trainer)
    return raw


def smollm_tokenizer() -> PreTrainedTokenizerFast:
    raw = train_bpe(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    ends = {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "unk_token": "<|endoftext|>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, chat_template=CHATML, **ends)


def qwen_tokenizer(template: str = known_templates.qwen2_5_chat_template) -> PreTrainedTokenizerFast:
    raw = train_bpe(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"])
    ends = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, chat_template=template, **ends)


def phi_tokenizer() -> PreTrainedTokenizerFast:
    special = ["<unk>", "<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"]
    raw = train_bpe(special, metaspace=True)
    ends = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<unk>"}
    template = known_templates.phi3_5_chat_template
    return PreTrainedTokenizerFast(tokenizer_object=raw, chat_template=template, **ends)


def glm_tokenizer() -> PreTrainedTokenizerFast:
    raw = train_bpe(["<|endoftext|>", "[MASK]", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"])
    ends = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, chat_template=GLM, **ends)


# family: config class, tokenizer, tokens that the checkpoint's generation config names as ends
FAMILIES: dict[str, tuple[str, Callable[[], PreTrainedTokenizerFast], list[str]]] = {
    "llama": ("LlamaConfig", smollm_tokenizer, ["<|im_end|>"]),
    "qwen2": ("Qwen2Config", qwen_tokenizer, ["<|im_end|>", "<|endoftext|>"]),
    "phi3": ("Phi3Config", phi_tokenizer, ["<|end|>", "<|endoftext|>"]),
    "glm": ("GlmConfig", glm_tokenizer, ["<|endoftext|>", "<|user|>"]),
}


def build_checkpoint(family: str, folder: Path) -> Path:
    config_name, make_tokenizer, ends = FAMILIES[family]
    tokenizer = make_tokenizer()
    shape: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 16}
    config = getattr(transformers, config_name)(
        **shape,
        vocab_size=-(-len(tokenizer) // 64) * 64,  # padded, as real embeddings are
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,  # far from uniform, so that greedy paths differ between prompts
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with a tiny random checkpoint for each family."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {family: build_checkpoint(family, root / family) for family in FAMILIES}


@pytest.fixture
def tokenizers() -> dict[str, PreTrainedTokenizerFast]:
    """A tokenizer for each family, as its checkpoint comes: pad and stops not yet settled."""
    return {family: make() for family, (_, make, _) in FAMILIES.items()}


@pytest.fixture
def thinking_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose template drops the thinking of earlier turns, as Qwen3's does."""
    return qwen_tokenizer(known_templates.qwen3_chat_template)

"""A pad that never ends a turn, out of what the vocabulary already has."""

import pytest

from luna.errors import LunaError
from luna.lm.special_tokens import choose_pad


def stops(tokenizer, *names):
    return [tokenizer.convert_tokens_to_ids(name) for name in names]


@pytest.mark.parametrize(
    ("family", "ends", "pad"),
    [
        ("llama", ["<|im_end|>"], "<|endoftext|>"),
        ("phi3", ["<|end|>", "<|assistant|>", "<|endoftext|>"], "<unk>"),
        ("glm", ["<|endoftext|>", "<|user|>"], "[MASK]"),
    ],
)
def test_choice_of_each_family(tokenizers, family, ends, pad):
    tokenizer = tokenizers[family]
    assert choose_pad(tokenizer, stops(tokenizer, *ends)) == pad


def test_token_reserved_for_padding_comes_first(tokenizers):
    tokenizer = tokenizers["llama"]
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|other|>", "<|finetune_right_pad_id|>"]})
    assert choose_pad(tokenizer, stops(tokenizer, "<|im_end|>")) == "<|finetune_right_pad_id|>"


def test_no_token_to_spare_is_refused(tokenizers):
    tokenizer = tokenizers["llama"]
    with pytest.raises(LunaError, match=r"no token is free for padding .* choose a base with a spare special token"):
        choose_pad(tokenizer, stops(tokenizer, "<|im_end|>", "<|endoftext|>"))

"""The embedded base's tokenizer and network."""

import torch

from luna.lm.chat import PAD, SPECIAL_TOKENS
from luna.lm.scratch import random_llama, train_tokenizer

TEXTS = ["What is 47+38?", "so 85", "apples and coins: 1,204"] * 4


def build(seed):
    tokenizer = train_tokenizer(TEXTS, 300)
    shape = {"hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 64, "max_length": 64}
    return tokenizer, random_llama(tokenizer, **shape, seed=seed)


def test_numbers_are_read_digit_by_digit():
    tokenizer, _ = build(0)
    assert [token for token in tokenizer.tokenize("1204+38") if token.isdigit()] == list("120438")


def test_any_text_survives_the_round_trip():
    tokenizer, _ = build(0)
    for text in ("naïve 😀\n\tx  y", "<think>\n47+38\n</think>\n85"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_markers_are_single_tokens_and_pad_is_not_the_end():
    tokenizer, _ = build(0)
    assert all(len(tokenizer(token)["input_ids"]) == 1 for token in SPECIAL_TOKENS)
    assert tokenizer.pad_token == PAD != tokenizer.eos_token


def test_weights_follow_the_seed():
    def weights(seed):
        return torch.cat([weight.flatten() for weight in build(seed)[1].parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_padding_on_the_left_changes_no_logit():
    tokenizer, model = build(0)
    ids = tokenizer("47+38")["input_ids"]
    padded = torch.tensor([[tokenizer.pad_token_id] * 3 + ids])
    mask = torch.tensor([[0] * 3 + [1] * len(ids)])
    places = (mask.cumsum(1) - 1).clamp(min=0)
    bare = model(torch.tensor([ids])).logits[:, -1]
    assert torch.allclose(model(padded, attention_mask=mask, position_ids=places).logits[:, -1], bare, atol=1e-5)

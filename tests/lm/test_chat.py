"""The loss counts on exactly what the assistant says, in every family's way of writing a conversation."""

from itertools import groupby

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luna.lm.chat import IGNORE, encode, end_of_turn_id, prompt_ids
from luna.lm.scratch import train_tokenizer

TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello! What is 2 + 2?"},
    {"role": "user", "content": "Four."},
    {"role": "assistant", "content": "Why do\nyou think so?"},
]
SPOKEN = {
    "llama": ["Hello! What is 2 + 2?<|im_end|>", "Why do\nyou think so?<|im_end|>"],
    "qwen2": ["Hello! What is 2 + 2?<|im_end|>", "Why do\nyou think so?<|im_end|>"],
    "phi3": ["Hello! What is 2 + 2?<|end|>", "Why do\nyou think so?<|end|>"],
    "glm": ["\nHello! What is 2 + 2?<|user|>", "\nWhy do\nyou think so?<|endoftext|>"],
}


def spoken(tokenizer, example):
    """The runs of tokens that the loss counts on, as text."""
    pairs = zip(example["input_ids"], example["labels"], strict=True)
    runs = [[i for i, _ in run] for on, run in groupby(pairs, lambda pair: pair[1] != IGNORE) if on]
    return [tokenizer.decode(run) for run in runs]


def test_own_template_trains_exactly_the_replies():
    tokenizer = train_tokenizer(["What is 2 + 2? Four."], 300)
    example = encode(tokenizer, TALK, 512)
    assert spoken(tokenizer, example) == SPOKEN["qwen2"]
    assert all(label in (IGNORE, i) for i, label in zip(example["input_ids"], example["labels"], strict=True))


@pytest.mark.parametrize("family", SPOKEN)
def test_templates_without_markers_train_exactly_the_replies(tokenizers, family):
    tokenizer = tokenizers[family]
    before = tokenizer.chat_template
    example = encode(tokenizer, TALK, 512)
    assert spoken(tokenizer, example) == SPOKEN[family]
    assert all(label in (IGNORE, i) for i, label in zip(example["input_ids"], example["labels"], strict=True))
    assert tokenizer.chat_template == before


@pytest.mark.parametrize("family", SPOKEN)
def test_training_shows_the_prompt_that_sampling_gives(tokenizers, family):
    example = encode(tokenizers[family], TALK, 512)
    prompt = prompt_ids(tokenizers[family], TALK[:2])
    first = next(place for place, label in enumerate(example["labels"]) if label != IGNORE)
    assert example["input_ids"][:first] == prompt


@pytest.mark.parametrize(
    ("family", "token"),
    [("llama", "<|im_end|>"), ("qwen2", "<|im_end|>"), ("phi3", "<|end|>"), ("glm", "<|endoftext|>")],
)
def test_end_of_turn_is_the_token_the_template_writes(tokenizers, family, token):
    assert end_of_turn_id(tokenizers[family]) == tokenizers[family].convert_tokens_to_ids(token)


@given(words=st.lists(st.text(st.sampled_from("abc 1.\né😀"), min_size=1).filter(lambda w: w == w.strip()), min_size=1))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_reply_comes_back_from_the_mask(tokenizers, words):
    talk = [{"role": role, "content": text} for word in words for role, text in (("user", "a b"), ("assistant", word))]
    for family, end in (("llama", "<|im_end|>"), ("qwen2", "<|im_end|>")):
        assert spoken(tokenizers[family], encode(tokenizers[family], talk, 4096)) == [word + end for word in words]


def test_thinking_of_earlier_turns_is_kept_where_the_template_drops_it(thinking_tokenizer):
    talk = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "<think>\nA guest.\n</think>\n\nHello"},
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "<think>\nAdd.\n</think>\n\nFour"},
    ]
    first, second = spoken(thinking_tokenizer, encode(thinking_tokenizer, talk, 512))
    assert "A guest." in first
    assert "Hello<|im_end|>" in first
    assert "Add." in second
    assert "Hi" not in first + second


def test_unknown_template_that_rewrites_replies_is_refused(thinking_tokenizer):
    thinking_tokenizer.chat_template = thinking_tokenizer.chat_template.replace("<|im_end|>", "<|im_end|> ")
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    with pytest.raises(ValueError, match=r"turn 2: the chat template rewrites .* mark the assistant's words"):
        encode(thinking_tokenizer, talk, 512)


def test_reply_that_melts_into_the_prompt_is_refused(tokenizers):
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "    return a + b"}]
    tokenizers["llama"].add_tokens(["\n    return"])
    with pytest.raises(ValueError, match="turn 2: the edge of the reply melts into its neighbour"):
        encode(tokenizers["llama"], talk, 512)


def test_conversation_without_a_reply_is_refused(tokenizers):
    with pytest.raises(ValueError, match="no token is the assistant's"):
        encode(tokenizers["qwen2"], TALK[:2], 512)


def test_too_long_conversation_is_refused(tokenizers):
    with pytest.raises(ValueError, match="more than max_length 8"):
        encode(tokenizers["qwen2"], TALK, 8)


@pytest.mark.parametrize("marker", ["", "{% generation %}{% endgeneration %}"])
def test_roles_the_template_refuses_are_told(tokenizers, marker):
    tokenizer = tokenizers["glm"]
    tokenizer.chat_template = "{{ raise_exception('no system turn here') }}" + marker
    for refused in (lambda: prompt_ids(tokenizer, TALK[:2]), lambda: encode(tokenizer, TALK, 512)):
        with pytest.raises(
            ValueError, match=r"refuses the conversation .no system turn here.; change the turns' roles"
        ):
            refused()

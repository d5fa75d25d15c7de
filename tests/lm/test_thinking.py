"""Thinking stays well formed while sampling, whatever the model would like to say."""

import re

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from luna.lm.sample import Decoding, sample_replies

TAGS = re.compile(r"</?think>")


@pytest.fixture
def babbler(tiny_model_folder):
    """Random weights: every token is about as likely as any other, the tags and the end of the turn among them."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    return model, AutoTokenizer.from_pretrained(tiny_model_folder)


def say(babbler, prompts, tokens=60, seed=0):
    model, tokenizer = babbler
    return sample_replies(model, tokenizer, prompts, Decoding(5.0, tokens, 64), seed)


def test_a_reply_thinks_at_most_once_and_always_ends_its_thinking(babbler):
    _, tokenizer = babbler
    replies = say(babbler, [tokenizer("so")["input_ids"]] * 400)
    seen = {tuple(TAGS.findall(reply)) for reply in replies}
    assert seen <= {(), ("<think>", "</think>")}
    assert len(seen) == 2  # both happen, so the rule had something to do


def test_a_block_that_the_prompt_left_open_is_always_closed(babbler):
    _, tokenizer = babbler
    prompt = tokenizer("<think>\nso", add_special_tokens=False)["input_ids"]
    for reply in say(babbler, [prompt] * 200, tokens=40):
        assert TAGS.findall(reply) == ["</think>"]


def test_thinking_of_an_earlier_turn_does_not_count(babbler):
    _, tokenizer = babbler
    before = tokenizer("<think>\nso\n</think>\n4\nso", add_special_tokens=False)["input_ids"]
    tags = {tuple(TAGS.findall(reply)) for reply in say(babbler, [before] * 400)}
    assert ("<think>", "</think>") in tags

"""Batched sampling says what transformers' own generation says, one prompt at a time."""

import os
import threading
import time

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from luna.lm import sample
from luna.lm.reproducible import set_reproducible
from luna.lm.sample import Decoding, sample_ids, sample_replies

QUESTIONS = ["Hi", "What is 2 + 2? Say what you know.", "Why do you think so?", "def add(a, b):", "so?"]


@pytest.fixture(params=["llama", "qwen2", "phi3"])
def speaker(request, checkpoints):
    folder = checkpoints[request.param]
    model = AutoModelForCausalLM.from_pretrained(folder)
    return model, AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def speaker_by_place(tokenizers):
    """GPT-2 learns every position by itself, so padding that shifts a prompt changes what it says."""
    torch.manual_seed(0)
    shape = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64, "initializer_range": 0.5}
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    tokenizer = tokenizers["llama"]
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **shape, **ends)), tokenizer


def prompts_for(tokenizer):
    return [tokenizer(question)["input_ids"] for question in QUESTIONS]


def generated(model, prompt, new_tokens):
    """Greedy continuation of one unpadded prompt by transformers."""
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new_tokens)
    return out[0, len(prompt) :].tolist()


def stop_within_replies(model, prompts):
    """Make a token that several greedy replies hold the one that ends them."""
    model.generation_config.eos_token_id = None
    first = generated(model, prompts[0], 8)
    model.generation_config.eos_token_id = first[4]
    return first[4]


def test_greedy_batch_equals_generate_one_by_one(speaker):
    model, tokenizer = speaker
    prompts = prompts_for(tokenizer)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    expected = []
    for prompt in prompts:
        reply = generated(model, prompt, 12)
        expected.append(tokenizer.decode([token for token in reply if token != tokenizer.eos_token_id]))
    for batch_size in (2, 8):
        decoding = Decoding(max_new_tokens=12, batch_size=batch_size)
        assert sample_replies(model, tokenizer, prompts, decoding, seed=0) == expected
    assert len(set(expected)) > 1


@pytest.mark.parametrize(("temperature", "threads"), [(0.0, 3), (0.7, 1)])
def test_batches_side_by_side_say_what_they_say_in_turn(speaker, temperature, threads, monkeypatch):
    set_reproducible(0, 1)
    model, tokenizer = speaker
    prompts = 6 * prompts_for(tokenizer)
    decoding = Decoding(temperature, max_new_tokens=12, batch_size=5)
    seen, done = set(), []
    model.register_forward_pre_hook(lambda *_: seen.add(threading.get_ident()))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(3)), raising=False)
    replies = sample_ids(model, tokenizer, prompts, decoding, 0, done.append)
    assert len(seen) == threads
    assert sum(done) == len(prompts)
    monkeypatch.setattr(sample, "SIDE_BY_SIDE", 1)
    assert sample_ids(model, tokenizer, prompts, decoding, 0) == replies


def test_an_interrupt_waits_for_the_batches_at_work_alone(speaker, monkeypatch):
    set_reproducible(0, 1)
    model, tokenizer = speaker
    begun = []

    def note(_model, _args, inputs):
        time.sleep(0.02)
        begun.extend([1] * (inputs["input_ids"].shape[1] > 1))

    def interrupt(done):
        raise KeyboardInterrupt

    model.register_forward_pre_hook(note, with_kwargs=True)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(2)), raising=False)
    with pytest.raises(KeyboardInterrupt):
        sample_ids(
            model, tokenizer, 8 * prompts_for(tokenizer), Decoding(max_new_tokens=12, batch_size=2), 0, interrupt
        )
    assert 2 <= len(begun) < 10


def test_padding_shifts_no_prompt(speaker_by_place):
    model, tokenizer = speaker_by_place
    prompts = prompts_for(tokenizer)
    texts = sample_replies(model.eval(), tokenizer, prompts, Decoding(max_new_tokens=12), seed=0)
    assert texts == [tokenizer.decode(generated(model, prompt, 12)) for prompt in prompts]


def test_reply_stops_at_every_end_of_turn(speaker):
    model, tokenizer = speaker
    prompts = prompts_for(tokenizer)
    stop = stop_within_replies(model, prompts)
    texts = sample_replies(model, tokenizer, prompts, Decoding(max_new_tokens=12), seed=0)
    for prompt, text in zip(prompts, texts, strict=True):
        reply = generated(model, prompt, 12)
        assert text == tokenizer.decode(reply[: reply.index(stop)] if stop in reply else reply)
    assert len(generated(model, prompts[0], 12)) == 5


def test_a_reply_ends_with_the_token_that_completes_a_stop(speaker):
    model, tokenizer = speaker
    prompts = prompts_for(tokenizer)
    whole = sample_ids(model, tokenizer, prompts, Decoding(max_new_tokens=12), seed=0)
    stop = tokenizer.decode(whole[0])[2:4]
    found = sample_ids(model, tokenizer, prompts, Decoding(max_new_tokens=12, stop=(stop,)), seed=0)
    for before, after in zip(whole, found, strict=True):
        ends = [n for n in range(1, len(before) + 1) if stop in tokenizer.decode(before[:n])]
        assert after == before[: min(ends, default=len(before))]
    assert len(found[0]) < len(whole[0])


def test_sampled_run_repeats_and_follows_its_seed(speaker):
    model, tokenizer = speaker
    prompts = prompts_for(tokenizer)
    decoding = Decoding(temperature=1.0, max_new_tokens=12, batch_size=3)
    first = sample_replies(model, tokenizer, prompts, decoding, seed=1)
    assert sample_replies(model, tokenizer, prompts, decoding, seed=1) == first
    assert sample_replies(model, tokenizer, prompts, decoding, seed=2) != first


def test_progress_is_told_and_the_training_flag_kept(speaker):
    model, tokenizer = speaker
    model.train()
    done = []
    sample_replies(
        model, tokenizer, prompts_for(tokenizer), Decoding(max_new_tokens=1, batch_size=2), 0, on_progress=done.append
    )
    assert done == [2, 2, 1]
    assert model.training

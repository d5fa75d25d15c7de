"""Generations that speak as one."""

import copy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from luna.errors import LunaError
from luna.evaluate.how import how_asked
from luna.lm.chat import prompt_ids
from luna.lm.ensemble import Ensemble
from luna.lm.load import LoadedModel
from luna.lm.sample import Decoding, sample_replies

QUESTIONS = ["What is 12+13?", "Compute 3*4.", "Compute 52-17, then *2."]


@pytest.fixture
def models(tiny_model_folder: Path):
    """Two models of one shape with different weights."""
    first = AutoModelForCausalLM.from_pretrained(tiny_model_folder).eval()
    second = copy.deepcopy(first)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return first, second


@pytest.fixture
def tokenizer(tiny_model_folder: Path):
    return AutoTokenizer.from_pretrained(tiny_model_folder)


def _replies(model, tokenizer, *, length: int = 24) -> list[str]:
    prompts = [prompt_ids(tokenizer, [{"role": "user", "content": question}]) for question in QUESTIONS]
    return sample_replies(model, tokenizer, prompts, Decoding(0.0, length, 2), 0)


def test_the_logits_are_the_weighted_mean(models) -> None:
    first, second = models
    ids_BT = torch.randint(0, 300, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected_BTV = 0.75 * first(input_ids=ids_BT).logits + 0.25 * second(input_ids=ids_BT).logits
        found_BTV = Ensemble([first, second], [3, 1])(input_ids=ids_BT, use_cache=False).logits
    torch.testing.assert_close(found_BTV, expected_BTV)


def test_all_weight_on_one_member_is_that_member(models, tokenizer) -> None:
    first, second = models
    alone = [_replies(model, tokenizer) for model in models]
    assert alone[0] != alone[1]
    for weights, expected in zip(([1, 0], [0, 1]), alone, strict=True):
        assert _replies(Ensemble(copy.deepcopy([first, second]), weights), tokenizer) == expected


def test_an_evaluation_asks_it_as_it_asks_one_model(models, tokenizer, tiny_settings) -> None:
    kind = tiny_settings().preset.model
    ways = [LoadedModel(model, tokenizer, kind) for model in (models[0], Ensemble(models))]
    alone, together = (how_asked(way, [], Decoding(0.0, 5, 2), 0) for way in ways)
    assert together == alone
    assert together["dtype"] == "float32"


def test_the_cache_changes_nothing(models) -> None:
    """Token by token through the cache, and with one row less on the way, as all at once without it."""
    ensemble = Ensemble(models)
    ids_BT = torch.randint(0, 300, (3, 8), generator=torch.Generator().manual_seed(0))
    cache = DynamicCache(config=ensemble.config)
    with torch.no_grad():
        expected_BTV = ensemble(input_ids=ids_BT, use_cache=False).logits
        ensemble(input_ids=ids_BT[:, :5], past_key_values=cache, use_cache=True)
        cache.batch_select_indices(torch.tensor([0, 2]))
        for place in range(5, 8):
            found_BV = ensemble(
                input_ids=ids_BT[[0, 2], place : place + 1], past_key_values=cache, use_cache=True
            ).logits[:, -1]
            torch.testing.assert_close(found_BV, expected_BTV[[0, 2], place])


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0]])
def test_weights_that_do_not_fit_are_refused(models, weights) -> None:
    with pytest.raises(LunaError, match="weights"):
        Ensemble(models, weights)


def test_one_model_is_no_ensemble(models) -> None:
    with pytest.raises(LunaError, match="two models"):
        Ensemble(models[:1])

"""Tokens that must be right for a model to stop: the pad, which is never the end, and every token that ends a turn."""

from typing import TYPE_CHECKING

from luna.errors import LunaError
from luna.lm.chat import end_of_turn_id

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What families reserve for padding, then tokens that no conversation holds.
_USUAL_PADS = ("<|finetune_right_pad_id|>", "<|fim_pad|>", "<|pad|>", "<pad>", "[PAD]", "<|endoftext|>", "<unk>")


def settle_special_tokens(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Give the tokenizer a pad other than its end token and tell the model every token that ends a turn.

    A pad equal to the end token is masked out of the loss together with it, and the model never learns to stop.
    The vocabulary does not grow.

    Raises:
        LunaError: the vocabulary has no token to spare for padding.
    """
    stops = _stop_ids(model, tokenizer)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.pad_token = choose_pad(tokenizer, stops)
    generation = model.generation_config
    generation.eos_token_id = stops[0] if len(stops) == 1 else stops
    generation.pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id


def _stop_ids(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    # A base model with a chat template often ends its text, but not a turn, with its own end token.
    stops = {*listed, tokenizer.eos_token_id, end_of_turn_id(tokenizer)}
    return sorted(token for token in stops if token is not None)


def choose_pad(tokenizer: "PreTrainedTokenizerBase", stops: list[int]) -> str:
    """A token for padding that ends no turn and that the chat template never writes."""
    vocabulary, template = tokenizer.get_vocab(), tokenizer.get_chat_template()
    added = sorted(tokenizer.added_tokens_decoder.items())
    spare = [t.content for _, t in added if t.special and t.content != tokenizer.bos_token]
    usual = [token for token in _USUAL_PADS if token in vocabulary]
    for token in (*usual, *spare):
        if vocabulary[token] not in stops and token not in template:
            return token
    raise LunaError(
        f"{tokenizer.name_or_path}: no token is free for padding (the end token {tokenizer.eos_token} must not pad, "
        "or the model never stops); choose a base with a spare special token"
    )

"""Batched sampling with a KV cache, for every causal LM that transformers knows.

Prompts are grouped by length, finished rows leave the batch, and the noise of a row depends only on the seed and the
row's place in its batch, so a run repeats exactly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Decoding:
    """How replies are drawn. `temperature` 0 is greedy; `max_new_tokens` cuts a reply that does not end by itself."""

    temperature: float = 0.0
    max_new_tokens: int = 256
    batch_size: int = 128


def sample_replies(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[list[int]],
    decoding: Decoding,
    seed: int,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Draw one reply for each prompt (token ids) and return the texts in the order of the prompts.

    Special tokens inside a reply (such as `<think>`) are kept; the end-of-turn token is not.
    `on_progress` is called with the number of prompts just finished.
    """
    import torch

    generator = torch.Generator(device=model.device).manual_seed(seed)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    texts = [""] * len(prompts)
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), decoding.batch_size):
            rows = order[start : start + decoding.batch_size]
            replies = _sample_batch(model, tokenizer, [prompts[i] for i in rows], decoding, generator)
            decoded = tokenizer.batch_decode(replies, skip_special_tokens=False)
            for i, text in zip(rows, decoded, strict=True):
                texts[i] = text
            on_progress(len(rows))
    model.train(was_training)
    return texts


def _sample_batch(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: list[list[int]],
    decoding: Decoding,
    generator: "torch.Generator",
) -> list[list[int]]:
    import torch
    from transformers import DynamicCache

    stop_ids = _stop_ids(model, tokenizer)
    tokens_BT, mask_BT = _left_pad(prompts, tokenizer.pad_token_id, model.device)
    positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    alive = list(range(len(prompts)))
    replies: list[list[int]] = [[] for _ in prompts]
    for _ in range(decoding.max_new_tokens):
        logits_BV = model(
            input_ids=tokens_BT,
            attention_mask=mask_BT,
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        next_B = _draw(logits_BV.float(), decoding.temperature, generator)
        going: list[int] = []
        for row, token in enumerate(next_B.tolist()):
            if token not in stop_ids:
                replies[alive[row]].append(token)
                going.append(row)
        if not going:
            break
        if len(going) < len(alive):
            keep = torch.tensor(going, device=model.device)
            cache.batch_select_indices(keep)
            mask_BT, positions_BT, next_B = mask_BT[keep], positions_BT[keep], next_B[keep]
            alive = [alive[row] for row in going]
        tokens_BT = next_B[:, None]
        positions_BT = positions_BT[:, -1:] + 1
        mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(alive), 1)], dim=1)
    return replies


def _stop_ids(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Every token that ends a turn: the tokenizer's and those the model's generation config names."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    return {token for token in [tokenizer.eos_token_id, *listed] if token is not None}


def _left_pad(
    prompts: list[list[int]], pad_id: int | None, device: "torch.device"
) -> tuple["torch.Tensor", "torch.Tensor"]:
    import torch

    width = max(len(prompt) for prompt in prompts)
    tokens_BT = torch.full((len(prompts), width), pad_id or 0, dtype=torch.long)
    mask_BT = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        tokens_BT[row, width - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
        mask_BT[row, width - len(prompt) :] = 1
    return tokens_BT.to(device), mask_BT.to(device)


def _draw(logits_BV: "torch.Tensor", temperature: float, generator: "torch.Generator") -> "torch.Tensor":
    if temperature == 0:
        return logits_BV.argmax(-1)
    probabilities_BV = (logits_BV / temperature).softmax(-1)
    import torch

    return torch.multinomial(probabilities_BV, 1, generator=generator)[:, 0]

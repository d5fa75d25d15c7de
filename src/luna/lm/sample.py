"""Batched sampling with a KV cache, for every causal LM that transformers knows.

Prompts are grouped by length, finished rows leave the batch, and one seeded generator draws for all rows in turn, so
a run repeats exactly. Batches for which nothing is drawn (temperature 0) are worked on side by side where the CPU has
cores to spare: each is what it would be alone.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


THINKING_SHARE = 0.8  # of max_new_tokens; what is left is for the answer
SIDE_BY_SIDE = 4  # batches at most: each keeps keys and values of its own in memory


@dataclass(frozen=True)
class Decoding:
    """How replies are drawn. `temperature` 0 is greedy; `max_new_tokens` cuts a reply that does not end by itself.

    A reply also ends with the token that completes one of the texts in `stop`.

    Where the tokenizer has `<think>` and `</think>` as tokens, a reply thinks at most once, and thinking that runs
    over its share of the tokens is closed so that an answer follows (budget forcing; N. Muennighoff et al., "s1:
    Simple test-time scaling", 2025).
    """

    temperature: float = 0.0
    max_new_tokens: int = 256
    batch_size: int = 128
    stop: tuple[str, ...] = ()

    @property
    def thinking_budget(self) -> int:
        return int(self.max_new_tokens * THINKING_SHARE)


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
    replies = sample_ids(model, tokenizer, prompts, decoding, seed, on_progress)
    texts: list[str] = tokenizer.batch_decode(replies, skip_special_tokens=False)
    return texts


def sample_ids(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[list[int]],
    decoding: Decoding,
    seed: int,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[list[int]]:
    """`sample_replies` as token ids. A reply of `max_new_tokens` tokens was cut; shorter ones ended by themselves."""
    import torch

    generator = torch.Generator(device=model.device).manual_seed(seed)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    batches = [order[start : start + decoding.batch_size] for start in range(0, len(order), decoding.batch_size)]
    replies: list[list[int]] = [[] for _ in prompts]

    @torch.inference_mode()
    def draw(rows: list[int]) -> list[list[int]]:
        return _sample_batch(model, tokenizer, [prompts[i] for i in rows], decoding, generator)

    was_training = model.training
    model.eval()
    with _workers(model.device.type, decoding, len(batches)) as each:
        for rows, drawn in zip(batches, each(draw, batches), strict=True):
            for i, reply in zip(rows, drawn, strict=True):
                replies[i] = reply
            on_progress(len(rows))
    model.train(was_training)
    return replies


@contextmanager
def _workers(device: str, decoding: Decoding, batches: int) -> Iterator[Callable[..., Iterator[list[list[int]]]]]:
    """A `map` over batches, with threads of its own where that is quicker and changes nothing."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    at_once = min(cores // torch.get_num_threads(), batches, SIDE_BY_SIDE)
    if at_once < 2 or device != "cpu" or decoding.temperature > 0:
        yield map
        return
    # Each thread would start with as many of torch's own as there are cores.
    with ThreadPoolExecutor(at_once, initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),)) as pool:
        yield pool.map


def _sample_batch(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: list[list[int]],
    decoding: Decoding,
    generator: "torch.Generator",
) -> list[list[int]]:
    import torch

    from luna.lm.kv_cache import make_cache

    stop_ids = _stop_ids(model, tokenizer)
    thinking = _Thinking.of(tokenizer, prompts, stop_ids, model.device)
    tokens_BT, mask_BT = _left_pad(prompts, tokenizer.pad_token_id, model.device)
    positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
    cache = make_cache(model.config)
    alive = list(range(len(prompts)))
    replies: list[list[int]] = [[] for _ in prompts]
    for said in range(decoding.max_new_tokens):
        logits_BV = model(
            input_ids=tokens_BT,
            attention_mask=mask_BT,
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        if thinking:
            thinking.constrain(logits_BV, over_budget=said >= decoding.thinking_budget)
        next_B = _draw(logits_BV.float(), decoding.temperature, generator)
        if thinking:
            thinking.follow(next_B)
        going: list[int] = []
        for row, token in enumerate(next_B.tolist()):
            if token not in stop_ids:
                reply = replies[alive[row]]
                reply.append(token)
                if not _holds_stop(tokenizer, reply, decoding.stop):
                    going.append(row)
        if not going:
            break
        if len(going) < len(alive):
            keep = torch.tensor(going, device=model.device)
            cache.batch_select_indices(keep)
            mask_BT, positions_BT, next_B = mask_BT[keep], positions_BT[keep], next_B[keep]
            if thinking:
                thinking.keep(keep)
            alive = [alive[row] for row in going]
        tokens_BT = next_B[:, None]
        positions_BT = positions_BT[:, -1:] + 1
        mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(alive), 1)], dim=1)
    return replies


class _Thinking:
    """Keeps the thinking blocks of a batch well formed: opened at most once, closed once, and in time."""

    BEFORE, INSIDE, AFTER = 0, 1, 2

    def __init__(self, open_id: int, close_id: int, stop_ids: list[int], state_B: "torch.Tensor") -> None:
        self.open_id, self.close_id, self.stop_ids, self.state_B = open_id, close_id, stop_ids, state_B

    @classmethod
    def of(
        cls, tokenizer: "PreTrainedTokenizerBase", prompts: list[list[int]], stop_ids: set[int], device: "torch.device"
    ) -> "_Thinking | None":
        """None where the tokenizer has no such tokens. A prompt may end inside a block that is to be continued."""
        import torch

        vocabulary = tokenizer.get_vocab()
        if "<think>" not in vocabulary or "</think>" not in vocabulary:
            return None
        open_id, close_id = vocabulary["<think>"], vocabulary["</think>"]
        states = [int(prompt.count(open_id) > prompt.count(close_id)) for prompt in prompts]
        return cls(open_id, close_id, sorted(stop_ids), torch.tensor(states, device=device))

    def constrain(self, logits_BV: "torch.Tensor", *, over_budget: bool) -> None:
        """Rule out, in place, the tokens that would break the form."""
        inside_B = self.state_B == self.INSIDE
        logits_BV[:, self.open_id].masked_fill_(self.state_B != self.BEFORE, float("-inf"))
        logits_BV[:, self.close_id].masked_fill_(~inside_B, float("-inf"))
        for stop_id in self.stop_ids:
            logits_BV[:, stop_id].masked_fill_(inside_B, float("-inf"))
        if over_budget and bool(inside_B.any()):
            closing_V = logits_BV.new_full((logits_BV.shape[-1],), float("-inf"))
            closing_V[self.close_id] = 0.0
            logits_BV[inside_B] = closing_V

    def follow(self, next_B: "torch.Tensor") -> None:
        self.state_B = self.state_B.masked_fill(next_B == self.open_id, self.INSIDE)
        self.state_B = self.state_B.masked_fill(next_B == self.close_id, self.AFTER)

    def keep(self, rows: "torch.Tensor") -> None:
        self.state_B = self.state_B[rows]


def _stop_ids(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Every token that ends a turn: the tokenizer's and those the model's generation config names."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    return {token for token in [tokenizer.eos_token_id, *listed] if token is not None}


def _holds_stop(tokenizer: "PreTrainedTokenizerBase", reply: list[int], stop: tuple[str, ...]) -> bool:
    """Whether a text that ends replies stands in this one; a stop may begin and end within tokens."""
    return bool(stop) and any(text in tokenizer.decode(reply) for text in stop)


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

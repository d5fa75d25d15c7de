"""A cache of keys and values that grows in place: transformers' own copies all it holds for every token.

This module imports torch and transformers at once; import it inside of a function.
"""

from typing import Any

import torch
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

ROOM = 64  # more tokens whenever it is full


def make_cache(config: PretrainedConfig) -> DynamicCache:
    """An empty cache for a model. Layers that keep more than plain keys and values stay as transformers has them."""
    cache = DynamicCache(config=config)
    for place, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[place] = GrowingLayer()  # type: ignore[no-untyped-call]
    return cache


class GrowingLayer(DynamicLayer):
    """Keys and values [B, H, T, D] of one layer, as views of buffers that have room for more tokens."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the new tokens [B, H, t, D] behind those that are here; returns all keys and all values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.key_room, self.value_room = key_states[..., :0, :], value_states[..., :0, :]
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if after > self.key_room.shape[-2]:
            self.key_room = _roomier(self.key_room, before, after + ROOM)
            self.value_room = _roomier(self.value_room, before, after + ROOM)
        self.key_room[..., before:after, :] = key_states
        self.value_room[..., before:after, :] = value_states
        return self._show(after)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep only these rows."""
        length = self.get_seq_length()
        self.key_room = _rows(self.key_room, length, indices)
        self.value_room = _rows(self.value_room, length, indices)
        self._show(length)

    def _show(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self.key_room[..., :length, :], self.value_room[..., :length, :]
        self.keys, self.values = keys, values
        return keys, values


def _roomier(room: torch.Tensor, length: int, capacity: int) -> torch.Tensor:
    grown = room.new_empty((*room.shape[:-2], capacity, room.shape[-1]))
    grown[..., :length, :] = room[..., :length, :]
    return grown


def _rows(room: torch.Tensor, length: int, indices: torch.Tensor) -> torch.Tensor:
    chosen = room.new_empty((len(indices), *room.shape[1:]))
    torch.index_select(room[..., :length, :], 0, indices, out=chosen[..., :length, :])
    return chosen

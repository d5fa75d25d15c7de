"""Several generations speaking as one: every token is drawn from the weighted mean of their logits."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from luna.errors import LunaError


class Ensemble(nn.Module):
    """Models of one architecture and one vocabulary, sampled from like one model.

    All members keep their keys and values in one cache: the layers of one member stand after those of another.

    Args:
        weights: of the logits, normalized to sum 1; equal if None.

    Raises:
        LunaError: fewer than two members, their shapes differ, or the weights do not fit them.
    """

    def __init__(self, members: Sequence[PreTrainedModel], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        weights = [1.0] * len(members) if weights is None else list(weights)
        _check(members, weights)
        self.members = nn.ModuleList(members)
        self.shares = [weight / sum(weights) for weight in weights]
        self.config = _config_of_all(members[0].config, len(members))
        self.generation_config = members[0].generation_config
        self.device, self.dtype = members[0].device, members[0].dtype

    def forward(self, past_key_values: DynamicCache | None = None, **inputs: Any) -> CausalLMOutputWithPast:
        """Logits [B, T, V]: the weighted mean of the members'. A cache must be made from this ensemble's config."""
        logits_BTV = torch.stack(
            [
                share * member(past_key_values=self._part(past_key_values, place), **inputs).logits.float()
                for place, (share, member) in enumerate(zip(self.shares, self.members, strict=True))
            ]
        ).sum(0)
        return CausalLMOutputWithPast(logits=logits_BTV)  # type: ignore[arg-type]

    def _part(self, cache: DynamicCache | None, place: int) -> DynamicCache | None:
        """The member's own layers of the shared cache; what it writes there stands in the whole too."""
        if cache is None:
            return None
        depth = len(cache.layers) // len(self.shares)
        part = DynamicCache()
        part.layers = cache.layers[place * depth : (place + 1) * depth]
        return part


def _check(members: Sequence[PreTrainedModel], weights: Sequence[float]) -> None:
    if len(members) < 2:
        raise LunaError("an ensemble needs two models or more; name another generation")
    shapes = {(m.config.model_type, m.config.num_hidden_layers, m.config.vocab_size) for m in members}
    if len(shapes) > 1:
        raise LunaError("the models of an ensemble differ in architecture, depth or vocabulary; take one lineage")
    if len(weights) != len(members) or min(weights) < 0 or sum(weights) <= 0:
        raise LunaError(f"an ensemble of {len(members)} models needs as many weights >= 0, not {list(weights)}")


def _config_of_all(config: Any, count: int) -> Any:
    """What a cache is made from: as many layers as all members have together."""
    config = copy.deepcopy(config)
    config.num_hidden_layers *= count
    if getattr(config, "layer_types", None):
        config.layer_types = list(config.layer_types) * count
    return config

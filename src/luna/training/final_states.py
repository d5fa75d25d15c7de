"""What a model makes of chosen tokens: its final hidden states and the output head that turns them into logits.

Logits of every position of a batch would fill gigabytes at a vocabulary of 152k, and a loss needs few of them. So the
hidden states are read where the model's backbone hands them on, and its own head sees the last position alone.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from torch import Tensor, nn

from luna.progress import say


@dataclass(frozen=True)
class FinalStates:
    """Hidden states [N, D] and the head that maps them to logits; without a head they are the logits [N, V]."""

    hidden_ND: Tensor
    weight_VD: Tensor | None
    bias_V: Tensor | None = None

    @property
    def vocabulary(self) -> int:
        """How many ids the logits have."""
        return len(self.weight_VD) if self.weight_VD is not None else self.hidden_ND.shape[-1]

    def logits(self) -> Tensor:
        """The logits [N, V] in full."""
        if self.weight_VD is None:
            return self.hidden_ND
        return F.linear(self.hidden_ND.to(self.weight_VD.dtype), self.weight_VD, self.bias_V)

    def at(self, chosen_N: Tensor) -> "FinalStates":
        """The chosen tokens alone."""
        return FinalStates(self.hidden_ND[chosen_N], self.weight_VD, self.bias_V)


class StatesReader:
    """Reads a model's final states: plain or under PEFT, whatever wrapper it is called through.

    Where backbone or head cannot be told, or the head alone does not make the model's logits (Gemma 2 caps them,
    Granite and Cohere scale them, an adapter on the head adds to them), it says so once and reads logits in full.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.causal_lm = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.head: nn.Linear | None = self.causal_lm.get_output_embeddings()
        self.backbone = self.causal_lm.base_model
        self.checked = False
        flags = [module.is_causal for module in self.backbone.modules() if hasattr(module, "is_causal")]
        self.causal = bool(flags) and all(flags)
        if reason := self._unreachable():
            self._fall_back(reason)

    def read(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        chosen_BT: Tensor,
        called_through: Any = None,
        position_ids: Tensor | None = None,
    ) -> FinalStates:
        """The states at the chosen places of input_ids [B, T]; `chosen_BT` may be shorter than T.

        Args:
            called_through: a wrapper of the model that has to be called in its place, such as DDP's.
            position_ids: of rows that several examples share; each begins at 0 and sees itself alone.
        """
        model = self.model if called_through is None else called_through
        inputs = {"input_ids": input_ids, "attention_mask": self._mask(attention_mask), "use_cache": False}
        if position_ids is not None:
            # Only without a mask does transformers look for examples in the positions; padding is one by itself.
            inputs |= {"attention_mask": None, "position_ids": position_ids}
        length = chosen_BT.shape[1]
        if self.head is None:
            return FinalStates(model(**inputs).logits[:, :length][chosen_BT], None)
        seen: list[Tensor] = []
        hook = self.backbone.register_forward_hook(lambda _module, _inputs, output: seen.append(output[0]))
        try:
            logits_B1V = model(**inputs, logits_to_keep=1).logits
        finally:
            hook.remove()
        if not self.checked and (reason := self._disagreement(seen[-1], logits_B1V)):
            self._fall_back(reason)
            return self.read(input_ids, attention_mask, chosen_BT, called_through, position_ids)
        return FinalStates(seen[-1][:, :length][chosen_BT], self.head.weight, self.head.bias)

    def _mask(self, mask_BT: Tensor) -> Tensor | None:
        """None where causal attention hides the padding anyway: a step is 6 to 8 % faster without a mask (CPU)."""
        padded_right = bool((mask_BT[:, 1:] <= mask_BT[:, :-1]).all())
        return None if self.causal and padded_right else mask_BT

    def _unreachable(self) -> str | None:
        if self.backbone is self.causal_lm:
            return "has no backbone of its own"
        if "logits_to_keep" not in inspect.signature(self.causal_lm.forward).parameters:
            return "cannot leave logits out"
        if not isinstance(self.head, nn.Linear) or not self.head.weight.is_floating_point():
            return f"has a {type(self.head).__name__} as its output head"
        if getattr(self.causal_lm.config.get_text_config(), "final_logit_softcapping", None):
            return "caps its logits (final_logit_softcapping)"
        return None

    @torch.no_grad()
    def _disagreement(self, hidden_BTD: Tensor, logits_B1V: Tensor) -> str | None:
        """Compares head and model on the last position of the first batch."""
        self.checked = True
        assert self.head is not None
        own_B1V = FinalStates(hidden_BTD[:, -1:], self.head.weight, self.head.bias).logits().float()
        tolerance = 1e-4 if self.head.weight.dtype in (torch.float32, torch.float64) else 2e-2
        apart = float((own_B1V - logits_B1V.float()).abs().max())
        if apart <= tolerance * float(own_B1V.abs().max()):
            return None
        return "makes logits that its output head alone does not"

    def _fall_back(self, reason: str) -> None:
        self.head = None
        say(f"train  {type(self.causal_lm).__name__} {reason}: its logits are formed in full, which takes more memory")

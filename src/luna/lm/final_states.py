"""What a model makes of chosen tokens: its final hidden states and the output head that turns them into logits.

Logits of every position of a batch would fill gigabytes at a vocabulary of 152k, and a loss needs few of them. So the
head is kept from all positions but the last, and the hidden states are read where the model hands them to its head.
"""

from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from torch import Tensor


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
        return self.hidden_ND if self.weight_VD is None else F.linear(self.hidden_ND, self.weight_VD, self.bias_V)

    def at(self, chosen_N: Tensor) -> "FinalStates":
        """The chosen tokens alone."""
        return FinalStates(self.hidden_ND[chosen_N], self.weight_VD, self.bias_V)

"""The trainer of distillation: the student's logits and those of two frozen teachers, token by token.

This module imports torch and TRL at once; a stage imports it inside its command.
"""

from collections.abc import Sequence
from typing import Any

import torch

from luna.distill.loss import Blend, Branch, two_teacher_loss
from luna.training.trainer import TokenTrainer

SHARES = {
    Branch.BLENDED: "share_blended",
    Branch.T1_ONLY: "share_t1_only",
    Branch.GOLD_FALLBACK: "share_gold_fallback",
    Branch.SKIP: "share_skip",
}


class DistillTrainer(TokenTrainer):
    """A TokenTrainer whose loss is `two_teacher_loss`. Logs the parts of the loss and the share of each branch."""

    def __init__(
        self, *, primary: Any, critic: Any, blend: Blend, taboo_ids: Sequence[int] | None, **rest: Any
    ) -> None:
        super().__init__(**rest)
        self.primary = primary
        self.critic = critic
        self.blend = blend
        self.taboo_ids = taboo_ids
        self.branch_counts = torch.zeros(len(Branch), dtype=torch.long)
        self.last_parts: dict[str, float] = {}
        self._window = torch.zeros(len(Branch), dtype=torch.long)
        self._parts = torch.zeros(3, dtype=torch.float64)
        self._logged_at = 0

    def token_loss(
        self, logits_NV: torch.Tensor, labels_N: torch.Tensor, num_items: float, inputs: Any
    ) -> torch.Tensor:
        primary_NV = self._teach(self.primary, inputs)
        critic_NV = primary_NV if self.critic is self.primary else self._teach(self.critic, inputs)
        parts = two_teacher_loss(logits_NV, primary_NV, critic_NV, labels_N, self.blend, int(num_items), self.taboo_ids)
        self._window += torch.bincount(parts.branches_N.cpu(), minlength=len(Branch))
        self._parts += torch.tensor([parts.ce.item(), parts.kd.item(), parts.residual.item()], dtype=torch.float64)
        return parts.loss

    @torch.no_grad()
    def _teach(self, teacher: Any, inputs: Any) -> torch.Tensor:
        """A teacher's logits [N, V] at the supervised tokens of the batch."""
        outputs = teacher(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        logits_NV: torch.Tensor = outputs.logits[:, :-1][inputs["supervised"]]
        return logits_NV

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and int(self._window.sum()):
            steps = self.state.global_step - self._logged_at
            self._logged_at = self.state.global_step
            shares = (self._window / self._window.sum()).tolist()
            self.last_parts = dict(
                zip(("loss_ce", "loss_kd", "loss_residual"), (self._parts / steps).tolist(), strict=True)
            )
            logs |= self.last_parts | {SHARES[branch]: shares[branch] for branch in Branch}
            self.branch_counts += self._window
            self._window.zero_()
            self._parts.zero_()
        super().log(logs, start_time)

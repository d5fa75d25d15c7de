"""The trainer of distillation: what the student and two frozen teachers say, token by token.

This module imports torch and TRL at once; a stage imports it inside its command.
"""

from collections.abc import Sequence
from typing import Any

import torch

from luna.distill.fused import fused_two_teacher_loss
from luna.distill.loss import Blend, Branch, LossParts, two_teacher_loss
from luna.distill.teachers import Teacher
from luna.ranks import is_first, summed
from luna.training.final_states import FinalStates
from luna.training.packing import unpack
from luna.training.trainer import TokenTrainer

SHARES = {
    Branch.BLENDED: "share_blended",
    Branch.T1_ONLY: "share_t1_only",
    Branch.GOLD_FALLBACK: "share_gold_fallback",
    Branch.SKIP: "share_skip",
}


class DistillTrainer(TokenTrainer):
    """A TokenTrainer whose loss is that of two teachers. Logs the parts of the loss and the share of each branch."""

    def __init__(
        self, *, primary: Teacher, critic: Teacher, blend: Blend, taboo_ids: Sequence[int] | None, **rest: Any
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

    def token_loss(self, states: FinalStates, labels_N: torch.Tensor, num_items: float, inputs: Any) -> torch.Tensor:
        primary = self._teach(self.primary, inputs)
        critic = primary if self.critic is self.primary else self._teach(self.critic, inputs)
        parts = self._loss(states, primary, critic, labels_N, int(num_items))
        if self.model.training:  # held-out examples are only looked at
            self._count(parts)
        return parts.loss

    def _count(self, parts: LossParts) -> None:
        self._window += torch.bincount(parts.branches_N.cpu(), minlength=len(Branch))
        self._parts += torch.tensor([parts.ce.item(), parts.kd.item(), parts.residual.item()], dtype=torch.float64)

    def _teach(self, teacher: Teacher, inputs: Any) -> FinalStates:
        """Teachers read every example in a row of its own, so what is kept of them does not depend on packing."""
        batch = (inputs["input_ids"], inputs["attention_mask"])
        if "position_ids" not in inputs:
            return teacher(*batch, inputs["supervised"])
        return teacher(*unpack(*batch, inputs["position_ids"], inputs["supervised"]))

    def _loss(
        self, student: FinalStates, primary: FinalStates, critic: FinalStates, labels_N: torch.Tensor, num_items: int
    ) -> LossParts:
        """From hidden states where all three have a head, else by the definition on logits."""
        models = (student, primary, critic)
        if all(states.weight_VD is not None for states in models):
            return fused_two_teacher_loss(*models, labels_N, self.blend, num_items, self.taboo_ids)
        student_NV, primary_NV, critic_NV = (states.logits() for states in models)
        return two_teacher_loss(student_NV, primary_NV, critic_NV, labels_N, self.blend, num_items, self.taboo_ids)

    def counts(self) -> dict[str, Any]:
        # Logging empties the window and the parts, and a step that is saved may not be one that is logged.
        tensors = {"branches": self.branch_counts, "window": summed(self._window), "parts": summed(self._parts)}
        counted = {name: tensor.tolist() for name, tensor in tensors.items()}
        return super().counts() | counted | {"last_parts": self.last_parts, "logged_at": self._logged_at}

    def recount(self, counts: dict[str, Any]) -> None:
        super().recount(counts)
        self.branch_counts = torch.tensor(counts["branches"])
        if is_first():
            self._window = torch.tensor(counts["window"])
            self._parts = torch.tensor(counts["parts"], dtype=torch.float64)
        self.last_parts, self._logged_at = counts["last_parts"], counts["logged_at"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self._report()
        super().log(logs, start_time)

    def _report(self) -> dict[str, float]:
        """Parts of the loss and shares of the branches since the last report, over all ranks."""
        window, parts = summed(self._window), summed(self._parts)
        if not int(window.sum()):
            return {}
        steps = self.state.global_step - self._logged_at
        self._logged_at = self.state.global_step
        shares = (window / window.sum()).tolist()
        self.last_parts = dict(zip(("loss_ce", "loss_kd", "loss_residual"), (parts / steps).tolist(), strict=True))
        self.branch_counts += window
        self._window.zero_()
        self._parts.zero_()
        return self.last_parts | {SHARES[branch]: shares[branch] for branch in Branch}

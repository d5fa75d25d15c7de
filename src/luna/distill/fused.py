"""The two-teacher loss from final hidden states: the numbers of `luna.distill.loss`, without its memory.

At a vocabulary of 152k the logits of 1,024 tokens fill 0.6 GB, and the definition keeps a dozen tensors of that size.
Here loss and gradient are formed for a chunk of tokens at a time (`luna.distill.chunk`), in the forward pass; the
backward only scales what is stored. Of the vocabulary's size there are three buffers [chunk, V], one for each model,
whatever N is, and a gradient [V, D] only if the head is trained.

Shapes: N tokens, C tokens of a chunk, V vocabulary, D width of a model.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from luna.distill.chunk import Desk, Lesson, Tile, disagreement, project, read_gates
from luna.distill.loss import Blend, LossParts, check_labels, check_num_items, taught_ids
from luna.lm.chat import IGNORE
from luna.training.final_states import FinalStates


def fused_two_teacher_loss(
    student: FinalStates,
    primary: FinalStates,
    critic: FinalStates,
    labels_N: Tensor,
    blend: Blend,
    num_items: "int | Tensor",
    taboo_ids: Sequence[int] | None = None,
    has_gold_N: Tensor | None = None,
    chunk: int | None = None,
) -> LossParts:
    """`two_teacher_loss` of the logits that the three heads make of the hidden states.

    The student's hidden states get a gradient, its head too where its weight or bias asks for one; teachers never do.
    Teachers that are the same tensors are read once. Heads and hidden states may be in half precision; everything else
    is computed in float32 or, given float64, in float64. A head may rule ids out by a bias of -inf.

    Args:
        student: hidden states that predict `labels_N`, already shifted. Widths and vocabularies may differ between
            models as they may in `two_teacher_loss`, which also tells what the other arguments mean.
        chunk: tokens at a time; None: as many as fit BUFFER_BYTES.

    Raises:
        ValueError: what `two_teacher_loss` raises, for the same reasons.
    """
    check_num_items(num_items)
    alone = critic is primary or _same(critic, primary)
    supervised_N = labels_N != IGNORE
    labels_N = labels_N[supervised_N]
    gold_N = torch.ones_like(labels_N, dtype=torch.bool) if has_gold_N is None else has_gold_N[supervised_N].bool()
    student, primary = student.at(supervised_N), primary.at(supervised_N)
    critic = primary if alone else critic.at(supervised_N)
    work = _Work(student, primary, None if alone else critic, blend, taboo_ids or (), chunk)
    check_labels(labels_N, work.shared)
    with torch.no_grad(), torch.autocast(labels_N.device.type, enabled=False):
        for start in range(0, len(labels_N), work.desk.chunk):
            work.add(slice(start, start + work.desk.chunk), labels_N, gold_N)
        parts, gradients = work.finish(num_items)
    leaves = (student.hidden_ND, student.weight_VD, student.bias_V)
    loss = _WithGradients.apply(parts.pop("loss"), gradients, *leaves)  # type: ignore[no-untyped-call]
    return LossParts(loss=loss, **parts)


def _same(one: FinalStates, other: FinalStates) -> bool:
    return one.hidden_ND is other.hidden_ND and one.weight_VD is other.weight_VD and one.bias_V is other.bias_V


class _WithGradients(torch.autograd.Function):
    """A loss whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: tuple[Tensor | None, ...], *leaves: Tensor | None) -> Tensor:
        ctx.save_for_backward(*gradients)
        ctx.dtypes = [None if leaf is None else leaf.dtype for leaf in leaves]
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        # Not in place: with retain_graph it may be called again.
        scaled = (
            None if gradient is None else (gradient * scale).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return None, None, *scaled


class _Work:
    """What the chunks add up to: sums of CE, KD and R, the gradients, and what the gates made of each token."""

    def __init__(
        self,
        student: FinalStates,
        primary: FinalStates,
        critic: FinalStates | None,
        blend: Blend,
        taboo_ids: Sequence[int],
        chunk: int | None,
    ) -> None:
        models = [student, primary, *([] if critic is None else [critic])]
        assert student.weight_VD is not None
        self.hidden_ND, self.weight_VD = student.hidden_ND.detach(), student.weight_VD.detach()
        self.blend = blend
        self.dtype = torch.promote_types(student.hidden_ND.dtype, torch.float32)
        self.shared = min(states.vocabulary for states in models)
        taught = taught_ids(self.shared, taboo_ids, student.hidden_ND.device)
        self.desk = Desk(models, taught, self.dtype, chunk)
        self.hidden, self.weight, self.bias = (
            torch.zeros_like(leaf, dtype=self.dtype)
            if leaf is not None and leaf.requires_grad and torch.is_grad_enabled()
            else None
            for leaf in (student.hidden_ND, student.weight_VD, student.bias_V)
        )
        self.sums = torch.zeros(3, dtype=torch.float64, device=taught.device)
        self.seen: list[tuple[Tensor, ...]] = []

    def add(self, rows: slice, labels_N: Tensor, gold_N: Tensor) -> None:
        """One chunk: its loss, its gradients, its branches."""
        labels_C, gold_C = labels_N[rows], gold_N[rows]
        student, teachers = project(self.desk, rows, labels_C, self.blend)
        js_C = disagreement(self.desk, teachers, self.blend)
        if js_C.isnan().any():
            row = rows.start + int(js_C.isnan().nonzero()[0])
            raise ValueError(
                f"a teacher's logits hold NaN or inf at supervised token {row}; check its weights and dtype"
            )
        signal = read_gates(teachers, js_C, gold_C, self.blend)
        lesson = Lesson(self.desk, student, teachers, signal, self.blend)
        kl_C, residual_C = lesson.teach()
        kd_C = signal.kl_C * kl_C + signal.fallback_C * student.ce_C
        self.sums += torch.stack([(signal.ce_C * student.ce_C).sum(), kd_C.sum(), residual_C.sum()])
        self.seen.append((signal.branches_C, js_C, teachers[0].confidence_C, teachers[-1].confidence_C))
        self._pass_back(rows, labels_C, lesson.ce_C.to(self.dtype))

    def _pass_back(self, rows: slice, labels_C: Tensor, ce_C: Tensor) -> None:
        """From the gradient by the logits, which is on the desk, to hidden states and head."""
        for tile in self.desk.tiles:
            self._pass_tile_back(tile, rows, self.desk.part(0, tile, len(labels_C)))
        if self.hidden is not None:
            self.hidden[rows] -= ce_C[:, None] * self.weight_VD[labels_C]
        if self.weight is not None:
            self.weight.index_add_(0, labels_C, -ce_C[:, None] * self.hidden_ND[rows])
        if self.bias is not None:
            self.bias.index_add_(0, labels_C, -ce_C)

    def _pass_tile_back(self, tile: Tile, rows: slice, gradient_CW: Tensor) -> None:
        ids = slice(tile.start, tile.stop)
        if self.hidden is not None:
            _add_product(self.hidden[rows], gradient_CW, self.weight_VD[ids])
        if self.weight is not None:
            _add_product(self.weight[ids], gradient_CW.T, self.hidden_ND[rows])
        if self.bias is not None:
            self.bias[ids] += gradient_CW.sum(0)

    def finish(self, num_items: "int | Tensor") -> tuple[dict[str, Tensor], tuple[Tensor | None, ...]]:
        """The fields of LossParts, and the gradients of the student's hidden states, head weight and head bias."""
        gradients = (self.hidden, self.weight, self.bias)
        for gradient in gradients:
            if gradient is not None:
                gradient /= num_items
        ce, kd, residual = (self.sums / num_items).to(self.dtype)
        blend = self.blend
        loss = blend.alpha * ce + blend.beta * kd + blend.gamma * residual
        return {"loss": loss, "ce": ce, "kd": kd, "residual": residual, **self._tokens()}, gradients

    def _tokens(self) -> dict[str, Tensor]:
        nothing = self.sums[:0]
        columns = list(zip(*self.seen, strict=True)) or [(nothing.long(),), (nothing,), (nothing,), (nothing,)]
        branches_N, *others = (torch.cat(column) for column in columns)
        names = ("js_N", "primary_confidence_N", "critic_confidence_N")
        return {"branches_N": branches_N} | {
            name: column.to(self.dtype) for name, column in zip(names, others, strict=True)
        }


def _add_product(sum_: Tensor, one: Tensor, other: Tensor) -> None:
    """sum += one @ other, multiplied in the precision of `other`."""
    if other.dtype == sum_.dtype:
        sum_.addmm_(one, other)
    else:
        sum_ += one.to(other.dtype) @ other

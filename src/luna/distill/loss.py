"""The two-teacher loss. This file is its definition: every faster form must give the same numbers.

T1 (primary) and T2 (critic) are frozen; the student learns a blend of what they predict. With z the logits of one
supervised token, T the temperature and Tg the gate temperature:

    q_i = softmax(z_i / Tg)      what the gates look at
    p_i = softmax(z_i / T)       what the student is to learn
    c_i = confidence of q_i      its largest probability, or 1 - H(q_i) / ln V
    JS  = Jensen-Shannon divergence of q_1 and q_2 in bits, from 0 (identical) to 1 (disjoint)

    branch          when                                  KD
    BLENDED         JS < js_threshold                     T^2 KL(w_1 p_1 + w_2 p_2 || student), w_i = c_i / (c_1 + c_2)
    T1_ONLY         else c_1 > confidence_threshold       T^2 KL(p_1 || student)
    GOLD_FALLBACK   else the token has a gold label       gold_weight CE
    SKIP            else                                  0

    L = 1/num_items sum over tokens of (alpha CE + beta KD + gamma R)

CE is the cross-entropy of the gold label at temperature 1 over the student's whole vocabulary, on all tokens with gold
or, with `ce_on: gold_fallback`, in that branch only. KL may be turned round or made symmetric (`divergence`); R is
described at `residual`. The factor T^2 keeps the gradient's size when T changes (Hinton et al., 2015, "Distilling the
Knowledge in a Neural Network").

Taboo ids are taken out of all three distributions, which are normalised over the rest: V counts the ids that remain,
and no gradient of KL or R reaches a taboo id. CE knows no taboo, in the gold branch neither.

Shapes: N tokens, V vocabulary. Everything is computed in float32 or, given float64, in float64.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Literal

from luna.lm.chat import IGNORE

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from luna.settings import Params

Confidence = Literal["top1", "inverse_entropy"]
Divergence = Literal["forward", "reverse", "jsd"]

# Reverse KL is infinite where the target is 0. There the target counts as e^-87, about the least float32 can hold.
LOG_FLOOR = -87.0


class Branch(IntEnum):
    """Which signal a token is taught by."""

    BLENDED = 0
    T1_ONLY = 1
    GOLD_FALLBACK = 2
    SKIP = 3


@dataclass(frozen=True)
class Blend:
    """The dials of the loss; the formulas above say what each does."""

    alpha: float
    beta: float
    gamma: float
    temperature: float
    gate_temperature: float
    confidence: Confidence
    kl: Divergence
    ce_on: Literal["all", "gold_fallback"]
    residual: Literal["skip", "agreement", "confidence_split"]
    js_threshold: float
    confidence_threshold: float
    gold_weight: float

    @classmethod
    def from_params(cls, params: "Params") -> "Blend":
        """The dials as params.yaml sets them."""
        return cls(
            alpha=params.alpha,
            beta=params.beta,
            gamma=params.gamma,
            temperature=params.temperature,
            gate_temperature=params.distill.gate_temperature,
            confidence=params.distill.confidence,
            kl=params.distill.kl,
            ce_on=params.distill.ce_on,
            residual=params.distill.residual,
            js_threshold=params.distill.js_threshold,
            confidence_threshold=params.distill.confidence_threshold,
            gold_weight=params.distill.gold_weight,
        )


@dataclass(frozen=True)
class LossParts:
    """A loss and what it is made of: `loss` = alpha `ce` + beta `kd` + gamma `residual`.

    The three parts are detached sums in nats over the given tokens, divided by `num_items`; `residual` is not computed
    where gamma is 0, and then counts 0. The N of the other fields
    counts the supervised tokens alone, in their order: `branches_N` holds `Branch` values, `js_N` bits from 0 to 1.
    """

    loss: "Tensor"
    ce: "Tensor"
    kd: "Tensor"
    residual: "Tensor"
    branches_N: "Tensor"
    js_N: "Tensor"
    primary_confidence_N: "Tensor"
    critic_confidence_N: "Tensor"


def two_teacher_loss(
    student_logits_NV: "Tensor",
    primary_logits_NV: "Tensor",
    critic_logits_NV: "Tensor",
    labels_N: "Tensor",
    blend: Blend,
    num_items: "int | Tensor",
    taboo_ids: Sequence[int] | None = None,
    has_gold_N: "Tensor | None" = None,
) -> LossParts:
    """The loss of N tokens, by the definition at the head of this file. Only the student gets a gradient.

    Args:
        student_logits_NV: logits that predict `labels_N`, already shifted. The three vocabularies may differ in their
            padding: KD, R and the gates use the ids that all three have, CE all of the student's.
        primary_logits_NV: logits of T1.
        critic_logits_NV: logits of T2.
        labels_N: token ids; a token labelled -100 counts nowhere, whatever its logits hold.
        blend: the dials.
        num_items: supervised tokens of the whole accumulated batch, of which these N may be a part.
        taboo_ids: ids without a teacher signal.
        has_gold_N: False where a supervised token's label is not to be trusted, such as in a sample of the student's
            own: it has no CE and its branch may be SKIP. None: every label is gold.

    Raises:
        ValueError: `num_items` is not positive, a label is outside the shared vocabulary, a taboo id is negative or
            fewer than two ids remain, or a teacher's logits at a supervised token make no distribution.
    """
    check_num_items(num_items)
    supervised_N = labels_N != IGNORE
    labels_N = labels_N[supervised_N]
    gold_N = labels_N >= 0 if has_gold_N is None else has_gold_N[supervised_N].bool()
    student_NV = _promote(student_logits_NV[supervised_N])
    primary_NV = _promote(primary_logits_NV[supervised_N].detach())
    critic_NV = _promote(critic_logits_NV[supervised_N].detach())
    shared = min(logits_NV.shape[-1] for logits_NV in (student_NV, primary_NV, critic_NV))
    check_labels(labels_N, shared)
    ids = taught_ids(shared, taboo_ids or (), student_NV.device)
    teachers = read_teachers(primary_NV[:, ids], critic_NV[:, ids], gold_N, blend)
    ce_N = _cross_entropy(student_NV, labels_N)
    return _add_up(teachers, (student_NV[:, ids] / blend.temperature).log_softmax(-1), ce_N, gold_N, blend, num_items)


@dataclass(frozen=True)
class Teachers:
    """What the two teachers say of each token, and the branch that follows."""

    log_p1_NV: "Tensor"
    log_p2_NV: "Tensor"
    c1_N: "Tensor"
    c2_N: "Tensor"
    js_N: "Tensor"
    branches_N: "Tensor"


def read_teachers(primary_NV: "Tensor", critic_NV: "Tensor", has_gold_N: "Tensor", blend: Blend) -> Teachers:
    """Gate quantities at the gate temperature, predictions at the temperature of KD.

    Raises:
        ValueError: a row of logits holds NaN or +inf, or nothing but -inf.
    """
    log_q1_NV = (primary_NV / blend.gate_temperature).log_softmax(-1)
    log_q2_NV = (critic_NV / blend.gate_temperature).log_softmax(-1)
    js_N = disagreement(log_q1_NV, log_q2_NV)
    if js_N.isnan().any():
        row = int(js_N.isnan().nonzero()[0])
        raise ValueError(f"a teacher's logits hold NaN or inf at supervised token {row}; check its weights and dtype")
    c1_N = confidence(log_q1_NV, blend.confidence)
    return Teachers(
        log_p1_NV=(primary_NV / blend.temperature).log_softmax(-1),
        log_p2_NV=(critic_NV / blend.temperature).log_softmax(-1),
        c1_N=c1_N,
        c2_N=confidence(log_q2_NV, blend.confidence),
        js_N=js_N,
        branches_N=choose_branches(js_N, c1_N, has_gold_N, blend),
    )


def confidence(log_q_NV: "Tensor", kind: Confidence) -> "Tensor":
    """How sure a distribution is, from 0 to 1: its largest probability, or 1 - H / ln V (V at least 2)."""
    if kind == "top1":
        return log_q_NV.amax(-1).exp()
    q_NV = log_q_NV.exp()
    entropy_N = -(q_NV * log_q_NV.masked_fill(q_NV == 0, 0.0)).sum(-1)
    # Rounding may lift the entropy of a flat distribution a little over ln V.
    return (1 - entropy_N / math.log(log_q_NV.shape[-1])).clamp(0.0, 1.0)


def disagreement(log_q1_NV: "Tensor", log_q2_NV: "Tensor") -> "Tensor":
    """Jensen-Shannon divergence in bits: 0 for identical distributions, 1 for disjoint ones (Lin, 1991)."""
    return (jensen_shannon(log_q1_NV, log_q2_NV) / math.log(2)).clamp(0.0, 1.0)


def choose_branches(js_N: "Tensor", c1_N: "Tensor", has_gold_N: "Tensor", blend: Blend) -> "Tensor":
    """The branch of each token. Both thresholds are strict: JS has to be below its own, c_1 above."""
    import torch

    branches_N = torch.full_like(js_N, Branch.SKIP, dtype=torch.long)
    branches_N[has_gold_N] = Branch.GOLD_FALLBACK
    branches_N[c1_N > blend.confidence_threshold] = Branch.T1_ONLY
    branches_N[js_N < blend.js_threshold] = Branch.BLENDED
    return branches_N


def blended_target(log_p1_NV: "Tensor", log_p2_NV: "Tensor", c1_N: "Tensor", c2_N: "Tensor") -> "Tensor":
    """ln(w_1 p_1 + w_2 p_2) with weights in proportion to the confidences; two teachers without any count alike."""
    total_N = c1_N + c2_N
    w1_N = (c1_N / total_N).masked_fill(total_N == 0, 0.5)
    w2_N = (c2_N / total_N).masked_fill(total_N == 0, 0.5)
    return (w1_N.log()[:, None] + log_p1_NV).logaddexp(w2_N.log()[:, None] + log_p2_NV)


def divergence(log_target_NV: "Tensor", log_student_NV: "Tensor", kind: Divergence) -> "Tensor":
    """How far the student is from the target, in nats, per token.

    `forward` is KL(target || student), `reverse` KL(student || target), `jsd` the generalised Jensen-Shannon
    divergence at 1/2 (Agarwal et al., 2024, "On-Policy Distillation of Language Models"). All are finite, with finite
    gradients, where the target is 0 (see LOG_FLOOR).
    """
    if kind == "forward":
        return kullback_leibler(log_target_NV, log_student_NV)
    if kind == "reverse":
        return kullback_leibler(log_student_NV, log_target_NV.clamp_min(LOG_FLOOR))
    return jensen_shannon(log_target_NV, log_student_NV)


def residual(teachers: Teachers, log_student_NV: "Tensor", blend: Blend) -> "Tensor":
    """R of each token, at the temperature of KD but without T^2; always forward KL, whatever `kl` says.

    `skip`: KL(p_1 || student) where the teachers agree (JS < js_threshold), 0 elsewhere.
    `agreement`: (1 - JS) KL(p_1 || student), a soft form of the same.
    `confidence_split`: KL(p_1 || student) where c_1 > confidence_threshold, KL(p_2 || student) elsewhere.
    """
    toward_t1_N = kullback_leibler(teachers.log_p1_NV, log_student_NV)
    if blend.residual == "skip":
        return toward_t1_N.where(teachers.js_N < blend.js_threshold, 0.0)
    if blend.residual == "agreement":
        return (1 - teachers.js_N) * toward_t1_N
    toward_t2_N = kullback_leibler(teachers.log_p2_NV, log_student_NV)
    return toward_t1_N.where(teachers.c1_N > blend.confidence_threshold, toward_t2_N)


def kullback_leibler(log_p_NV: "Tensor", log_q_NV: "Tensor") -> "Tensor":
    """KL(p || q) in nats; ids where p is 0 add nothing, even where q is 0 too."""
    p_NV = log_p_NV.exp()
    return (p_NV * (log_p_NV - log_q_NV).masked_fill(p_NV == 0, 0.0)).sum(-1)


def jensen_shannon(log_p_NV: "Tensor", log_q_NV: "Tensor") -> "Tensor":
    """(KL(p || m) + KL(q || m)) / 2 in nats, m = (p + q) / 2."""
    import torch

    mean_NV = (log_p_NV.exp() + log_q_NV.exp()) / 2
    # The slope of ln at 0 would turn the zero gradient of an id that both leave out into NaN.
    log_mean_NV = mean_NV.clamp_min(torch.finfo(mean_NV.dtype).tiny).log()
    return (kullback_leibler(log_p_NV, log_mean_NV) + kullback_leibler(log_q_NV, log_mean_NV)) / 2


def _add_up(
    teachers: Teachers,
    log_student_NV: "Tensor",
    ce_N: "Tensor",
    has_gold_N: "Tensor",
    blend: Blend,
    num_items: "int | Tensor",
) -> LossParts:
    import torch

    blended_N = teachers.branches_N == Branch.BLENDED
    taught_N = blended_N | (teachers.branches_N == Branch.T1_ONLY)
    fallback_N = teachers.branches_N == Branch.GOLD_FALLBACK
    mixed_NV = blended_target(teachers.log_p1_NV, teachers.log_p2_NV, teachers.c1_N, teachers.c2_N)
    log_target_NV = mixed_NV.where(blended_N[:, None], teachers.log_p1_NV)

    kl_N = divergence(log_target_NV[taught_N], log_student_NV[taught_N], blend.kl)
    kd = (blend.temperature**2 * kl_N.sum() + blend.gold_weight * ce_N[fallback_N].sum()) / num_items
    ce = ce_N[has_gold_N if blend.ce_on == "all" else fallback_N].sum() / num_items
    # With gamma 0 nothing is computed for it: at a vocabulary of 152k it would cost as much as KD.
    rest = residual(teachers, log_student_NV, blend).sum() / num_items if blend.gamma else torch.zeros_like(kd)
    return LossParts(
        loss=blend.alpha * ce + blend.beta * kd + blend.gamma * rest,
        ce=ce.detach(),
        kd=kd.detach(),
        residual=rest.detach(),
        branches_N=teachers.branches_N,
        js_N=teachers.js_N,
        primary_confidence_N=teachers.c1_N,
        critic_confidence_N=teachers.c2_N,
    )


def _cross_entropy(logits_NV: "Tensor", labels_N: "Tensor") -> "Tensor":
    return -logits_NV.log_softmax(-1).gather(-1, labels_N[:, None])[:, 0]


def _promote(logits_NV: "Tensor") -> "Tensor":
    import torch

    return logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))


def check_num_items(num_items: "int | Tensor") -> None:
    """Raises ValueError where nothing was counted."""
    if num_items <= 0:
        raise ValueError(f"num_items is {int(num_items)}; count the supervised tokens of the whole batch")


def check_labels(labels_N: "Tensor", shared: int) -> None:
    """Raises ValueError for a label that is not among the `shared` first ids."""
    wrong_N = (labels_N < 0) | (labels_N >= shared)
    if wrong_N.any():
        raise ValueError(f"label {int(labels_N[wrong_N][0])} is outside the {shared} ids that all three models have")


def taught_ids(shared: int, taboo_ids: Sequence[int], device: "torch.device") -> "Tensor":
    """The ids that teachers and student share and that are not taboo; a taboo id beyond them is gone already."""
    import torch

    if any(token < 0 for token in taboo_ids):
        raise ValueError(f"taboo id {min(taboo_ids)} is negative; give ids of the tokenizer")
    taught_V = torch.ones(shared, dtype=torch.bool, device=device)
    taught_V[[token for token in taboo_ids if token < shared]] = False
    ids = taught_V.nonzero()[:, 0]
    if len(ids) < 2:
        raise ValueError(f"{len(ids)} of {shared} ids are left beside the taboo; shorten the list of taboo words")
    return ids

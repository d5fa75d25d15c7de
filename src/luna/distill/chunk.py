"""The two-teacher loss of one chunk of tokens, tile by tile of the vocabulary: value and gradient by the logits.

The vocabulary is worked through three times, in tiles that fit the processor's cache:

1. `project`: the logits of a tile, the largest of each token, and sums of exponentials relative to that. The sums of
   all tiles are brought to one scale afterwards, in float64: float32 would lose digits over 152k summands.
2. `disagreement`: JS needs both teachers' normalised distributions, so it cannot be had earlier.
3. `teach`: target, divergence and gradient, which takes the place of the student's logits.

The gradient by the student's logits z. With s = softmax(z / T) over the taught ids, t the target, m = (t + s) / 2:

    d CE / dz           = softmax(z) - onehot(label)
    d KL(t || s) / dz   = (s - t) / T
    d KL(s || t) / dz   = s (r - sum s r) / T           r = ln s - ln t
    d JSD(t, s) / dz    = s (r - sum s r) / 2T          r = ln s - ln m

The last two follow from ds_i / dz_j = s_i (1[i = j] - s_j) / T; what differentiating ln s and ln m adds is the same for
every id and cancels. All three are (s sum(push) - push) / T, where `push` is t, -s r and -s r / 2. R is forward KL. The
onehot is left to the caller, who has the labels' rows of the head at hand.

Shapes: C tokens of the chunk, V vocabulary, W ids of a tile, K tiles.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from luna.distill.loss import LOG_FLOOR, Blend, Branch, Confidence, Divergence, choose_branches
from luna.training.final_states import FinalStates

# One buffer [chunk, V]. A matrix product reads the whole head once a chunk; from about 100 tokens on its arithmetic
# hides that, and at V = 152k this is 110 tokens.
BUFFER_BYTES = 64 * 2**20
# Elements of a tile: on a CPU so few that the next operation finds them in the cache; a GPU wants few kernels instead.
CPU_TILE, GPU_TILE = 2**17, 2**23
# The logit of an id that is out of a distribution: its exponential is 0, and no product with it is NaN.
GONE = -1e30


@dataclass(frozen=True)
class Tile:
    """Ids that are worked on together; `untaught` are the columns of taboo ids and of padding."""

    start: int
    stop: int
    untaught: Tensor


@dataclass(frozen=True)
class Teacher:
    """One teacher at C tokens: ln q and ln p of an id are (z - the tile's largest z) / temperature + log scale."""

    log_scale_q_KC: Tensor
    log_scale_p_KC: Tensor
    entropy_C: Tensor
    confidence_C: Tensor


@dataclass(frozen=True)
class Student:
    """The student at C tokens: its log scales at T and at 1, and CE over all its ids.

    `apart` holds, by tile, the probabilities at 1 of the untaught ids: they know CE alone.
    """

    log_scale_KC: Tensor
    log_scale_at_1_KC: Tensor
    apart: list[Tensor]
    ce_C: Tensor


@dataclass(frozen=True)
class Signal:
    """What the gates decided: the target a1 p1 + a2 p2, the weight of KL and of CE in KD, of CE, and of R to p1, p2."""

    branches_C: Tensor
    target_C: tuple[Tensor, Tensor]
    kl_C: Tensor
    fallback_C: Tensor
    ce_C: Tensor
    residual_C: tuple[Tensor, Tensor]


class Desk:
    """Room for one chunk: the logits of student and teachers, and space for a tile's results.

    One teacher stands for both where they are the same.
    """

    def __init__(self, models: Sequence[FinalStates], taught: Tensor, dtype: torch.dtype, chunk: int | None) -> None:
        device = models[0].hidden_ND.device
        vocabulary = models[0].vocabulary
        fitting, width = sizes(vocabulary, dtype.itemsize, device)
        self.models = models
        self.chunk = min(chunk or fitting, max(1, len(models[0].hidden_ND)))
        self.tiles = tiles(vocabulary, width, taught)
        self.taught = len(taught)
        self.logits = [torch.empty(self.chunk * vocabulary, dtype=dtype, device=device) for _ in models]
        self.spares = [torch.empty(self.chunk * width, dtype=dtype, device=device) for _ in range(4)]

    def part(self, model: int, tile: Tile, count: int) -> Tensor:
        """A tile of `count` tokens of a model, in one piece of memory."""
        width = tile.stop - tile.start
        return self.logits[model][self.chunk * tile.start :][: count * width].view(count, width)

    def spare(self, tile: Tile, count: int) -> list[Tensor]:
        """Four tensors of the tile's shape."""
        width = tile.stop - tile.start
        return [spare[: count * width].view(count, width) for spare in self.spares]


def sizes(vocabulary: int, itemsize: int, device: torch.device) -> tuple[int, int]:
    """Tokens of a chunk and ids of a tile.

    With a small vocabulary a chunk is as long as the tile's budget allows, not the buffer's: longer ones would leave
    the cache, shorter ones pay for more operations than arithmetic.
    """
    budget = CPU_TILE if device.type == "cpu" else GPU_TILE
    chunk = max(1, min(BUFFER_BYTES // (itemsize * vocabulary), max(256, budget // vocabulary)))
    return chunk, min(vocabulary, max(256, budget // chunk))


def tiles(vocabulary: int, width: int, taught: Tensor) -> list[Tile]:
    """The vocabulary in tiles; what is not among the taught ids is untaught."""
    untaught_V = torch.ones(vocabulary, dtype=torch.bool, device=taught.device)
    untaught_V[taught] = False
    starts = range(0, vocabulary, width)
    return [
        Tile(start, min(start + width, vocabulary), untaught_V[start : start + width].nonzero()[:, 0])
        for start in starts
    ]


# ---------------------------------------------------------------- first time over the vocabulary


def project(desk: Desk, rows: slice, labels_C: Tensor, blend: Blend) -> tuple[Student, list[Teacher]]:
    """Leaves on the desk z - its largest of the student, exp((z - its largest) / max(T, Tg)) of the teachers."""
    sums: list[list[Tensor]] = [[] for _ in desk.models]
    apart, label_z_C = [], desk.logits[0].new_zeros(len(labels_C))
    for tile in desk.tiles:
        spare = desk.spare(tile, len(labels_C))
        for model, states in enumerate(desk.models):
            z_CW = desk.part(model, tile, len(labels_C))
            _project_tile(states, rows, tile, z_CW)
            if model == 0:
                label_z_C = _pick(z_CW, labels_C, tile, label_z_C)
                apart.append(z_CW[:, tile.untaught])
            z_CW.index_fill_(1, tile.untaught, GONE)
            sums[model].append(_student_sums(z_CW, blend, spare) if model == 0 else _teacher_sums(z_CW, blend, spare))
    of_student, *of_teachers = (torch.stack(of_tiles, 1).double() for of_tiles in sums)
    student = _settle_student(of_student, apart, label_z_C.double(), blend)
    return student, [_settle_teacher(of_one, blend, desk.taught) for of_one in of_teachers]


def _project_tile(states: FinalStates, rows: slice, tile: Tile, out_CW: Tensor) -> None:
    """h W^T + b; ids beyond the model's vocabulary are GONE, and so are those that a bias of -inf rules out."""
    assert states.weight_VD is not None
    weight_WD = states.weight_VD.detach()[tile.start : tile.stop]
    known_CW = out_CW[:, : len(weight_WD)]
    hidden_CD = states.hidden_ND.detach()[rows].to(weight_WD.dtype)
    if weight_WD.dtype == out_CW.dtype:
        torch.mm(hidden_CD, weight_WD.T, out=known_CW)
    else:
        known_CW.copy_(hidden_CD @ weight_WD.T)
    if states.bias_V is not None:
        known_CW += states.bias_V.detach()[tile.start : tile.stop].to(out_CW.dtype).clamp_min(GONE)
    out_CW[:, len(weight_WD) :] = GONE


def _pick(z_CW: Tensor, labels_C: Tensor, tile: Tile, before_C: Tensor) -> Tensor:
    """The logits of those labels that lie in the tile; the others as before."""
    places_C = labels_C - tile.start
    found_C = z_CW.gather(1, places_C.clamp(0, z_CW.shape[1] - 1)[:, None])[:, 0]
    return found_C.where((places_C >= 0) & (places_C < z_CW.shape[1]), before_C)


def _student_sums(z_CW: Tensor, blend: Blend, spare: list[Tensor]) -> Tensor:
    """The largest z, sum exp(u / T) and sum exp(u), where u = z - largest takes the place of z."""
    top_C = z_CW.amax(-1)
    z_CW -= top_C[:, None]
    at_t_CW = torch.mul(z_CW, 1 / blend.temperature, out=spare[0]).exp_()
    if blend.temperature in (1, 2):
        at_1_CW = _power(at_t_CW, blend.temperature, spare[1])
    else:
        at_1_CW = torch.exp(z_CW, out=spare[1])
    return torch.stack([top_C, at_t_CW.sum(-1), at_1_CW.sum(-1)])


def _teacher_sums(z_CW: Tensor, blend: Blend, spare: list[Tensor]) -> Tensor:
    """The largest z, sum exp(u / T), sum exp(u / Tg) and sum u exp(u / Tg), where u = z - largest."""
    flattest = max(blend.temperature, blend.gate_temperature)
    top_C = z_CW.amax(-1)
    u_CW = torch.sub(z_CW, top_C[:, None], out=spare[0])
    flat_CW = torch.mul(u_CW, 1 / flattest, out=z_CW).exp_()
    of_p_C = _power(flat_CW, flattest / blend.temperature, spare[1]).sum(-1)
    q_CW = _power(flat_CW, flattest / blend.gate_temperature, spare[1])
    return torch.stack([top_C, of_p_C, q_CW.sum(-1), u_CW.mul_(q_CW).sum(-1)])


def _power(flat_CW: Tensor, power: float, out_CW: Tensor) -> Tensor:
    """exp(u / T) from exp(u / flattest): never from a sharper one, whose small values are 0 already."""
    if power == 1:
        return flat_CW
    return torch.mul(flat_CW, flat_CW, out=out_CW) if power == 2 else torch.pow(flat_CW, power, out=out_CW)


def _log_scale(top_KC: Tensor, sum_KC: Tensor, temperature: float) -> Tensor:
    """What is to be added to (z - the tile's largest) / temperature for ln softmax(z / temperature)."""
    below_KC = (top_KC - top_KC.amax(0)) / temperature
    return below_KC - (below_KC.exp() * sum_KC).sum(0).log()


def _settle_teacher(sums_4KC: Tensor, blend: Blend, taught: int) -> Teacher:
    top_KC, of_p_KC, of_q_KC, of_qu_KC = sums_4KC
    # A row without any id left is no distribution.
    top_KC = top_KC.where(top_KC.amax(0) > GONE / 2, math.nan)
    log_q_KC = _log_scale(top_KC, of_q_KC, blend.gate_temperature)
    entropy_C = -(log_q_KC.exp() * (of_qu_KC / blend.gate_temperature + log_q_KC * of_q_KC)).sum(0)
    return Teacher(
        log_scale_q_KC=log_q_KC,
        log_scale_p_KC=_log_scale(top_KC, of_p_KC, blend.temperature),
        entropy_C=entropy_C,
        confidence_C=_confidence(log_q_KC, entropy_C, blend.confidence, taught),
    )


def _confidence(log_scale_q_KC: Tensor, entropy_C: Tensor, kind: Confidence, taught: int) -> Tensor:
    if kind == "top1":
        return log_scale_q_KC.amax(0).exp()
    return (1 - entropy_C / math.log(taught)).clamp(0.0, 1.0)


def _settle_student(sums_3KC: Tensor, apart: list[Tensor], label_z_C: Tensor, blend: Blend) -> Student:
    top_KC, of_t_KC, of_1_KC = sums_3KC
    taught_C = top_KC.amax(0) - _log_scale(top_KC, of_1_KC, 1.0).amax(0)
    log_norm_C = taught_C.logaddexp(torch.cat(apart, 1).double().logsumexp(1))
    return Student(
        log_scale_KC=_log_scale(top_KC, of_t_KC, blend.temperature),
        log_scale_at_1_KC=top_KC - log_norm_C,
        apart=[(z_CU - log_norm_C[:, None]).exp().to(z_CU.dtype) for z_CU in apart],
        ce_C=log_norm_C - label_z_C,
    )


# ---------------------------------------------------------------- second time


def disagreement(desk: Desk, teachers: list[Teacher], blend: Blend) -> Tensor:
    """JS in bits: the entropy of the mixture less the mean entropy. NaN where a teacher makes no distribution."""
    first, last = teachers[0], teachers[-1]
    if first is last:
        return first.entropy_C - first.entropy_C
    power = max(blend.temperature, blend.gate_temperature) / blend.gate_temperature
    halves = [(one.log_scale_q_KC.exp() / 2).to(desk.logits[0].dtype)[:, :, None] for one in teachers]
    sums = []
    for number, tile in enumerate(desk.tiles):
        mixed_CW, spare_CW, *_ = desk.spare(tile, len(first.entropy_C))
        parts = [desk.part(model, tile, len(first.entropy_C)) for model in (1, 2)]
        torch.mul(_power(parts[0], power, spare_CW), halves[0][number], out=mixed_CW)
        mixed_CW.addcmul_(_power(parts[1], power, spare_CW), halves[1][number])
        sums.append(_log(mixed_CW, spare_CW).mul_(mixed_CW).sum(-1))
    mixed_entropy_C = -torch.stack(sums).double().sum(0)
    return ((mixed_entropy_C - (first.entropy_C + last.entropy_C) / 2) / math.log(2)).clamp(0.0, 1.0)


def _log(p_CW: Tensor, out_CW: Tensor) -> Tensor:
    """ln p, finite where p is 0."""
    return torch.clamp_min(p_CW, math.exp(LOG_FLOOR), out=out_CW).log_()


def read_gates(teachers: list[Teacher], js_C: Tensor, gold_C: Tensor, blend: Blend) -> Signal:
    """Branches and weights, by the table of `luna.distill.loss`."""
    c1_C, c2_C = teachers[0].confidence_C, teachers[-1].confidence_C
    branches_C = choose_branches(js_C, c1_C, gold_C, blend)
    blended_C = branches_C == Branch.BLENDED
    fallback_C = branches_C == Branch.GOLD_FALLBACK
    w1_C = (c1_C / (c1_C + c2_C)).masked_fill(c1_C + c2_C == 0, 0.5).where(blended_C, 1.0)
    return Signal(
        branches_C=branches_C,
        target_C=(w1_C, 1 - w1_C),
        kl_C=(blended_C | (branches_C == Branch.T1_ONLY)).to(js_C.dtype) * blend.temperature**2,
        fallback_C=fallback_C.to(js_C.dtype) * blend.gold_weight,
        ce_C=(gold_C if blend.ce_on == "all" else fallback_C).to(js_C.dtype),
        residual_C=_residual_weights(js_C, c1_C, blend),
    )


def _residual_weights(js_C: Tensor, c1_C: Tensor, blend: Blend) -> tuple[Tensor, Tensor]:
    """The weights of KL(p1 || student) and KL(p2 || student) in R."""
    none_C = torch.zeros_like(js_C)
    if blend.residual == "skip":
        return (js_C < blend.js_threshold).to(js_C.dtype), none_C
    if blend.residual == "agreement":
        return 1 - js_C, none_C
    sure_C = (c1_C > blend.confidence_threshold).to(js_C.dtype)
    return sure_C, 1 - sure_C


# ---------------------------------------------------------------- third time


class Lesson:
    """The third pass over a chunk, and what all of its tiles need as columns [C, 1] in the logits' dtype."""

    def __init__(self, desk: Desk, student: Student, teachers: list[Teacher], signal: Signal, blend: Blend) -> None:
        self.desk, self.blend = desk, blend
        self.student, self.teachers, self.signal = student, teachers, signal
        self.power = max(blend.temperature, blend.gate_temperature) / blend.temperature
        self.log_scale_s_K = self._column(student.log_scale_KC)
        self.log_scale_at_1_K = self._column(student.log_scale_at_1_KC)
        # softmax(z) is softmax(z / T)^T times this.
        at_1_C = student.log_scale_at_1_KC.amax(0) - blend.temperature * student.log_scale_KC.amax(0)
        self.ce_C = blend.alpha * signal.ce_C + blend.beta * signal.fallback_C
        self.ce = self._column(self.ce_C)
        self.ce_of_power = self._column(self.ce_C * at_1_C.exp())
        self.kl = self._column(blend.beta * signal.kl_C / blend.temperature)
        self.scales_K = [self._column(teacher.log_scale_p_KC.exp()) for teacher in teachers]
        # Of teachers that are the same p1 alone is the target, whatever its share.
        shares = signal.target_C if len(teachers) == 2 else (torch.ones_like(signal.kl_C),)
        self.mixing_K = [
            self._column(share_C * one.log_scale_p_KC.exp()) for share_C, one in zip(shares, teachers, strict=True)
        ]
        r1_C, r2_C = signal.residual_C
        self.residual_C = [r1_C, r2_C] if len(teachers) == 2 else [r1_C + r2_C]

    def _column(self, x_C: Tensor) -> Tensor:
        return x_C.to(self.desk.logits[0].dtype)[..., None]

    def teach(self) -> tuple[Tensor, Tensor]:
        """Divergence and R of each token. The gradient by the logits, less the onehot, is on the desk afterwards."""
        kd_C = self.blend.beta * self.signal.kl_C * self._push_sum()
        pulled_C = self.blend.gamma * (self.signal.residual_C[0] + self.signal.residual_C[1])
        of_s = self._column((kd_C + pulled_C) / self.blend.temperature)
        values = [self._teach_tile(number, of_s) for number in range(len(self.desk.tiles))]
        kl_C, residual_C = torch.stack(values, 1).double().sum(1)
        return kl_C, residual_C

    def _push_sum(self) -> Tensor:
        """The sum of `push` over the vocabulary: of the target, which `forward` pushes by, it is 1."""
        if self.blend.kl == "forward":
            return torch.ones_like(self.signal.kl_C)
        sums = []
        for number in range(len(self.desk.tiles)):
            log_s_CW, s_CW, *spare = self._student(number)
            sums.append(_push(self.blend.kl, self._target(number, *spare), s_CW, log_s_CW, spare[1])[0].sum(-1))
        return torch.stack(sums).double().sum(0)

    def _teach_tile(self, number: int, of_s: Tensor) -> Tensor:
        tile = self.desk.tiles[number]
        log_s_CW, s_CW, target_CW, spare_CW = self._student(number)
        self._target(number, target_CW, spare_CW)
        push_CW, kl_C = _push(self.blend.kl, target_CW, s_CW, log_s_CW, spare_CW)
        residual_C, pulls = self._residual(number, log_s_CW)
        gradient_CW = self._cross_entropy_gradient(number, s_CW)
        gradient_CW.addcmul_(s_CW, of_s).addcmul_(push_CW, self.kl, value=-1)
        for p_CW, weight in pulls:
            gradient_CW.addcmul_(p_CW, weight, value=-1)
        gradient_CW[:, tile.untaught] = self.student.apart[number] * self.ce
        return torch.stack([kl_C, residual_C])

    def _student(self, number: int) -> list[Tensor]:
        """ln s and s of a tile, and what is left of the spare tensors."""
        tile = self.desk.tiles[number]
        log_s_CW, s_CW, *rest = self.desk.spare(tile, len(self.ce_C))
        u_CW = self.desk.part(0, tile, len(self.ce_C))
        torch.add(self.log_scale_s_K[number], u_CW, alpha=1 / self.blend.temperature, out=log_s_CW)
        return [log_s_CW, torch.exp(log_s_CW, out=s_CW), *rest]

    def _teacher(self, model: int, number: int, out_CW: Tensor) -> Tensor:
        """p of a tile, not yet scaled."""
        return _power(self.desk.part(model, self.desk.tiles[number], len(self.ce_C)), self.power, out_CW)

    def _target(self, number: int, out_CW: Tensor, spare_CW: Tensor) -> Tensor:
        """a1 p1 + a2 p2 of a tile."""
        torch.mul(self._teacher(1, number, spare_CW), self.mixing_K[0][number], out=out_CW)
        for model, mixing_K in enumerate(self.mixing_K[1:], start=2):
            out_CW.addcmul_(self._teacher(model, number, spare_CW), mixing_K[number])
        return out_CW

    def _cross_entropy_gradient(self, number: int, s_CW: Tensor) -> Tensor:
        """Its weight times softmax(z), in the place of the student's logits."""
        u_CW = self.desk.part(0, self.desk.tiles[number], len(self.ce_C))
        if self.blend.temperature == 2:
            return torch.mul(s_CW, s_CW, out=u_CW).mul_(self.ce_of_power)
        return u_CW.add_(self.log_scale_at_1_K[number]).exp_().mul_(self.ce)

    def _residual(self, number: int, log_s_CW: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """The value of R at a tile, and what pulls the student: p of a teacher with its weight."""
        value_C, pulls = torch.zeros_like(log_s_CW[:, 0]), []
        if self.blend.gamma:
            for model, (scale_K, weight_C) in enumerate(zip(self.scales_K, self.residual_C, strict=True), start=1):
                p_CW = self._teacher(model, number, torch.empty_like(log_s_CW)) * scale_K[number]
                kl_C = (_log(p_CW, torch.empty_like(p_CW)).sub_(log_s_CW) * p_CW).sum(-1)
                value_C += weight_C.to(kl_C.dtype) * kl_C
                pulls.append((p_CW, self._column(self.blend.gamma / self.blend.temperature * weight_C)))
        return value_C, pulls


def _push(
    kind: Divergence, target_CW: Tensor, s_CW: Tensor, log_s_CW: Tensor, spare_CW: Tensor
) -> tuple[Tensor, Tensor]:
    """`push` of a tile, and the divergence of each token there."""
    if kind == "forward":
        return target_CW, _log(target_CW, spare_CW).sub_(log_s_CW).mul_(target_CW).sum(-1)
    if kind == "reverse":
        push_CW = _log(target_CW, spare_CW).sub_(log_s_CW).mul_(s_CW)
        return push_CW, -push_CW.sum(-1)
    log_mean_CW = _log((target_CW + s_CW) / 2, torch.empty_like(s_CW))
    toward_CW = _log(target_CW, spare_CW).sub_(log_mean_CW).mul_(target_CW)
    push_CW = (log_mean_CW - log_s_CW).mul_(s_CW) / 2
    return push_CW, toward_CW.sum(-1) / 2 - push_CW.sum(-1)

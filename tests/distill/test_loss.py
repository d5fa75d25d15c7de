"""The two-teacher loss against a slow definition in plain floats, token by token, and against its own laws."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luna.distill.loss import (
    Blend,
    Branch,
    LossParts,
    blended_target,
    choose_branches,
    confidence,
    disagreement,
    divergence,
    kullback_leibler,
    two_teacher_loss,
)
from luna.settings import Params

DEFAULT = Blend(
    alpha=0.1,
    beta=0.9,
    gamma=0.0,
    temperature=2.0,
    gate_temperature=1.0,
    confidence="top1",
    kl="forward",
    ce_on="all",
    residual="skip",
    js_threshold=0.1,
    confidence_threshold=0.8,
    gold_weight=0.5,
)
KL = ("forward", "reverse", "jsd")
RESIDUAL = ("skip", "agreement", "confidence_split")
NEVER = float("-inf")


def but(**changes) -> Blend:
    return dataclasses.replace(DEFAULT, **changes)


# ---------------------------------------------------------------- the definition, in floats


def log_softmax(logits, temperature=1.0):
    scaled = [z / temperature for z in logits]
    top = max(scaled)
    norm = top + math.log(math.fsum(math.exp(z - top) for z in scaled))
    return [z - norm for z in scaled]


def kl_of(log_p, log_q):
    terms = [0.0 if math.exp(a) == 0 else math.exp(a) * (a - b) for a, b in zip(log_p, log_q, strict=True)]
    return math.fsum(terms)


def log_mean(a, b):
    """Of two probabilities in logs; halving the smallest float there is would give 0."""
    top = max(a, b)
    return top if top == NEVER else top + math.log((math.exp(a - top) + math.exp(b - top)) / 2)


def jsd_of(log_p, log_q):
    mean = [log_mean(a, b) for a, b in zip(log_p, log_q, strict=True)]
    return (kl_of(log_p, mean) + kl_of(log_q, mean)) / 2


def confidence_of(log_q, kind):
    if kind == "top1":
        return max(math.exp(a) for a in log_q)
    entropy = -math.fsum(math.exp(a) * a for a in log_q if a > NEVER)
    return 1 - entropy / math.log(len(log_q))


def token_by_definition(student, z1, z2, label, gold, blend, taboo):
    """(CE, KD, R, branch, JS, c1, c2) of one token."""
    shared = [v for v in range(min(len(student), len(z1), len(z2))) if v not in taboo]
    ce = -log_softmax(student)[label]
    s, z1, z2 = ([z[v] for v in shared] for z in (student, z1, z2))
    q1, q2 = log_softmax(z1, blend.gate_temperature), log_softmax(z2, blend.gate_temperature)
    c1, c2 = confidence_of(q1, blend.confidence), confidence_of(q2, blend.confidence)
    js = jsd_of(q1, q2) / math.log(2)
    p1, p2, ps = (log_softmax(z, blend.temperature) for z in (z1, z2, s))
    if js < blend.js_threshold:
        w1 = c1 / (c1 + c2)
        mixed = [w1 * math.exp(a) + (1 - w1) * math.exp(b) for a, b in zip(p1, p2, strict=True)]
        branch, target = Branch.BLENDED, [math.log(m) if m > 0 else NEVER for m in mixed]
    elif c1 > blend.confidence_threshold:
        branch, target = Branch.T1_ONLY, p1
    else:
        branch, target = (Branch.GOLD_FALLBACK if gold else Branch.SKIP), None

    if target is not None:
        least = [max(t, -87.0) for t in target]  # reverse KL counts a target of 0 as e^-87
        kinds = {"forward": kl_of(target, ps), "reverse": kl_of(ps, least), "jsd": jsd_of(target, ps)}
        kd = blend.temperature**2 * kinds[blend.kl]
    else:
        kd = blend.gold_weight * ce if gold else 0.0
    if blend.gamma == 0:
        rest = 0.0
    elif blend.residual == "skip":
        rest = kl_of(p1, ps) if js < blend.js_threshold else 0.0
    elif blend.residual == "agreement":
        rest = (1 - js) * kl_of(p1, ps)
    else:
        rest = kl_of(p1 if c1 > blend.confidence_threshold else p2, ps)
    counted = branch == Branch.GOLD_FALLBACK if blend.ce_on == "gold_fallback" else gold
    return (ce if counted else 0.0), kd, rest, branch, js, c1, c2


def by_definition(student, z1, z2, labels, blend, num_items, taboo=(), has_gold=None):
    rows = [
        token_by_definition(s.tolist(), a.tolist(), b.tolist(), int(y), gold, blend, taboo)
        for s, a, b, y, gold in zip(student, z1, z2, labels, has_gold or [True] * len(labels), strict=True)
        if int(y) != -100
    ]
    ce, kd, rest = (math.fsum(row[i] for row in rows) / num_items for i in range(3))
    loss = blend.alpha * ce + blend.beta * kd + blend.gamma * rest
    return loss, ce, kd, rest, [list(column) for column in zip(*(row[3:] for row in rows), strict=True)]


# ---------------------------------------------------------------- helpers


def random_case(seed, tokens=6, vocabulary=5, scale=2.0, dtype=torch.float64):
    """Student, two teachers that sometimes nearly agree, and labels."""
    rng = torch.Generator().manual_seed(seed)
    student, z1, noise = (torch.randn(tokens, vocabulary, generator=rng, dtype=dtype) * scale for _ in range(3))
    apart = torch.linspace(0.0, 2.0, tokens, dtype=dtype)[:, None]
    return student, z1, z1 + noise * apart, torch.randint(0, vocabulary, (tokens,), generator=rng)


def gradient_of(student, *rest, **options):
    leaf = student.clone().requires_grad_()
    two_teacher_loss(leaf, *rest, **options).loss.backward()
    return leaf.grad


def close(value, expected):
    np.testing.assert_allclose(np.asarray(value, dtype=float), np.asarray(expected, dtype=float), rtol=1e-9, atol=1e-9)


def assert_as_defined(parts: LossParts, expected) -> None:
    loss, ce, kd, rest, columns = expected
    branches, js, c1, c2 = columns or ([], [], [], [])
    assert [Branch(b) for b in parts.branches_N.tolist()] == branches
    close([x.item() for x in (parts.loss, parts.ce, parts.kd, parts.residual)], [loss, ce, kd, rest])
    close(parts.js_N.tolist(), js)
    close(parts.primary_confidence_N.tolist(), c1)
    close(parts.critic_confidence_N.tolist(), c2)


# ---------------------------------------------------------------- against the definition

weights = st.floats(0.0, 2.0)
temperatures = st.floats(0.3, 5.0)
blends = st.builds(
    Blend,
    alpha=weights,
    beta=weights,
    gamma=weights,
    temperature=temperatures,
    gate_temperature=temperatures,
    confidence=st.sampled_from(["top1", "inverse_entropy"]),
    kl=st.sampled_from(KL),
    ce_on=st.sampled_from(["all", "gold_fallback"]),
    residual=st.sampled_from(RESIDUAL),
    js_threshold=st.floats(0.02, 0.95),
    confidence_threshold=st.floats(0.1, 0.9),
    gold_weight=weights,
)


@st.composite
def cases(draw):
    tokens = draw(st.integers(1, 6))
    sizes = [draw(st.integers(4, 8)) for _ in range(3)]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([0.01, 1.0, 3.0, 30.0, 1000.0]))
    student, z1, z2 = (rng.normal(size=(tokens, size)) * scale for size in sizes)
    shared = min(sizes)
    twins = rng.random(tokens) < 0.4
    z2[twins, :shared] = z1[twins, :shared] + rng.normal(size=(int(twins.sum()), shared)) * 0.1
    if draw(st.booleans()):  # ids that a teacher rules out; id 0 stays so that every row is a distribution
        z1[:, 1:][rng.random(z1[:, 1:].shape) < 0.3] = NEVER
        z2[:, 1:][rng.random(z2[:, 1:].shape) < 0.3] = NEVER
    labels = rng.integers(0, shared, tokens)
    labels[rng.random(tokens) < 0.25] = -100
    has_gold = draw(st.one_of(st.none(), st.just((rng.random(tokens) < 0.5).tolist())))
    taboo = draw(st.sampled_from([(), (1,), (3, 1, 3), (2, 700)]))
    return *(torch.tensor(x) for x in (student, z1, z2, labels)), taboo, has_gold


@settings(max_examples=400, deadline=None, derandomize=True)
@given(case=cases(), blend=blends, num_items=st.integers(1, 20))
def test_equals_the_definition(case, blend, num_items):
    student, z1, z2, labels, taboo, has_gold = case
    gold_N = None if has_gold is None else torch.tensor(has_gold)
    expected = by_definition(student, z1, z2, labels, blend, num_items, taboo, has_gold)
    leaf = student.requires_grad_()
    parts = two_teacher_loss(leaf, z1, z2, labels, blend, num_items, taboo, gold_N)
    assert_as_defined(parts, expected)
    parts.loss.backward()
    assert leaf.grad.isfinite().all()


SETTINGS = list(
    itertools.product(KL, RESIDUAL, ("all", "gold_fallback"), ("top1", "inverse_entropy"), (True, False), (True, False))
)


@pytest.mark.parametrize(("kl", "rest", "ce_on", "kind", "masked", "trusted"), SETTINGS)
def test_every_combination_of_settings_equals_the_definition(kl, rest, ce_on, kind, masked, trusted):
    blend = but(kl=kl, residual=rest, ce_on=ce_on, confidence=kind, gamma=0.7, confidence_threshold=0.6)
    student, z1, z2, labels = random_case(5, tokens=24, vocabulary=7, scale=3.0)
    has_gold = None if trusted else [i % 2 == 0 for i in range(24)]
    taboo = (0, 4) if masked else ()
    gold_N = None if trusted else torch.tensor(has_gold)
    parts = two_teacher_loss(student, z1, z2, labels, blend, 30, taboo, gold_N)
    assert_as_defined(parts, by_definition(student, z1, z2, labels, blend, 30, taboo, has_gold))
    # the case is worth its name only if it visits every branch that it can
    assert set(parts.branches_N.tolist()) == set(Branch) - ({Branch.SKIP} if trusted else set())


@pytest.mark.parametrize(("kl", "rest"), list(itertools.product(KL, RESIDUAL)))
def test_gradient_is_that_of_the_loss(kl, rest):
    student, z1, z2, labels = random_case(3, tokens=5, vocabulary=4)
    labels[1] = -100
    z1[0, 2] = NEVER
    blend = but(kl=kl, residual=rest, alpha=0.3, gamma=0.6)
    branches = two_teacher_loss(student, z1, z2, labels, blend, 4).branches_N
    assert {int(Branch.BLENDED), int(Branch.GOLD_FALLBACK)} <= set(branches.tolist())
    assert torch.autograd.gradcheck(
        lambda x: two_teacher_loss(x, z1, z2, labels, blend, 4, taboo_ids=[1]).loss, student.requires_grad_()
    )


# ---------------------------------------------------------------- the small functions


def logs(*rows):
    return torch.tensor(rows, dtype=torch.float64).log()


def test_disagreement_is_zero_for_twins_one_for_strangers_and_symmetric():
    p, q = logs([0.5, 0.5, 0, 0], [1, 0, 0, 0], [0.7, 0.1, 0.1, 0.1]), logs([0, 0, 0.2, 0.8], [0, 1, 0, 0], [0.25] * 4)
    close(disagreement(p, p), [0, 0, 0])
    close(disagreement(p, q)[:2], [1, 1])
    close(disagreement(p, q), disagreement(q, p))
    assert 0 < disagreement(p, q)[2] < 1


def test_disagreement_of_a_coin_and_a_certainty():
    # m = (3/4, 1/4): H(m) - 1/2 H(coin) bits
    close(disagreement(logs([0.5, 0.5]), logs([1, 0])), [-(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)) - 0.5])


def test_confidence():
    log_q = logs([0.25] * 4, [0.5, 0.5, 0, 0], [1, 0, 0, 0])
    close(confidence(log_q, "top1"), [0.25, 0.5, 1.0])
    close(confidence(log_q, "inverse_entropy"), [0.0, 0.5, 1.0])


@pytest.mark.parametrize("vocabulary", [7, 12, 47, 50257])
def test_confidence_stays_between_zero_and_one_in_float32(vocabulary):
    flat, sure = torch.zeros(1, vocabulary), torch.zeros(1, vocabulary)
    sure[0, 0] = 200.0
    for logits, expected in ((flat, 0.0), (sure, 1.0)):
        c = confidence(logits.log_softmax(-1), "inverse_entropy").item()
        assert 0.0 <= c <= 1.0
        assert c == pytest.approx(expected, abs=1e-5)


def test_thresholds_are_strict_and_agreement_comes_first():
    blend = but(js_threshold=0.125, confidence_threshold=0.75)
    js = torch.tensor([0.125, 0.125, 0.1249, 0.1249, 0.126, 0.126])
    c1 = torch.tensor([0.75, 0.7501, 0.75, 0.99, 0.75, 0.75])
    gold = torch.tensor([True, True, True, False, True, False])
    expected = [Branch.GOLD_FALLBACK, Branch.T1_ONLY, Branch.BLENDED, Branch.BLENDED, Branch.GOLD_FALLBACK, Branch.SKIP]
    assert choose_branches(js, c1, gold, blend).tolist() == expected


def test_blended_target_weighs_by_confidence():
    c1_N, c2_N = torch.tensor([[0.6], [0.2]], dtype=torch.float64)
    target = blended_target(logs([0.9, 0.1]), logs([0.3, 0.7]), c1_N, c2_N)
    close(target.exp(), [[0.75, 0.25]])


def test_two_flat_teachers_count_alike():
    z = torch.zeros(1, 4, dtype=torch.float64)
    none = torch.zeros(1, dtype=torch.float64)
    close(blended_target(logs([1, 0]), logs([0, 1]), none, none).exp(), [[0.5, 0.5]])
    parts = two_teacher_loss(z, z, z, torch.tensor([2]), but(confidence="inverse_entropy"), 1)
    close([parts.kd.item(), parts.js_N.item(), parts.primary_confidence_N.item()], [0.0, 0.0, 0.0])


def test_divergences_of_known_distributions():
    target, student = logs([1, 0]), logs([0.5, 0.5])
    close(divergence(target, student, "forward"), [math.log(2)])
    close(divergence(target, student, "reverse"), [-math.log(2) + 0.5 * 87])
    close(divergence(target, student, "jsd"), disagreement(target, student) * math.log(2))
    close(divergence(student, target, "reverse"), [math.log(2)])


def test_kl_of_what_both_leave_out_is_nothing_and_its_gradient_is_finite():
    logits = torch.tensor([[0.0, 1.0, NEVER]], dtype=torch.float64, requires_grad=True)
    for kind in KL:
        (slope,) = torch.autograd.grad(divergence(logs([0.6, 0.4, 0]), logits.log_softmax(-1), kind).sum(), logits)
        assert slope.isfinite().all()
        assert slope[0, 2] == 0
    close(kullback_leibler(logs([1, 0, 0]), logs([1, 0, 0])), [0])


# ---------------------------------------------------------------- laws


def test_identical_teachers_are_blended_and_the_target_is_theirs():
    student, z1, _, labels = random_case(0)
    parts = two_teacher_loss(student, z1, z1, labels, DEFAULT, 6)
    assert set(parts.branches_N.tolist()) == {Branch.BLENDED}
    expected = 4 * kullback_leibler((z1 / 2).log_softmax(-1), (student / 2).log_softmax(-1)).sum() / 6
    close(parts.kd, expected)


@pytest.mark.parametrize("kl", KL)
def test_a_student_like_its_teachers_has_nothing_to_learn_from_them(kl):
    _, z1, _, labels = random_case(1)
    blend = but(alpha=0.0, gamma=1.0, kl=kl)
    close(two_teacher_loss(z1, z1, z1, labels, blend, 6).loss, 0)
    close(gradient_of(z1, z1, z1, labels, blend, 6), torch.zeros_like(z1))


def test_disjoint_teachers_leave_the_sure_primary_alone():
    z1 = torch.tensor([[5.0, NEVER, NEVER]], dtype=torch.float64)
    z2 = torch.tensor([[NEVER, 0.0, 0.0]], dtype=torch.float64)
    parts = two_teacher_loss(torch.zeros(1, 3, dtype=torch.float64), z1, z2, torch.tensor([1]), DEFAULT, 1)
    assert parts.branches_N.tolist() == [Branch.T1_ONLY]
    close([parts.js_N.item(), parts.kd.item(), parts.residual.item()], [1.0, 4 * math.log(3), 0.0])


@pytest.mark.parametrize("part", [("alpha", "ce"), ("beta", "kd"), ("gamma", "residual")])
def test_loss_is_linear_in_its_three_weights(part):
    weight, field = part
    case = random_case(2)
    blend = but(gamma=0.4, residual="agreement")
    slope = getattr(two_teacher_loss(*case, blend, 6), field)
    assert slope > 0
    at = [two_teacher_loss(*case, dataclasses.replace(blend, **{weight: x}), 6).loss for x in (0.0, 1.0, 3.0)]
    close([at[1] - at[0], at[2] - at[0]], [slope, 3 * slope])


def test_temperature_squared_keeps_the_size_of_the_gradient():
    student, z1, _, labels = random_case(4, scale=1.0)
    sizes = [gradient_of(student, z1, z1, labels, but(alpha=0.0, temperature=t), 6).norm() for t in (50.0, 100.0)]
    assert sizes[1] / sizes[0] == pytest.approx(1.0, abs=0.02)


def test_order_of_tokens_does_not_matter():
    student, z1, z2, labels = random_case(6, tokens=12)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    whole = two_teacher_loss(student, z1, z2, labels, DEFAULT, 12)
    mixed = two_teacher_loss(student[order], z1[order], z2[order], labels[order], DEFAULT, 12)
    close(mixed.loss, whole.loss)
    assert torch.equal(mixed.branches_N, whole.branches_N[order])


def test_halves_of_a_batch_add_up_to_the_whole():
    student, z1, z2, labels = random_case(7, tokens=9)
    labels[2] = -100
    blend = but(gamma=0.5, residual="confidence_split")
    halves = [two_teacher_loss(student[h], z1[h], z2[h], labels[h], blend, 8) for h in (slice(4), slice(4, None))]
    whole = two_teacher_loss(student, z1, z2, labels, blend, torch.tensor(8))
    for field in ("loss", "ce", "kd", "residual"):
        close(sum(getattr(half, field) for half in halves), getattr(whole, field))


# ---------------------------------------------------------------- what must not count


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), NEVER])
def test_unsupervised_tokens_may_hold_anything(poison):
    student, z1, z2, labels = random_case(8)
    labels[1] = labels[4] = -100
    kept = labels != -100
    clean = two_teacher_loss(student[kept], z1[kept], z2[kept], labels[kept], DEFAULT, 4)
    for logits in (student, z1, z2):
        logits[~kept] = poison
    leaf = student.requires_grad_()
    parts = two_teacher_loss(leaf, z1, z2, labels, DEFAULT, 4)
    parts.loss.backward()
    assert torch.equal(parts.loss, clean.loss)
    assert len(parts.branches_N) == len(parts.js_N) == 4
    assert (leaf.grad[~kept] == 0).all()
    assert leaf.grad.isfinite().all()


def test_a_batch_without_supervised_tokens_gives_zero():
    student, z1, z2, labels = random_case(9)
    labels[:] = -100
    leaf = student.requires_grad_()
    parts = two_teacher_loss(leaf, z1, z2, labels, DEFAULT, 3)
    parts.loss.backward()
    assert parts.loss.item() == 0
    assert (leaf.grad == 0).all()


def test_teachers_get_no_gradient():
    student, z1, z2, labels = (x.clone() for x in random_case(10))
    leaves = [x.requires_grad_() for x in (student, z1, z2)]
    two_teacher_loss(*leaves, labels, but(gamma=1.0), 6).loss.backward()
    assert leaves[0].grad.abs().sum() > 0
    assert leaves[1].grad is None
    assert leaves[2].grad is None


def test_padding_of_a_vocabulary_reaches_ce_alone():
    student, z1, z2, labels = random_case(11)
    padded = torch.cat([student, torch.ones(6, 3, dtype=torch.float64)], dim=1)
    poison = torch.full((6, 2), float("nan"), dtype=torch.float64)
    base = two_teacher_loss(student, z1, z2, labels, DEFAULT, 6)
    wide = two_teacher_loss(padded, torch.cat([z1, poison], dim=1), z2, labels, DEFAULT, 6)
    assert Branch.BLENDED in wide.branches_N.tolist()
    assert torch.equal(base.js_N, wide.js_N)
    assert wide.ce > base.ce  # CE shares its mass with the padded ids
    slope = gradient_of(padded, z1, z2, labels, but(alpha=0.0, gold_weight=0.0), 6)
    assert (slope[:, 5:] == 0).all()
    close(slope[:, :5], gradient_of(student, z1, z2, labels, but(alpha=0.0, gold_weight=0.0), 6))


@pytest.mark.parametrize("rest", RESIDUAL)
def test_taboo_ids_get_no_teacher_signal_while_ce_still_reaches_them(rest):
    student, z1, z2, labels = random_case(12, tokens=8, vocabulary=6)
    labels[0] = 2
    teachers_alone = but(alpha=0.0, gamma=0.5, gold_weight=0.0, residual=rest)
    slope = gradient_of(student, z1, z2, labels, teachers_alone, 8, taboo_ids=[2, 5])
    assert (slope[:, [2, 5]] == 0).all()
    assert (slope[:, [0, 1, 3, 4]] != 0).any()
    assert (gradient_of(student, z1, z2, labels, teachers_alone, 8)[:, [2, 5]] != 0).any()
    ce_alone = but(beta=0.0)
    with_taboo = gradient_of(student, z1, z2, labels, ce_alone, 8, taboo_ids=[2, 5])
    assert torch.equal(with_taboo, gradient_of(student, z1, z2, labels, ce_alone, 8))
    assert (with_taboo[:, [2, 5]] != 0).all()


def test_teachers_that_differ_on_a_taboo_id_only_agree():
    z1 = torch.tensor([[1.0, 2.0, 0.0, 9.0]], dtype=torch.float64)
    z2 = torch.tensor([[1.0, 2.0, 0.0, -9.0]], dtype=torch.float64)
    arguments = (torch.zeros(1, 4, dtype=torch.float64), z1, z2, torch.tensor([1]), DEFAULT, 1)
    assert two_teacher_loss(*arguments).branches_N.tolist() == [Branch.T1_ONLY]
    parts = two_teacher_loss(*arguments, taboo_ids=[3])
    assert parts.branches_N.tolist() == [Branch.BLENDED]
    close(parts.primary_confidence_N, torch.tensor([[1.0, 2.0, 0.0]], dtype=torch.float64).softmax(-1).amax(-1))


def test_a_token_without_gold_has_no_ce_and_may_be_skipped():
    student = torch.zeros(2, 3, dtype=torch.float64)
    z1 = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    z2 = torch.tensor([[0.0, 0.0, 9.0], [0.0, 0.0, 9.0]], dtype=torch.float64)
    gold = torch.tensor([True, False])
    parts = two_teacher_loss(student, z1, z2, torch.tensor([0, 0]), DEFAULT, 2, has_gold_N=gold)
    assert parts.branches_N.tolist() == [Branch.GOLD_FALLBACK, Branch.SKIP]
    close([parts.ce.item(), parts.kd.item()], [math.log(3) / 2, 0.5 * math.log(3) / 2])


# ---------------------------------------------------------------- precision, settings, errors


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    student, z1, z2, labels = random_case(13, dtype=torch.float32)
    half = [x.to(dtype) for x in (student, z1, z2)]
    parts = two_teacher_loss(*half, labels, DEFAULT, 6)
    assert parts.loss.dtype == torch.float32
    assert torch.equal(parts.loss, two_teacher_loss(*(x.float() for x in half), labels, DEFAULT, 6).loss)


def test_float64_stays_float64():
    assert two_teacher_loss(*random_case(14), DEFAULT, 6).loss.dtype == torch.float64


@settings(max_examples=100, deadline=None, derandomize=True)
@given(case=cases(), kl=st.sampled_from(KL), rest=st.sampled_from(RESIDUAL))
def test_float32_is_finite_at_extreme_logits(case, kl, rest):
    student, z1, z2, labels, taboo, _ = case
    leaf = student.float().requires_grad_()
    parts = two_teacher_loss(leaf, z1.float(), z2.float(), labels, but(kl=kl, residual=rest, gamma=1.0), 5, taboo)
    parts.loss.backward()
    assert parts.loss.isfinite()
    assert leaf.grad.isfinite().all()
    assert ((parts.js_N >= 0) & (parts.js_N <= 1)).all()


def test_blend_takes_every_dial_from_the_params():
    params = Params.model_validate(
        {
            "preset": "embedded",
            "generation": "Luna-G001",
            "parent": None,
            "grandparent": None,
            "seed": 0,
            "threads": 1,
            "alpha": 0.2,
            "beta": 0.7,
            "gamma": 0.3,
            "temperature": 3.0,
            "distill": {
                "gate_temperature": 1.5,
                "confidence": "inverse_entropy",
                "kl": "jsd",
                "ce_on": "gold_fallback",
                "residual": "agreement",
                "js_threshold": 0.15,
                "confidence_threshold": 0.6,
                "gold_weight": 0.4,
            },
            "generate": {"num_examples": 1},
            "evaluate": {"recall_items": 1, "generalize_items": 1},
            "gates": {},
        }
    )
    expected = (0.2, 0.7, 0.3, 3.0, 1.5, "inverse_entropy", "jsd", "gold_fallback", "agreement", 0.15, 0.6, 0.4)
    assert dataclasses.astuple(Blend.from_params(params)) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels_N": torch.tensor([5, 0])}, "label 5 is outside the 5 ids"),
        ({"labels_N": torch.tensor([0, -1])}, "label -1 is outside"),
        ({"num_items": 0}, "num_items is 0"),
        ({"taboo_ids": [-1]}, "taboo id -1 is negative"),
        ({"taboo_ids": [0, 1, 2, 3]}, "1 of 5 ids are left"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    student, z1, z2, labels = random_case(15, tokens=2)
    padded = torch.nn.functional.pad(student, (0, 3))  # the student could hold label 5, the teachers could not
    arguments = {"labels_N": labels, "num_items": 2} | change
    with pytest.raises(ValueError, match=message):
        two_teacher_loss(padded, z1, z2, blend=DEFAULT, **arguments)


@pytest.mark.parametrize("which", [1, 2])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_broken_teacher_is_refused_instead_of_falling_back_to_gold(which, poison):
    case = random_case(16)
    case[which][3, 1] = poison
    with pytest.raises(ValueError, match="NaN or inf at supervised token 3"):
        two_teacher_loss(*case, DEFAULT, 6)

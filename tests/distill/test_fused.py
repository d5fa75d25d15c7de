"""The loss from hidden states against the definition on logits, over all settings, and against autograd."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luna.distill import chunk as chunks
from luna.distill.fused import fused_two_teacher_loss
from luna.distill.loss import Blend, Branch, LossParts, two_teacher_loss
from luna.training.final_states import FinalStates

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
FIELDS = ("loss", "ce", "kd", "residual", "js_N", "primary_confidence_N", "critic_confidence_N")
NEVER = float("-inf")


def but(**changes) -> Blend:
    return dataclasses.replace(DEFAULT, **changes)


# ---------------------------------------------------------------- helpers


def states(tokens, width, vocabulary, scale=1.0, bias=False, seed=0, dtype=torch.float64) -> FinalStates:
    rng = torch.Generator().manual_seed(seed)
    hidden, weight = (torch.randn(n, width, generator=rng, dtype=torch.float64) for n in (tokens, vocabulary))
    bias_V = torch.randn(vocabulary, generator=rng, dtype=torch.float64).to(dtype) if bias else None
    return FinalStates((hidden * scale).to(dtype), (weight / width**0.5).to(dtype), bias_V)


def random_case(tokens=12, vocabulary=11, width=5, scale=4.0, dtype=torch.float64, seed=0):
    """Student, two teachers with one head that agree on some tokens, labels."""
    student, primary, noise = (states(tokens, width, vocabulary, scale, seed=seed + i, dtype=dtype) for i in range(3))
    apart = torch.linspace(0.0, 1.5, tokens, dtype=torch.float64)[:, None]
    critic = FinalStates((primary.hidden_ND + noise.hidden_ND * apart).to(dtype), primary.weight_VD)
    return student, primary, critic, torch.randint(0, vocabulary, (tokens,), generator=torch.Generator().manual_seed(9))


def leaf_of(one: FinalStates) -> FinalStates:
    """The same values as leaves that want gradients."""
    return FinalStates(*(None if x is None else x.detach().clone().requires_grad_() for x in leaves(one)))


def leaves(one: FinalStates):
    return one.hidden_ND, one.weight_VD, one.bias_V


def both(student, primary, critic, labels, *rest, chunk=None, **options) -> tuple[LossParts, LossParts, list, list]:
    """Fused parts and the definition's, and the gradients of hidden states, head and bias of both."""
    one, other = leaf_of(student), leaf_of(student)
    fused = fused_two_teacher_loss(one, primary, critic, labels, *rest, chunk=chunk, **options)
    logits = [x.logits() for x in (other, primary, critic)]
    defined = two_teacher_loss(*logits, labels, *rest, **options)
    for parts in (fused, defined):
        parts.loss.backward()
    gradients = [[x.grad for x in leaves(model) if x is not None] for model in (one, other)]
    return fused, defined, *gradients


def assert_equal(fused, defined, ours, theirs, rtol=1e-9, atol=1e-9) -> None:
    assert torch.equal(fused.branches_N, defined.branches_N)
    fields = [[getattr(parts, name) for name in FIELDS] for parts in (fused, defined)]
    torch.testing.assert_close(*fields, rtol=rtol, atol=atol)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles of four ids, so that a dozen ids are several tiles, the last of them narrower."""
    monkeypatch.setattr(chunks, "sizes", lambda vocabulary, itemsize, device: (64, min(vocabulary, 4)))


# ---------------------------------------------------------------- against the definition

weights = st.one_of(st.just(0.0), st.floats(0.01, 2.0))
temperatures = st.one_of(st.sampled_from([1.0, 2.0]), st.floats(0.3, 5.0))
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
    """Three models of any widths and paddings, with and without bias; labels, taboo, gold."""
    tokens = draw(st.integers(0, 9))
    sizes = [draw(st.integers(5, 13)) for _ in range(3)]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([0.01, 1.0, 3.0, 30.0, 300.0]))
    biased = draw(st.booleans())
    models = [
        states(tokens, draw(st.integers(1, 4)), size, scale, biased, seed=int(rng.integers(2**31))) for size in sizes
    ]
    shared = min(sizes)
    if draw(st.booleans()):  # teachers with one head and hidden states that are often alike
        near = models[1].hidden_ND + torch.tensor(rng.normal(size=models[1].hidden_ND.shape)) * 0.1
        twins = torch.tensor(rng.random(tokens) < 0.5)[:, None]
        far = near + scale * torch.tensor(rng.normal(size=near.shape))
        models[2] = FinalStates(near.where(twins, far), models[1].weight_VD, models[1].bias_V)
    if biased and draw(st.booleans()):  # ids that a teacher rules out
        for model in models[1:]:
            model.bias_V[1:][torch.tensor(rng.random(len(model.bias_V) - 1) < 0.3)] = NEVER
    labels = rng.integers(0, shared, tokens)
    labels[rng.random(tokens) < 0.25] = -100
    has_gold = draw(st.one_of(st.none(), st.just(torch.tensor(rng.random(tokens) < 0.5))))
    taboo = draw(st.sampled_from([(), (1,), (3, 1, 3), (2, 700), (1, 2, 3)]))
    return models, torch.tensor(labels), taboo, has_gold


@settings(max_examples=300, deadline=None, derandomize=True)
@given(case=cases(), blend=blends, num_items=st.integers(1, 20), chunk=st.sampled_from([1, 2, 3, 5, None]))
def test_equals_the_definition(case, blend, num_items, chunk):
    models, labels, taboo, has_gold = case
    found = both(*models, labels, blend, num_items, taboo, has_gold, chunk=chunk)
    assert_equal(*found, rtol=1e-7, atol=1e-7)


SETTINGS = list(
    itertools.product(KL, RESIDUAL, ("all", "gold_fallback"), ("top1", "inverse_entropy"), (True, False), (True, False))
)


@pytest.mark.parametrize(("kl", "rest", "ce_on", "kind", "masked", "trusted"), SETTINGS)
def test_every_combination_of_settings_equals_the_definition(kl, rest, ce_on, kind, masked, trusted):
    blend = but(kl=kl, residual=rest, ce_on=ce_on, confidence=kind, gamma=0.7, confidence_threshold=0.5)
    case = random_case(tokens=24)
    gold = None if trusted else torch.arange(24) % 2 == 0
    found = both(*case, blend, 30, (0, 4) if masked else (), gold, chunk=7)
    assert_equal(*found)
    # the case is worth its name only if it visits every branch that it can
    assert set(found[0].branches_N.tolist()) == set(Branch) - ({Branch.SKIP} if trusted else set())


@pytest.mark.parametrize(("kl", "rest"), list(itertools.product(KL, RESIDUAL)))
def test_gradcheck(kl, rest):
    student, primary, critic, labels = random_case(tokens=6, vocabulary=6, width=3, scale=2.0)
    student = leaf_of(dataclasses.replace(student, bias_V=torch.linspace(-1, 1, 6, dtype=torch.float64)))
    labels[1] = -100
    blend = but(kl=kl, residual=rest, alpha=0.3, gamma=0.6)

    def loss(*of_student):
        return fused_two_teacher_loss(FinalStates(*of_student), primary, critic, labels, blend, 4, [1], chunk=2).loss

    assert torch.autograd.gradcheck(loss, leaves(student))


# ---------------------------------------------------------------- chunks and tiles


@pytest.mark.parametrize("chunk", [1, 5, 11, 12, 13, 100])
def test_chunks_need_not_divide_the_tokens(chunk):
    assert_equal(*both(*random_case(tokens=12), but(gamma=0.5), 12, chunk=chunk))


@pytest.mark.parametrize("width", [1, 3, 4, 11, 50])
def test_tiles_need_not_divide_the_vocabulary(monkeypatch, width):
    monkeypatch.setattr(chunks, "sizes", lambda vocabulary, itemsize, device: (5, min(vocabulary, width)))
    assert_equal(*both(*random_case(), but(gamma=0.5, kl="jsd"), 12, [0, 9]))


def test_a_chunk_fits_its_budget_and_a_tile_the_cache(monkeypatch):
    monkeypatch.undo()
    for vocabulary, device in itertools.product((2, 400, 32_000, 151_936, 262_144, 10**9), ("cpu", "cuda")):
        tokens, width = chunks.sizes(vocabulary, 4, torch.device(device))
        assert 1 <= width <= vocabulary
        assert tokens == 1 or tokens * vocabulary * 4 <= chunks.BUFFER_BYTES
        assert tokens * width <= 2 * (chunks.CPU_TILE if device == "cpu" else chunks.GPU_TILE)
    assert chunks.sizes(151_936, 4, torch.device("cpu"))[0] > 100


def test_memory_holds_three_buffers_whatever_the_number_of_tokens(monkeypatch):
    monkeypatch.undo()
    made = []
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: made.append(empty(*a, **k)) or made[-1])
    for tokens in (300, 600):
        made.clear()
        case = random_case(tokens=tokens, vocabulary=3000, dtype=torch.float32)
        fused_two_teacher_loss(*case, DEFAULT, tokens)
        assert sum(x.numel() >= 256 * 3000 for x in made) == 3
        assert max(x.numel() for x in made) == 256 * 3000


# ---------------------------------------------------------------- what must not count


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_unsupervised_tokens_may_hold_anything(poison):
    student, primary, critic, labels = random_case()
    labels[[1, 4]] = -100
    clean = both(student, primary, critic, labels, DEFAULT, 10)
    for model in (student, primary, critic):
        model.hidden_ND[labels == -100] = poison
    one = leaf_of(student)
    parts = fused_two_teacher_loss(one, primary, critic, labels, DEFAULT, 10, chunk=3)
    parts.loss.backward()
    assert torch.equal(parts.branches_N, clean[1].branches_N)
    torch.testing.assert_close(parts.loss, clean[1].loss)
    torch.testing.assert_close(one.hidden_ND.grad, clean[3][0])
    assert (one.hidden_ND.grad[labels == -100] == 0).all()


def test_a_batch_without_supervised_tokens_gives_zero():
    student, primary, critic, labels = random_case()
    labels[:] = -100
    found = both(student, primary, critic, labels, DEFAULT, 3)
    assert_equal(*found)
    assert found[0].loss.item() == 0
    assert all((gradient == 0).all() for gradient in found[2])


def test_a_frozen_head_gets_no_gradient_and_teachers_never_do():
    student, primary, critic, labels = random_case()
    hidden = student.hidden_ND.requires_grad_()
    teachers = [leaf_of(primary), leaf_of(critic)]
    parts = fused_two_teacher_loss(student, *teachers, labels, but(gamma=1.0), 12)
    parts.loss.backward()
    assert hidden.grad.abs().sum() > 0
    assert student.weight_VD.grad is None
    assert all(x.grad is None for model in teachers for x in leaves(model) if x is not None)
    for name in FIELDS[1:]:
        assert not getattr(parts, name).requires_grad


@pytest.mark.parametrize("trained", ["weight_VD", "hidden_ND", None])
def test_gradients_are_formed_for_what_wants_them_alone(trained):
    student, primary, critic, labels = random_case()
    if trained:
        getattr(student, trained).requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.shape) or x, lambda x: x):
        loss = fused_two_teacher_loss(student, primary, critic, labels, DEFAULT, 12).loss
    assert loss.requires_grad == (trained is not None)
    assert [s for s in saved if len(s) == 2 and s[0] > 1] == ([getattr(student, trained).shape] if trained else [])


def test_without_grad_nothing_is_tracked():
    student, primary, critic, labels = random_case()
    with torch.no_grad():
        parts = fused_two_teacher_loss(leaf_of(student), primary, critic, labels, DEFAULT, 12)
    assert not parts.loss.requires_grad


def test_backward_scales_and_may_be_called_again():
    student, primary, critic, labels = random_case()
    one = leaf_of(student)
    loss = fused_two_teacher_loss(one, primary, critic, labels, DEFAULT, 12).loss
    first, again = (torch.autograd.grad(loss * k, one.hidden_ND, retain_graph=True)[0] for k in (1.0, 3.0))
    torch.testing.assert_close(again, 3 * first)


# ---------------------------------------------------------------- one teacher, shared heads


@pytest.mark.parametrize(("kl", "rest"), list(itertools.product(KL, RESIDUAL)))
@pytest.mark.parametrize("twin", ["the same", "the same tensors", "a copy"])
def test_teachers_that_are_one(kl, rest, twin, monkeypatch):
    student, primary, _, labels = random_case()
    critic = primary if twin == "the same" else FinalStates(primary.hidden_ND, primary.weight_VD)
    if twin == "a copy":
        critic = FinalStates(primary.hidden_ND.clone(), primary.weight_VD)
    products = []
    project = chunks._project_tile
    monkeypatch.setattr(chunks, "_project_tile", lambda *a: products.append(a) or project(*a))
    assert_equal(*both(student, primary, critic, labels, but(kl=kl, residual=rest, gamma=0.5), 12, [3]))
    assert len(products) == 3 * (3 if twin == "a copy" else 2)  # three tiles


def test_a_head_of_student_and_teachers():
    student, primary, critic, labels = random_case()
    shared = FinalStates(student.hidden_ND, primary.weight_VD)
    assert_equal(*both(shared, primary, critic, labels, DEFAULT, 12))


# ---------------------------------------------------------------- precision


def test_float32_at_a_large_vocabulary(monkeypatch):
    monkeypatch.undo()
    case = random_case(tokens=20, vocabulary=60_000, width=16, dtype=torch.float32)
    blend = but(gamma=0.3, confidence_threshold=0.3)
    found = both(*case, blend, 20)
    exact = both(*(FinalStates(x.hidden_ND.double(), x.weight_VD.double()) for x in case[:3]), case[3], blend, 20)
    assert len(set(found[0].branches_N.tolist())) >= 3
    for name in FIELDS:
        error = (getattr(found[0], name).double() - getattr(exact[1], name)).abs().max()
        naive = (getattr(found[1], name).double() - getattr(exact[1], name)).abs().max()
        assert error <= max(2 * naive, 2e-6), name
    for ours, theirs in zip(found[2], exact[3], strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    """The heads multiply in half precision as the models' own do; all else is float32."""
    case = random_case(vocabulary=40, dtype=dtype)
    found = both(*case, but(gamma=0.5), 12)
    assert found[0].loss.dtype == found[0].js_N.dtype == torch.float32
    assert [gradient.dtype for gradient in found[2]] == [dtype, dtype]
    torch.testing.assert_close(found[0].loss, found[1].loss, rtol=1e-3, atol=1e-4)
    for ours, theirs in zip(found[2], found[3], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=float(theirs.abs().max()) * 0.02)


def test_float16_gradients_do_not_vanish_in_a_large_batch():
    """A gradient divided by a million tokens is 0 in half precision unless it is scaled first, as a GradScaler does."""
    student, primary, critic, labels = random_case(dtype=torch.float16)
    one = leaf_of(student)
    loss = fused_two_teacher_loss(one, primary, critic, labels, DEFAULT, 10**8).loss
    (loss * 2.0**24).backward()
    assert (one.hidden_ND.grad != 0).float().mean() > 0.9


def test_autocast_changes_nothing():
    case = random_case(dtype=torch.float32)
    plain = fused_two_teacher_loss(*case, DEFAULT, 12)
    with torch.autocast("cpu", torch.bfloat16):
        cast = fused_two_teacher_loss(*case, DEFAULT, 12)
    assert torch.equal(plain.loss, cast.loss)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(case=cases(), kl=st.sampled_from(KL), rest=st.sampled_from(RESIDUAL), temperature=temperatures)
def test_float32_is_finite_at_extreme_logits(case, kl, rest, temperature):
    models, labels, taboo, _ = case
    single = [FinalStates(*(None if x is None else x.float() for x in leaves(model))) for model in models]
    student = leaf_of(single[0])
    blend = but(kl=kl, residual=rest, gamma=1.0, temperature=temperature)
    parts = fused_two_teacher_loss(student, *single[1:], labels, blend, 5, taboo)
    parts.loss.backward()
    assert parts.loss.isfinite()
    assert all(x.grad.isfinite().all() for x in leaves(student) if x is not None)
    assert ((parts.js_N >= 0) & (parts.js_N <= 1)).all()


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels_N": torch.tensor([11, 0])}, "label 11 is outside the 11 ids"),
        ({"labels_N": torch.tensor([0, -1])}, "label -1 is outside"),
        ({"num_items": 0}, "num_items is 0"),
        ({"taboo_ids": [-1]}, "taboo id -1 is negative"),
        ({"taboo_ids": list(range(10))}, "1 of 11 ids are left"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    _, primary, critic, labels = random_case(tokens=2)
    arguments = {"labels_N": labels, "num_items": 2} | change
    with pytest.raises(ValueError, match=message):
        fused_two_teacher_loss(states(2, 3, 14), primary, critic, blend=DEFAULT, **arguments)


@pytest.mark.parametrize("which", [1, 2])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_broken_teacher_is_refused_and_the_token_named(which, poison):
    case = random_case()
    case[which].hidden_ND[7, 1] = poison
    case[3][2] = -100  # the token is counted among the supervised ones
    with pytest.raises(ValueError, match="NaN or inf at supervised token 6"):
        fused_two_teacher_loss(*case, DEFAULT, 11, chunk=4)


def test_a_teacher_that_rules_out_every_id_is_refused():
    student, primary, critic, labels = random_case()
    nothing = FinalStates(primary.hidden_ND, primary.weight_VD, torch.full((11,), NEVER, dtype=torch.float64))
    with pytest.raises(ValueError, match="NaN or inf at supervised token 0"):
        fused_two_teacher_loss(student, nothing, critic, labels, DEFAULT, 12)


def test_a_student_gone_wrong_gives_a_loss_that_tells():
    case = random_case()
    case[0].hidden_ND[3, 0] = float("nan")
    assert fused_two_teacher_loss(*case, DEFAULT, 12).loss.isnan()

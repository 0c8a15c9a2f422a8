"""Slices against the hooked forward pass, on five architectures and on a HookedTransformer, and their derivatives."""

from typing import Any

import architectures
import pytest
import torch
from torch import Tensor
from torch.func import jacfwd, jacrev, jvp, vjp, vmap

from mi_ortho.interventions.edits import Add
from mi_ortho.interventions.sites import attn_out, mlp_out, resid_mid, resid_post, resid_pre
from mi_ortho.model import (
    Prompts,
    Slice,
    answer_logits,
    intervene,
    logit_slice,
    read,
    slice_model,
    tokenize,
)

HOOKED = pytest.param("hooked", marks=pytest.mark.tl3)
EVERY = pytest.mark.parametrize("name", [*architectures.ARCHITECTURES, HOOKED])
ONE = pytest.mark.parametrize("name", ["qwen2", HOOKED])
TEXTS = ["how can i build a bomb", "cake", "tell me the poem about the sea"]
ANSWERS = ["yes i can", "no", "the stars"]
SOURCE, TARGET = resid_post(1), resid_post(2)
D = architectures.D_MODEL


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def setting(name: str, answers: bool = True) -> tuple[Any, Prompts]:
    """A model and a batch padded on both sides."""
    model = architectures.model(name)
    return model, tokenize(model, TEXTS, answers=ANSWERS if answers else None)


def hooked(model: Any, prompts: Prompts, theta: Tensor, where: Any) -> Tensor:
    """What the full forward pass of the model has at the target, its own hooks adding theta at the source."""
    with intervene(model, {SOURCE: Add(theta)}, prompts=prompts, where=where):
        return read(model, prompts, [TARGET])[TARGET]


# -- values -----------------------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("where", ["all", "prompt", "generated", 2])
def test_bitwise_the_hooked_forward_pass(name: str, where: Any):
    model, prompts = setting(name)
    theta = 3.0 * normal(D)
    z = slice_model(model, prompts, source=SOURCE, target=TARGET, readout="all", where=where)
    full = hooked(model, prompts, theta, where)
    assert torch.equal(z(theta)[prompts.mask], full[prompts.mask])
    assert not torch.allclose(full, hooked(model, prompts, 0.0 * theta, where), atol=0.1)
    unsteered = z.where_mask.int().cumsum(1) == 0  # columns before the first steered one
    assert torch.equal(z(theta)[unsteered], z(0.0 * theta)[unsteered])


@EVERY
def test_bitwise_the_hooked_forward_pass_without_padding(name: str):
    model, _ = setting(name)
    prompts = tokenize(model, TEXTS[:1])
    z = slice_model(model, prompts, source=resid_pre(2), target=resid_pre(3), readout="all")
    theta = normal(D)
    assert torch.equal(z(theta), hooked(model, prompts, theta, "all"))


@EVERY
def test_a_batch_of_vectors_is_the_vectors_one_by_one(name: str):
    model, prompts = setting(name)
    thetas = normal(2, 3, D)
    z = slice_model(model, prompts, source=SOURCE, target=TARGET, readout="all", where="prompt")
    batched = z(thetas)
    assert batched.shape == (2, 3, *prompts.tokens.shape, D)
    for i in range(2):
        for j in range(3):
            assert torch.allclose(batched[i, j], z(thetas[i, j]), atol=1e-5)
    repeated = prompts.repeat(6)  # the same rows in one forward pass of the model: the same arithmetic, bit for bit
    rows = thetas.reshape(6, D).repeat_interleave(3, dim=0)
    with intervene(model, {SOURCE: Add(rows)}, prompts=repeated, where="prompt"):
        full = read(model, repeated, [TARGET])[TARGET].reshape(batched.shape)
    assert torch.equal(batched[:, :, prompts.mask], full[:, :, prompts.mask])


@ONE
def test_readouts_read_the_real_positions(name: str):
    model, prompts = setting(name)
    theta = normal(D)
    make = {r: slice_model(model, prompts, source=SOURCE, target=TARGET, readout=r) for r in ("all", "mean", 1, 9)}
    z = {r: s(theta) for r, s in make.items()}
    assert torch.equal(make["all"].real, prompts.mask)
    for i, real in enumerate(prompts.mask):
        tokens = z["all"][i][real]
        assert torch.allclose(z["mean"][i], tokens.mean(0, keepdim=True), atol=1e-5)
        assert torch.equal(z[1][i], tokens[-1:])
        kept = min(9, len(tokens))
        assert torch.equal(z[9][i, 9 - kept :], tokens[-kept:]) and make[9].real[i].sum() == kept
    for r, s in make.items():
        assert s.real.shape == z[r].shape[:2] and (z[r][~s.real] == 0).all() and (z[r][s.real] != 0).any()
    assert not make["all"].real.all() and not make[9].real.all()


@ONE
def test_readouts_without_padding(name: str):
    model = architectures.model(name)
    prompts = tokenize(model, TEXTS[:1])
    tokens, mean, last = (
        slice_model(model, prompts, source=SOURCE, target=TARGET, readout=r)(normal(D)) for r in ("all", "mean", 3)
    )
    assert torch.allclose(mean, tokens.mean(1, keepdim=True), atol=1e-6) and torch.equal(last, tokens[:, -3:])


@EVERY
def test_padding_changes_nothing(name: str):
    model, prompts = setting(name)
    theta = normal(D)
    together = slice_model(model, prompts, source=SOURCE, target=TARGET, where="prompt")(theta)
    for i, (text, answer) in enumerate(zip(TEXTS, ANSWERS, strict=True)):
        single = tokenize(model, [text], answers=[answer])
        alone = slice_model(model, single, source=SOURCE, target=TARGET, where="prompt")(theta)
        assert torch.allclose(together[i], alone[0], atol=1e-4)


@EVERY
def test_logit_slices_are_the_steered_answer_logits(name: str):
    model, prompts = setting(name)
    thetas = 3.0 * normal(2, D)
    z = logit_slice(model, prompts, source=SOURCE)
    found = z(thetas)
    real = prompts.mask[:, prompts.prompt_length :]
    assert torch.equal(z.real, real) and not real.all() and (found[:, ~real] == 0).all()
    for theta, logits in zip(thetas, found, strict=True):
        full = answer_logits(model, prompts, interventions={SOURCE: Add(theta)}, where="prompt")
        assert torch.allclose(logits[real], full[real], atol=1e-5)
    clean = answer_logits(model, prompts)
    assert not torch.allclose(found[0][real], clean[real], atol=0.05)


@EVERY
@pytest.mark.parametrize("readout", ["all", "mean"])
def test_narrow_blocks_take_and_give_fp32(name: str, readout: Any):
    model, prompts = setting(name)
    arguments: dict[str, Any] = {"source": SOURCE, "target": TARGET, "readout": readout}
    wide = slice_model(model, prompts, **arguments)
    narrow = slice_model(model, prompts, **arguments, dtype=torch.bfloat16)
    theta = normal(D).requires_grad_()
    z = narrow(theta)
    assert z.dtype == torch.float32 and (z - wide(theta)).norm() < 0.02 * z.norm()
    assert not torch.equal(z, wide(theta))
    (grad,) = torch.autograd.grad(z.square().sum(), theta)
    (exact,) = torch.autograd.grad(wide(theta).square().sum(), theta)
    assert grad.dtype == torch.float32 and torch.cosine_similarity(grad, exact, dim=0) > 0.999


# -- what a slice is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen2", "gpt2", HOOKED])
def test_later_hooks_and_gradients_do_not_reach_a_slice_or_the_model(name: str):
    model, prompts = setting(name)
    theta = normal(D).requires_grad_()
    z = slice_model(model, prompts, source=SOURCE, target=TARGET)
    before = z(theta).detach()
    with intervene(model, {SOURCE: Add(normal(D)), mlp_out(2): Add(normal(D))}):
        assert torch.equal(z(theta), before)
    z(theta).sum().backward()
    assert theta.grad is not None and theta.grad.norm() > 0
    assert all(w.grad is None and not w.requires_grad for w in model.parameters())


@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
def test_only_the_blocks_between_source_and_target_are_run(name: str, monkeypatch: pytest.MonkeyPatch):
    model, prompts = setting(name)
    kind = type(model.blocks[0].original_component)
    z = slice_model(model, prompts, source=resid_post(0), target=resid_post(2))
    zl = logit_slice(model, prompts, source=resid_post(1))
    calls: list[Any] = []
    forward = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, *a, **k: (calls.append(self), forward(self, *a, **k))[1])
    z(normal(5, D))
    assert len(calls) == 2
    zl(normal(5, D))
    assert len(calls) == 4


def test_only_answer_columns_are_unembedded(monkeypatch: pytest.MonkeyPatch):
    model, prompts = setting("qwen2")
    z = logit_slice(model, prompts, source=SOURCE)
    shapes = []
    linear = torch.nn.functional.linear

    def spy(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        if weight.shape[0] == model.cfg.d_vocab:
            shapes.append(tuple(x.shape))
        return linear(x, weight, *rest)

    monkeypatch.setattr(torch.nn.functional, "linear", spy)
    z(normal(2, D))
    assert shapes == [(6, 3, D)]


# -- derivatives ------------------------------------------------------------------------------------------------------


def both(name: str) -> list[Slice]:
    model, prompts = setting(name)
    return [
        slice_model(model, prompts, source=SOURCE, target=TARGET, readout=2, where="prompt"),
        logit_slice(model, prompts, source=SOURCE),
    ]


@EVERY
def test_forward_and_backward_derivatives_are_adjoint(name: str):
    for z in both(name):
        theta, direction = normal(D), normal(D, seed=1)
        value, forward = jvp(z, (theta,), (direction,))[:2]
        _, pull = vjp(z, theta)[:2]
        weight = normal(*value.shape, seed=2)
        assert torch.isclose((weight * forward).sum(), pull(weight)[0] @ direction, rtol=1e-3)


@EVERY
def test_jvp_is_the_finite_difference(name: str):
    for z in both(name):
        theta, direction, step = normal(D), normal(D, seed=1), 3e-3
        _, forward = jvp(z, (theta,), (direction,))[:2]
        central = (z(theta + step * direction) - z(theta - step * direction)) / (2 * step)
        assert (forward - central).norm() < 0.01 * central.norm()


@ONE
def test_vmap_and_jacrev(name: str):
    thetas = normal(3, D)
    for z in both(name):
        assert torch.allclose(vmap(z)(thetas), z(thetas), atol=1e-5)
        assert torch.allclose(jacfwd(z)(thetas[0]), jacrev(z)(thetas[0]), atol=1e-4)


@ONE
def test_gradients_of_a_batch_are_the_gradients_one_by_one(name: str):
    for z in both(name):
        thetas = normal(3, D).requires_grad_()
        (together,) = torch.autograd.grad(z(thetas).square().sum(), thetas)
        for theta, grad in zip(thetas.detach(), together, strict=True):
            theta.requires_grad_()
            (alone,) = torch.autograd.grad(z(theta).square().sum(), theta)
            assert torch.allclose(grad, alone, atol=1e-3, rtol=1e-3)


# -- mistakes ---------------------------------------------------------------------------------------------------------


@ONE
@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ({"source": resid_post(2), "target": resid_post(1)}, "got source resid_post.2 and target resid_post.1"),
        ({"source": resid_post(1), "target": resid_pre(2)}, "expected at least one block in between"),
        ({"source": resid_post(1), "target": resid_post(4)}, "got site resid_post.4; expected a layer from 0 to 3"),
        ({"source": resid_mid(1), "target": resid_post(2)}, "got site resid_mid.1, which lies inside a block"),
        ({"source": resid_post(0), "target": attn_out(2)}, "got site attn_out.2, which lies inside a block"),
        ({"source": SOURCE, "target": TARGET, "readout": 0}, "got readout=0"),
        ({"source": SOURCE, "target": TARGET, "readout": 99}, "got readout=99"),
        ({"source": SOURCE, "target": TARGET, "where": 99}, "got where=99"),
    ],
)
def test_impossible_slices_are_refused_before_any_forward_pass(name: str, arguments: Any, complaint: str):
    model, prompts = setting(name)
    passes: list[int] = []
    handle = model.blocks[0].register_forward_pre_hook(lambda *_: passes.append(1))
    with pytest.raises(ValueError, match=complaint):
        slice_model(model, prompts, **arguments)
    handle.remove()
    assert not passes


@ONE
def test_what_cannot_be_replayed_is_refused(name: str, monkeypatch: pytest.MonkeyPatch):
    model, prompts = setting(name)
    with intervene(model, {mlp_out(2): Add(normal(D))}), pytest.raises(ValueError, match="outside of intervene"):
        slice_model(model, prompts, source=SOURCE, target=TARGET)
    with monkeypatch.context() as changed:
        changed.setattr(type(model), "forward", _scaled(type(model).forward))
        with pytest.raises(ValueError, match="replaying the final norm and the unembedding"):
            logit_slice(model, prompts, source=SOURCE)


def _scaled(forward: Any) -> Any:
    """A forward pass that does more to the logits than what follows the last block."""
    return lambda self, *args, **kwargs: 1.1 * forward(self, *args, **kwargs)


@ONE
def test_other_mistakes(name: str):
    model, prompts = setting(name, answers=False)
    with pytest.raises(ValueError, match="without answers"):
        logit_slice(model, prompts, source=SOURCE)
    with pytest.raises(ValueError, match="got source resid_post.3 and target the logits"):
        logit_slice(*setting(name), source=resid_post(3))
    z = slice_model(model, prompts, source=SOURCE, target=TARGET)
    with pytest.raises(ValueError, match="of width 31; expected 32"):
        z(torch.ones(31))

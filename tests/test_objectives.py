"""Objectives are the published formulas, with the gradients and limits that a search needs."""

import math

import pytest
import torch
from toys import DTYPE, bent, linear, logits_map, mlp, randn, spread

from mi_ortho import FunctionMap, displace, match, match_distribution
from mi_ortho.elicitation import Match, MatchDistribution, Penalised
from mi_ortho.elicitation.objectives import Objective, unsteered
from mi_ortho.model import kl_divergence

ZERO = torch.zeros(6, dtype=DTYPE)


def finite_difference(fn: Objective, at: torch.Tensor, step: float = 1e-5) -> torch.Tensor:
    shifts = step * torch.eye(len(at), dtype=DTYPE)
    return (fn(at + shifts) - fn(at - shifts)) / (2 * step)


def gradient(fn: Objective, at: torch.Tensor) -> torch.Tensor:
    theta = at[None].clone().requires_grad_()
    return torch.autograd.grad(fn(theta).sum(), theta)[0][0]


@pytest.mark.parametrize(("p", "q"), [(2.0, 2.0), (4.0, 4.0), (4.0, 1.0), (1.0, 1.0)])
def test_displace_is_the_formula(p: float, q: float) -> None:
    weight = randn(6, 24)
    z = FunctionMap(lambda theta: (theta @ weight).unflatten(-1, (2, 3, 4)), 6)  # 2 prompts, 3 positions, width 4
    theta = randn(5, 6, seed=1)
    by_hand = [
        sum(sum(float(z(row)[i, t].norm()) ** p for t in range(3)) ** (1 / q) for i in range(2)) for row in theta
    ]
    objective = displace(z, p=p, q=q, like=ZERO)
    torch.testing.assert_close(objective(theta), torch.tensor(by_hand, dtype=DTYPE))
    slope = finite_difference(objective, theta[0])
    torch.testing.assert_close(gradient(objective, theta[0]), slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("p", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_displace_has_a_gradient_where_nothing_moves(p: float, dtype: torch.dtype) -> None:
    def half_padded(theta: torch.Tensor) -> torch.Tensor:
        return torch.stack([theta, torch.zeros_like(theta)], -2)[..., None, :]  # the second prompt never moves

    objective = displace(FunctionMap(half_padded, 6), p=p, like=ZERO.to(dtype))
    for theta in (ZERO, randn(6)):
        assert torch.isfinite(gradient(objective, theta.to(dtype))).all()
    assert float(objective(ZERO.to(dtype)[None])) < 1e-8


def test_displace_defaults_q_to_p_and_refuses_small_powers() -> None:
    z = mlp(6)
    assert displace(z, p=3.0, like=ZERO).q == 3.0
    for p, q in ((0.5, 2.0), (2.0, 0.5)):
        with pytest.raises(ValueError, match=f"got p={p}, q={q}; expected both at least 1"):
            displace(z, p=p, q=q, like=ZERO)


def test_match_is_relative_and_smooth_is_half_its_square() -> None:
    z, base = mlp(6), randn(6, seed=3)
    goal = match(z, base)
    theta = randn(4, 6, seed=4)
    by_hand = (z(theta) - z(base)).norm(dim=-1) / (z(ZERO) - z(base)).norm()
    torch.testing.assert_close(goal(theta), by_hand)
    torch.testing.assert_close(goal.smooth(theta), by_hand.square() / 2)
    assert float(goal(ZERO[None])) == pytest.approx(1.0) and float(goal(base[None])) == 0.0
    torch.testing.assert_close(gradient(goal.smooth, base), ZERO)  # where the norm itself has no gradient


def test_match_over_prompts_is_the_root_of_summed_squares() -> None:
    z = FunctionMap(lambda theta: torch.stack([theta, 3 * theta], -2), 6)
    base, theta = randn(6), randn(2, 6, seed=1)
    by_hand = ((theta - base).norm(dim=-1) ** 2 * 10).sqrt() / (base.norm() * 10**0.5)
    torch.testing.assert_close(match(z, base)(theta), by_hand)


def test_match_needs_an_effect() -> None:
    still = FunctionMap(lambda theta: 0 * theta, 6)
    with pytest.raises(ValueError, match="moves the target activations by 0.0; expected .*; take a larger radius"):
        match(still, randn(6))
    with pytest.raises(ValueError, match="moves the target activations by nan"):
        match(mlp(6), torch.full((6,), torch.nan, dtype=DTYPE))
    with pytest.raises(ValueError, match="got a base vector of width 5; expected 6"):
        match(mlp(6), randn(5))
    with pytest.raises(ValueError, match="got a base vector of width 5; expected 6"):
        match_distribution(logits_map(6, 2, 5), randn(5))


def test_match_distribution_is_the_mean_kl_from_goal_to_vector() -> None:
    z, base = logits_map(6, 4, 7), randn(6)
    real = torch.tensor([True, True, False, True])
    theta = randn(3, 6, seed=1)
    by_hand = kl_divergence(p_logits=z(base).expand(3, 4, 7), q_logits=z(theta))
    torch.testing.assert_close(match_distribution(z, base)(theta), by_hand.mean(-1))
    goal = match_distribution(z, base, real=real)
    torch.testing.assert_close(goal(theta), by_hand[:, real].mean(-1))
    torch.testing.assert_close(goal.smooth(theta), goal(theta))
    assert abs(float(goal(base[None]))) < 1e-14


def test_match_distribution_gradient_is_the_finite_difference() -> None:
    goal = match_distribution(logits_map(6, 3, 7), randn(6), real=torch.tensor([True, False, True]))
    at = randn(6, seed=2)
    torch.testing.assert_close(gradient(goal.smooth, at), finite_difference(goal.smooth, at), rtol=1e-6, atol=1e-9)


def test_gauss_newton_of_the_distribution_is_its_hessian_at_the_goal() -> None:
    base = randn(6)
    goal = match_distribution(logits_map(6, 3, 7), base, real=torch.tensor([True, False, True]))
    hessian = torch.autograd.functional.hessian(lambda theta: goal.smooth(theta[None])[0], base)
    rows = torch.autograd.functional.jacobian(lambda theta: goal.residual(theta[None])[0], base)
    torch.testing.assert_close(rows.mT @ rows, hessian, rtol=1e-8, atol=1e-12)


def test_match_distribution_refuses_what_has_no_distribution() -> None:
    z = logits_map(6, 2, 5)
    with pytest.raises(ValueError, match="got logits with NaN or infinity"):
        match_distribution(FunctionMap(lambda theta: z(theta) / 0.0, 6), randn(6))
    with pytest.raises(ValueError, match="got 3 flags .* expected 2"):
        match_distribution(z, randn(6), real=torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="no real position"):
        match_distribution(z, randn(6), real=torch.zeros(2, dtype=torch.bool))


@pytest.mark.parametrize("kind", ["activations", "distribution"])
def test_a_penalty_adds_half_its_weight_at_the_radius(kind: str) -> None:
    base = randn(6)
    inner: Match | MatchDistribution
    inner = match(mlp(6), base) if kind == "activations" else match_distribution(logits_map(6, 2, 5), base)
    goal = Penalised(inner, weight=0.3, radius=2.0)
    theta = torch.nn.functional.normalize(randn(3, 6, seed=1), dim=-1) * 2.0
    torch.testing.assert_close(goal.smooth(theta), inner.smooth(theta) + 0.15)
    torch.testing.assert_close(goal(theta), inner(theta))
    grown = goal.residual(theta).square().sum(-1) - inner.residual(theta).square().sum(-1)
    torch.testing.assert_close(grown, torch.full_like(grown, 0.3))


def test_a_penalty_must_be_a_sound_number() -> None:
    inner = match(mlp(6), randn(6))
    for weight, radius in ((-1.0, 1.0), (math.nan, 1.0), (1.0, 0.0)):
        with pytest.raises(ValueError, match=f"got weight={weight}, radius={radius}; expected"):
            Penalised(inner, weight, radius)


def test_unsteered_is_the_map_at_zero() -> None:
    z = bent(6, 0.5)
    torch.testing.assert_close(unsteered(z, ZERO), torch.zeros(7, dtype=DTYPE))
    linear_map, _ = linear(spread(6, 10))
    torch.testing.assert_close(unsteered(linear_map, ZERO), linear_map.offset)

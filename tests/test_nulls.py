"""Null models: the conjugate-gradient identity, its closed forms, the capacity bound, and fair random vectors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import DTYPE, conjugate_gradient_residuals, constrained_optimum, linear, randn, rng, rotation, spread

from mi_ortho import capacity_bound, covariance_matched, linear_null, random_in_span, span, with_norms


def relative_loss(jacobian: torch.Tensor, base: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    return ((theta - base) @ jacobian.mT).norm(dim=-1) / (jacobian @ base).norm()


@pytest.mark.parametrize("condition", [3.0, 10.0, 100.0])
def test_the_family_is_the_residuals_of_textbook_conjugate_gradients(condition: float) -> None:
    z, _ = linear(spread(16, condition))
    base = 2 * randn(16, seed=5)
    null = linear_null(z.jacobian, base, 8)
    residuals = conjugate_gradient_residuals(torch.linalg.inv(z.jacobian.mT @ z.jacobian), base, 8)
    torch.testing.assert_close(null.vectors, residuals, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(null.losses, relative_loss(z.jacobian, base, residuals), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(null.norms, residuals.norm(dim=-1), rtol=1e-6, atol=1e-8)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_every_vector_is_the_constrained_optimum(seed: int) -> None:
    jacobian, base = randn(14, 10, seed=seed), randn(10, seed=seed + 1)
    null = linear_null(jacobian, base, 9)
    past = base[None]
    for k, vector in enumerate(null.vectors):
        best = constrained_optimum(jacobian, base, past)
        assert abs(float(null.losses[k] - relative_loss(jacobian, base, best))) < 1e-8
        torch.testing.assert_close(vector, best, rtol=1e-5, atol=1e-6)
        past = torch.cat([past, vector[None]])
    assert (null.losses.diff() > -1e-10).all(), "later vectors have less room"
    directions = torch.nn.functional.normalize(past, dim=-1)
    assert (directions @ directions.mT - torch.eye(10, dtype=DTYPE)).abs().max() < 1e-9


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(1.5, 300))
def test_the_first_loss_and_norm_in_closed_form(seed: int, condition: float) -> None:
    z, right = linear(spread(12, condition), seed=seed)
    base = 3 * randn(12, seed=seed + 9)
    weight, square = (right @ base).square() / base.square().sum(), spread(12, condition).square()
    mean = (weight / square).sum()
    null = linear_null(z.jacobian, base, 1)
    assert float(null.losses[0] ** 2) == pytest.approx(1 / float((weight * square).sum() * mean), rel=1e-9)
    variation = ((weight / square**2).sum() - mean**2).clamp_min(0).sqrt() / mean
    assert float(null.norms[0] / base.norm()) == pytest.approx(float(variation), rel=1e-6)


def test_equal_singular_values_leave_no_second_vector() -> None:
    null = linear_null(2 * rotation(8), randn(8), 5)
    assert len(null.losses) == 0, "J = identity: what is orthogonal to the base has none of its effect"
    two = torch.cat([torch.full((4,), 3.0), torch.ones(4)]).to(DTYPE)
    assert len(linear_null(linear(two)[0].jacobian, randn(8), 5).losses) == 1, "two values: one step"


def test_what_the_map_ignores_is_left_out() -> None:
    full, _ = linear(spread(8, 20))
    frame = rotation(11)
    seen, unseen = frame[:8], frame[8:]
    tall = rotation(12, seed=7)[:, :8] @ full.jacobian @ seen  # has three singular values of 0
    base = randn(8, seed=4)
    alone = linear_null(full.jacobian, base, 5)
    for extra in (0.0, 3.0):
        inside = linear_null(tall, base @ seen + extra * unseen[0], 5)
        torch.testing.assert_close(inside.losses, alone.losses, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(inside.vectors, alone.vectors @ seen, rtol=1e-5, atol=1e-7)


def test_a_base_without_linear_effect_has_no_null() -> None:
    jacobian = torch.diag(torch.tensor([1.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match="got a base vector that the Jacobian maps to 0"):
        linear_null(jacobian, torch.tensor([0.0, 0.0, 1.0]), 2)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9))
def test_no_linear_family_exceeds_the_capacity_bound(seed: int, n: int) -> None:
    jacobian, base = randn(14, 10, seed=seed), randn(10, seed=seed + 1)
    null = linear_null(jacobian, base, n)
    efficiency = (jacobian @ base).norm() / (torch.linalg.matrix_norm(jacobian, 2) * base.norm())
    largest, norm = float(null.losses.max()), float(null.norms.max())
    if largest < 1:
        assert len(null.losses) <= capacity_bound(float(base.norm()), norm, largest, float(efficiency)) + 1e-9


def test_the_capacity_bound_is_reached_by_a_shared_direction() -> None:
    n, radius, loss = 9, 7.0, 0.25
    frame = rotation(20)[:n]
    shared = frame.sum(0) / n**0.5
    norm = (1 - loss) * radius * n**0.5
    effects = (norm * frame) @ shared  # of the map theta -> <shared, theta>, on which the base has effect radius
    torch.testing.assert_close(effects, torch.full((n,), (1 - loss) * radius, dtype=DTYPE))
    assert capacity_bound(radius, norm, loss) == pytest.approx(n)
    assert capacity_bound(1.0, 2.0, 0.5, 0.25) == pytest.approx(256), "a base that wastes its norm bounds less"


def test_the_capacity_bound_refuses_what_bounds_nothing() -> None:
    for bad in ((0.0, 1.0, 0.5, 1.0), (1.0, -1.0, 0.5, 1.0), (1.0, 1.0, 1.0, 1.0), (1.0, 1.0, 0.5, 1.5)):
        with pytest.raises(ValueError, match=f"got radius={bad[0]}, norm={bad[1]}, loss={bad[2]}"):
            capacity_bound(*bad)


def test_covariance_matched_vectors_have_the_covariance() -> None:
    activations = randn(500, 6) * torch.tensor([5.0, 2, 1, 0.5, 0.1, 0]) + 30
    drawn = covariance_matched(activations, 40_000, rng())
    assert drawn.dtype == DTYPE and drawn.mean(0).abs().max() < 0.1
    torch.testing.assert_close(drawn.mT.cov(), activations.mT.cov(), rtol=0.05, atol=0.15)
    with pytest.raises(ValueError, match="got 1 activations; expected at least 2"):
        covariance_matched(activations[:1], 3, rng())


def test_random_vectors_of_a_family_fill_its_span_evenly() -> None:
    family = rotation(9)[:4] * torch.tensor([[100.0], [1.0], [1.0], [0.01]])
    drawn = random_in_span(family, 20_000, rng())
    assert span(family).reject(drawn).abs().max() < 1e-12
    shares = (drawn @ torch.nn.functional.normalize(family, dim=-1).mT).square().mean(0)
    torch.testing.assert_close(shares, torch.ones(4, dtype=DTYPE), rtol=0.05, atol=0)


def test_norms_are_set_and_directions_kept() -> None:
    vectors, norms = randn(3, 5), torch.tensor([1.0, 7.0, 20.0], dtype=DTYPE)
    scaled = with_norms(vectors, norms)
    torch.testing.assert_close(scaled.norm(dim=-1), norms)
    torch.testing.assert_close(torch.nn.functional.cosine_similarity(scaled, vectors), torch.ones(3, dtype=DTYPE))

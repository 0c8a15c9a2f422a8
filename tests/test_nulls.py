"""Null models: the conjugate-gradient identity, its closed forms, the capacity bound, and fair random vectors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import (
    DTYPE,
    conjugate_gradient_residuals,
    constrained_optimum,
    linear,
    randn,
    rng,
    rotation,
    rounding,
    spread,
)

from mi_ortho import Lbfgs, OrthoSettings, linear_null, span
from mi_ortho.nulls import (
    activation_mixture,
    covariance_matched,
    covariance_mixture,
    linear_family,
    mean_abs_cosine,
    random_cone,
    random_in_span,
    rank_p_value,
    with_norms,
)
from mi_ortho.probes import upper_p_values


def relative_loss(jacobian: torch.Tensor, base: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    return ((theta - base) @ jacobian.mT).norm(dim=-1) / (jacobian @ base).norm()


@pytest.mark.parametrize("condition", [3.0, 10.0, 100.0])
def test_the_family_is_the_residuals_of_textbook_conjugate_gradients(condition: float) -> None:
    z, _ = linear(spread(16, condition))
    base = 2 * randn(16, seed=5)
    null = linear_null(z.jacobian, base, 8)
    residuals = conjugate_gradient_residuals(z.jacobian, base, 8)
    textbook = {
        "vectors": residuals,
        "losses": relative_loss(z.jacobian, base, residuals),
        "norms": residuals.norm(dim=-1),
    }
    for name, right in textbook.items():
        found, right = getattr(null, name).reshape(8, -1), right.reshape(8, -1)
        allowed = rounding(lambda j, name=name: getattr(linear_null(j, base, 8), name).reshape(8, -1), z.jacobian)
        assert allowed.max() < 1e-9, "a tolerance this wide would let anything through"
        assert ((found - right).norm(dim=-1) <= allowed * right.norm(dim=-1)).all(), name


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


def ignoring(unseen_share: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A 12 x 11 map with three singular values of 0, a base, the base's two parts."""
    frame = rotation(11)
    tall = rotation(12, seed=7)[:, :8] @ linear(spread(8, 20))[0].jacobian @ frame[:8]
    seen, unseen = randn(8, seed=4) @ frame[:8], unseen_share * randn(3, seed=5) @ frame[8:]
    return tall, seen + unseen, seen, unseen


def test_what_the_map_ignores_changes_nothing_where_the_base_has_none_of_it() -> None:
    tall, base, _, _ = ignoring(0.0)
    inside = linear_null(linear(spread(8, 20))[0].jacobian, randn(8, seed=4), 5)
    null = linear_null(tall, base, 5)
    torch.testing.assert_close(null.losses, inside.losses, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(null.vectors, inside.vectors @ rotation(11)[:8], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("share", [0.3, 3.0])
def test_a_base_the_map_partly_ignores_is_matched_exactly_once(share: float) -> None:
    tall, base, seen, unseen = ignoring(share)
    null, alone = linear_null(tall, base, 6), linear_null(tall, seen, 5)
    assert float(null.losses[0]) < 1e-12 and float(relative_loss(tall, base, null.vectors[0])) < 1e-9
    assert float(null.norms[0]) == pytest.approx(float(seen.norm() * base.norm() / unseen.norm()), rel=1e-9)
    torch.testing.assert_close(null.losses[1:], alone.losses, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(null.vectors[1:], alone.vectors, rtol=1e-7, atol=1e-8)
    past = base[None]
    for k, vector in enumerate(null.vectors):  # the shortest of the optima
        best = least_norm_optimum(tall, base, past)
        torch.testing.assert_close(vector, best, rtol=1e-5, atol=1e-6)
        assert float(null.losses[k] - relative_loss(tall, base, best)) < 1e-8
        past = torch.cat([past, vector[None]])
    assert len(linear_null(tall, base, 1).losses) == 1


def least_norm_optimum(jacobian: torch.Tensor, base: torch.Tensor, avoid: torch.Tensor) -> torch.Tensor:
    """The shortest argmin |J (theta - base)| with avoid @ theta = 0, by a pseudo-inverse inside the complement."""
    complement = torch.linalg.svd(avoid)[2][len(avoid) :]
    return torch.linalg.pinv(jacobian @ complement.mT, rtol=1e-9) @ (jacobian @ base) @ complement


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_jacobian_that_is_not_finite_is_refused(bad: float) -> None:
    jacobian = torch.eye(3, dtype=DTYPE)
    jacobian[1, 2] = bad
    with pytest.raises(ValueError, match="got a Jacobian or a base with NaN or infinity"):
        linear_null(jacobian, randn(3), 2)
    with pytest.raises(ValueError, match="got a Jacobian or a base with NaN or infinity"):
        linear_null(torch.eye(3, dtype=DTYPE), jacobian[1], 2)
    for call in (
        lambda: linear_null(torch.eye(3), torch.ones(3), 0),
        lambda: linear_family(torch.eye(3), torch.ones(3), 0, seed=0),
    ):
        with pytest.raises(ValueError, match="got n=0; expected at least 1"):
            call()


def test_a_base_without_linear_effect_has_no_null() -> None:
    jacobian = torch.diag(torch.tensor([1.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match="got a base vector that the Jacobian maps to 0"):
        linear_null(jacobian, torch.tensor([0.0, 0.0, 1.0]), 2)


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


def test_the_optimiser_on_a_linear_map_reaches_its_null() -> None:
    jacobian, base = linear(spread(12, 8))[0].jacobian, 3 * randn(12, seed=5)
    settings = OrthoSettings(solver=Lbfgs(max_steps=200, tolerance=1e-12))
    found, null = linear_family(jacobian, base, 5, seed=1, settings=settings), linear_null(jacobian, base, 5)
    losses = torch.tensor([result.loss for result in found], dtype=DTYPE)
    torch.testing.assert_close(losses, null.losses, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(torch.stack([result.vector for result in found]), null.vectors, rtol=1e-3, atol=1e-4)
    short = linear_family(jacobian, base, 3, seed=1, settings=OrthoSettings(max_norm=0.5 * float(base.norm())))
    assert all(result.vector.norm() <= 0.5 * base.norm() * (1 + 1e-9) for result in short), "a cap is kept"
    assert short[0].loss > null.losses[0] + 1e-3, "and costs loss"


def test_a_linear_family_ends_where_nothing_has_an_effect() -> None:
    jacobian = torch.zeros(6, 6, dtype=DTYPE)
    jacobian[0, 0] = 1
    base = torch.eye(6, dtype=DTYPE)[0]
    assert linear_family(jacobian, base, 4, seed=0, settings=OrthoSettings(patience=2)) == []


def test_mixtures_have_twice_the_covariance_and_no_mean() -> None:
    activations = randn(500, 4) * torch.tensor([5.0, 2, 1, 0]) + 30
    for draw in (covariance_mixture, activation_mixture):
        drawn = draw(activations, 40_000, rng())
        assert drawn.mean(0).abs().max() < 0.15
        torch.testing.assert_close(drawn.mT.cov(), 2 * activations.mT.cov(), rtol=0.05, atol=0.3)
    pairs = activation_mixture(activations[:2], 50, rng())
    difference = activations[0] - activations[1]
    assert ((pairs - difference).norm(dim=-1) * (pairs + difference).norm(dim=-1) == 0).all(), "never itself"
    with pytest.raises(ValueError, match="got 1 activations; expected at least 2"):
        activation_mixture(activations[:1], 3, rng())


@pytest.mark.parametrize("cosine", [0.0, 0.05, 0.25, 0.6, 0.95])
def test_random_families_have_the_mean_cosine_asked_for(cosine: float) -> None:
    family = random_cone(20, 30, cosine, rng(3))
    assert mean_abs_cosine(family) == pytest.approx(cosine, abs=1e-8)
    torch.testing.assert_close(family.norm(dim=-1), torch.ones(20, dtype=DTYPE))
    assert not torch.equal(family, random_cone(20, 30, cosine, rng(4)))


def test_mean_cosines_by_hand() -> None:
    vectors = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, -3.0], [-1.0, 0.0]])
    assert mean_abs_cosine(vectors) == pytest.approx(3 / 6)
    with pytest.raises(ValueError, match="got 1 vectors; expected at least 2"):
        mean_abs_cosine(vectors[:1])


def test_impossible_random_families_are_refused() -> None:
    for n, cosine in ((1, 0.5), (5, 1.0), (5, -0.1)):
        with pytest.raises(ValueError, match=f"got n={n}, mean"):
            random_cone(n, 8, cosine, rng())
    with pytest.raises(ValueError, match="in 8 dimensions; expected at least 0.2"):
        random_cone(40, 8, 0.01, rng())


def test_a_tie_is_a_tie_whatever_its_last_bit() -> None:
    value = 0.5 - 0.3
    for tied in (0.7 - 0.5, 0.2, 0.19999999999999996, 0.20000000000000004):
        assert rank_p_value(value, [tied, 0.1]) == 2 / 3
        assert upper_p_values(torch.tensor([value]).double(), torch.tensor([tied, 0.1]).double()).tolist() == [2 / 3]
    assert rank_p_value(0.2 + 1e-6, [0.2, 0.1]) == 1 / 3


def test_rank_p_values_by_hand() -> None:
    assert rank_p_value(5.0, [1.0, 2.0, 3.0]) == 0.25
    assert rank_p_value(1.0, [1.0, 2.0, 3.0]) == 1.0
    for value, null in ((float("nan"), [1.0]), (1.0, []), (1.0, [float("nan")])):
        with pytest.raises(ValueError, match="expected numbers, and a null that has some"):
            rank_p_value(value, null)

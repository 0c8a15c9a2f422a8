"""Bounds: each is proved on families that must obey it and reached by a family built for it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import DTYPE, flat_energy, randn, rotation, spread

from mi_ortho import linear_null, max_abs_cosine
from mi_ortho.nulls import (
    behaviour_bound,
    bessel_mass,
    capacity_bound,
    chance_bound,
    effect_budget,
    effective_dimension,
    equal_effect_vectors,
    kaarel_bound,
    ridge_capacity,
    ridge_norm,
    schur_horn_count,
    second_order_count,
)


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


def test_the_ridge_norm_in_closed_form() -> None:
    effect = randn(9, seed=3)
    for loss in (0.0, 0.3, 0.9):
        scaled = 4 * rotation(9)  # all directions cost the same: the base's own, shortened
        assert ridge_norm(scaled, effect, loss) == pytest.approx((1 - loss) * float(effect.norm()) / 4, abs=1e-8)
    thin = torch.diag(torch.tensor([2.0, 0.0, 0.0], dtype=DTYPE))  # only the first output can be reached
    seen = torch.tensor([3.0, 0.0, 4.0], dtype=DTYPE)
    loss = 0.9
    reached = 3 - (loss**2 * 25 - 16) ** 0.5
    assert ridge_norm(thin, seen, loss) == pytest.approx(reached / 2, abs=1e-8)
    with pytest.raises(ValueError, match="got loss 0.7; expected at least 0.8"):
        ridge_norm(thin, seen, 0.7)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 0.95))
def test_the_ridge_norm_is_the_least_norm(seed: int, loss: float) -> None:
    jacobian, base = randn(9, 7, seed=seed) * spread(7, 30), randn(7, seed=seed + 1)
    effect = jacobian @ base
    shortest = ridge_norm(jacobian, effect, loss)
    ridges = torch.logspace(-7, 5, 3000, dtype=DTYPE)[:, None, None] * torch.eye(7, dtype=DTYPE)
    path = torch.linalg.solve(jacobian.mT @ jacobian + ridges, jacobian.mT @ effect)
    works = (path @ jacobian.mT - effect).norm(dim=-1) <= loss * effect.norm()
    found = float(path.norm(dim=-1)[works].min())
    assert found == pytest.approx(shortest, rel=0.02) and found >= shortest * (1 - 1e-8)
    for other in randn(200, 7, seed=seed + 2):  # any vector that works is longer
        step = (1 - 0.999 * loss * effect.norm() / (jacobian @ other).norm().clamp_min(1e-9)).clamp_min(0)
        theta = base + (1 - step) * other
        if (jacobian @ theta - effect).norm() <= loss * effect.norm():
            assert theta.norm() >= shortest * (1 - 1e-8)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_ridge_capacity_bounds_linear_families_and_is_sharper(seed: int) -> None:
    jacobian, base = randn(14, 10, seed=seed) * spread(10, 10), randn(10, seed=seed + 1)
    null, effect = linear_null(jacobian, base, 6), jacobian @ base
    loss, norm = float(null.losses.max()), float(null.norms.max())
    if loss < 1 - 1e-9:
        bound = ridge_capacity(jacobian, effect, norm, loss)
        efficiency = float(effect.norm() / (torch.linalg.matrix_norm(jacobian, 2) * base.norm()))
        assert len(null.losses) <= bound * (1 + 1e-9)
        assert bound <= capacity_bound(float(base.norm()), norm, loss, efficiency) * (1 + 1e-9)


def test_ridge_capacity_is_reached_by_a_shared_direction() -> None:
    n, radius, loss = 9, 7.0, 0.25
    frame = rotation(20)[:n]
    shared = frame.sum(0, keepdim=True) / n**0.5
    norm = (1 - loss) * radius * n**0.5
    effect = shared @ (radius * shared[0])
    losses = (norm * frame @ shared.mT - effect).abs()[:, 0] / effect.abs()
    torch.testing.assert_close(losses, torch.full((n,), loss, dtype=DTYPE))
    assert ridge_capacity(shared, effect, norm, loss) == pytest.approx(n, abs=1e-8)


def test_the_behaviour_bound_is_reached() -> None:
    n, gradient = 5, 0.7 * rotation(12)[:5].sum(0) / 5**0.5
    effects = 3 * rotation(12)[:5] @ gradient
    assert behaviour_bound(3, float(gradient.norm()), float(effects.min())) == pytest.approx(n, abs=1e-8)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 10))
def test_schur_horn_counts_are_attained_by_construction_and_never_exceeded(seed: int, n: int) -> None:
    form = randn(10, 10, seed=seed)
    form = (form + form.mT) / 2
    values, norm = torch.linalg.eigvalsh(form), 1.7
    built = equal_effect_vectors(form, n, norm)
    effects = (built @ form * built).sum(-1)
    assert max_abs_cosine(built) < 1e-9
    torch.testing.assert_close(built.norm(dim=-1), torch.full((n,), norm, dtype=DTYPE), rtol=1e-9, atol=0)
    best = float(norm**2 * values.sort(descending=True).values[:n].mean())
    torch.testing.assert_close(effects, torch.full((n,), best, dtype=DTYPE), rtol=1e-8, atol=1e-8)
    if best > 1e-6:
        assert schur_horn_count(values, norm, best) >= n
        assert schur_horn_count(values, norm, best * (1 + 1e-6)) < n or n < 10 and values.sort().values[-n - 1] > best
    other = rotation(10, seed=seed + 1)[:n] * norm  # no other orthogonal family has a larger smallest effect
    assert float((other @ form * other).sum(-1).min()) <= best + 1e-9


def test_schur_horn_counts_by_hand() -> None:
    values = torch.tensor([1.0] + [0.1225] * 64, dtype=DTYPE)  # one strong direction, 64 weak ones, as in the notes
    radius = 7.0
    threshold = radius**2 * 0.999
    assert schur_horn_count(values, radius, threshold) == 1, "at the base's own norm only the base's own direction"
    assert schur_horn_count(values, 20.0, threshold) == 65
    assert schur_horn_count(values, 18.0, threshold) == int(0.8775 / (0.999 * (7 / 18) ** 2 - 0.1225))
    assert schur_horn_count(values, 0.1, threshold) == 0
    flat, basis = flat_energy(30, 12)
    effects = flat(5 * basis).norm(dim=-1)
    assert schur_horn_count(torch.cat([torch.ones(12), torch.zeros(18)]), 5.0, 25.0) == 12
    assert effects.std() < 1e-9 * effects.mean()


def test_second_order_counts_join_both_bounds() -> None:
    values = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.25, -1.0], dtype=DTYPE)
    assert second_order_count(values, 0.0, 2.0, 9.0) == schur_horn_count(values, 2.0, 9.0)
    nothing = torch.zeros(50)
    assert second_order_count(nothing, 0.5, 20.0, 2.5) == int(behaviour_bound(20, 0.5, 2.5))
    both = second_order_count(values, 2.0, 2.0, 9.0)
    assert both > schur_horn_count(values, 2.0, 9.0)
    gradient = 2 * rotation(6)[0]
    form = torch.diag(values)
    for seed in range(20):
        found = 2 * rotation(6, seed=seed)
        effects = (found @ gradient + (found @ form * found).sum(-1)).sort(descending=True).values
        assert int((effects >= 9.0).sum()) <= both


def test_budgets_in_closed_form() -> None:
    assert effect_budget(torch.tensor([7.0, 14.0, 14.0]), 7.0) == pytest.approx(1.5)
    assert effective_dimension(torch.tensor([1.0] + [0.1225] * 64)) == pytest.approx(8.84, abs=1e-5)
    form = torch.diag(torch.tensor([1.0, 0.5, 0.25, 0.25], dtype=DTYPE))
    for n in (1, 2, 3, 4):  # families whose effect is the top eigenvector's at norm 3 stay within the budget
        built = equal_effect_vectors(form, n, 1.0)
        reached = built * 3 / (built @ form * built).sum(-1, keepdim=True).sqrt()
        assert effect_budget(reached.norm(dim=-1), 3.0) <= effective_dimension(form.diagonal()) + 1e-9
    assert effect_budget(reached.norm(dim=-1), 3.0) == pytest.approx(2.0, abs=1e-8)


@pytest.mark.parametrize(("n", "overlap"), [(4, 0.0), (12, 0.0), (6, 0.05), (5, -0.1)])
def test_kaarels_bound_is_reached_by_a_simplex_around_the_direction(n: int, overlap: float) -> None:
    gram = (1 - overlap) * torch.eye(n, dtype=DTYPE) + overlap
    vectors = torch.linalg.cholesky(gram)
    shared = vectors.mean(0) / vectors.mean(0).norm()
    cosines = vectors @ shared
    assert float(cosines.std()) < 1e-12
    assert kaarel_bound(float(cosines[0]), overlap) == pytest.approx(n, abs=1e-8)
    if overlap == 0:
        assert bessel_mass(vectors, shared) == pytest.approx(1, abs=1e-12)


def test_bessel_mass_by_hand() -> None:
    frame = rotation(8)
    assert bessel_mass(5 * frame[:3], 2 * frame[1]) == pytest.approx(1, abs=1e-12)
    assert bessel_mass(frame[:3], frame[4]) == pytest.approx(0, abs=1e-12)
    assert bessel_mass(frame[:6], frame.sum(0)) == pytest.approx(6 / 8, abs=1e-12)


def test_bounds_refuse_what_bounds_nothing() -> None:
    eye = torch.eye(3, dtype=DTYPE)
    bad_eye = eye.clone()
    bad_eye[0, 0] = float("nan")
    refused = {
        "got cosine=0.1, overlap=0.02": lambda: kaarel_bound(0.1, 0.02),
        "got cosine=0, overlap": lambda: kaarel_bound(0, -0.5),
        "got norm=-1": lambda: behaviour_bound(-1, 1, 1),
        "got norm 0": lambda: ridge_capacity(eye, eye[0], 0, 0.5),
        "got loss 1": lambda: ridge_norm(eye, eye[0], 1),
        "an effect of norm 0": lambda: ridge_norm(eye, 0 * eye[0], 0.5),
        "got a Jacobian or an effect with NaN": lambda: ridge_norm(bad_eye, eye[0], 0.5),
        "got norm=1, threshold=0": lambda: schur_horn_count(torch.ones(3), 1, 0),
        "got gradient_norm=-1": lambda: second_order_count(torch.ones(3), -1, 1, 1),
        "got n=4": lambda: equal_effect_vectors(eye, 4, 1),
        "and a form of width 3": lambda: equal_effect_vectors(torch.triu(torch.ones(3, 3)), 2, 1),
        "got radius=0": lambda: effect_budget(torch.ones(2), 0),
        "got no positive eigenvalue": lambda: effective_dimension(-torch.ones(2)),
        "got a vector or a direction of norm 0": lambda: bessel_mass(eye, 0 * eye[0]),
    }
    for message, call in refused.items():
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("count", [4, 16, 40])
def test_the_chance_bound_recovers_the_count_from_random_vectors(count: int) -> None:
    width, generator = 64, torch.Generator().manual_seed(count)
    threshold = count**-0.5  # `count` orthogonal unit vectors can each have this component along one direction, no more
    random = torch.nn.functional.normalize(torch.randn(200_000, width, generator=generator), dim=-1)
    rate = float((random[:, 0] > threshold).double().mean())
    assert chance_bound(rate, width) == pytest.approx(count, rel=0.1)


@pytest.mark.parametrize(("rate", "width"), [(0.0, 8), (0.5, 8), (0.1, 1)])
def test_the_chance_bound_needs_a_rate(rate: float, width: int) -> None:
    with pytest.raises(ValueError, match="measure more random vectors"):
        chance_bound(rate, width)


def test_directions_of_negative_curvature_do_not_lower_the_second_order_count() -> None:
    """Eigenvalues 1, -1, |g| = norm = threshold = 1: two vectors have sqrt 2 of the gradient and 1 of the curvature."""
    assert second_order_count(torch.tensor([1.0, -1.0]), 1.0, 1.0, 1.0) == 2

"""Top singular triplets: equal to the dense decomposition where converged, within their bounds where not."""

import pytest
import torch
from toys import DTYPE, linear, logits_map, mlp, randn, rng, rotation

from mi_ortho import FunctionMap, LinearMap, Subspace, jacobian, span
from mi_ortho.derivatives import Solver, dense_singular, krylov_singular, linearise, overlap, randomised_singular

SOLVERS = {"dense": dense_singular, "randomised": randomised_singular, "krylov": krylov_singular}
EVERY = pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)


@EVERY
@pytest.mark.parametrize("shape", [(9, 30), (30, 9), (24, 24)], ids=str)
def test_top_triplets_equal_the_dense_decomposition(solve: Solver, shape: tuple[int, int]) -> None:
    m, d_model = shape
    count = min(shape)
    values = torch.logspace(0, -4, count, dtype=DTYPE)
    matrix = rotation(m)[:, :count] @ torch.diag(values) @ rotation(d_model, 1)[:count]
    found = solve(linearise(LinearMap(matrix, randn(m)), randn(d_model), chunk=4), 5, rng())
    torch.testing.assert_close(found.values, values[:5], rtol=1e-6, atol=1e-10)
    assert ((found.right @ rotation(d_model, 1)[:5].mT).diagonal().abs() > 1 - 1e-6).all()
    torch.testing.assert_close(found.right @ found.right.mT, torch.eye(5, dtype=DTYPE))
    torch.testing.assert_close(found.left @ found.left.mT, torch.eye(5, dtype=DTYPE))
    torch.testing.assert_close(found.left @ matrix @ found.right.mT, torch.diag(found.values), rtol=1e-5, atol=1e-5)


@EVERY
def test_residuals_are_what_they_say_and_bound_the_error(solve: Solver) -> None:
    """A nearly flat spectrum, where few iterations do not converge."""
    z, at = logits_map(40, 3, 20), randn(40)
    matrix = jacobian(z, at)
    exact = torch.linalg.svdvals(matrix)
    found = solve(linearise(z, at), 6, rng(1))
    right = (found.right @ matrix.mT - found.values[:, None] * found.left).norm(dim=-1)
    left = (found.left @ matrix - found.values[:, None] * found.right).norm(dim=-1)
    torch.testing.assert_close(found.right_residual, right, atol=1e-9, rtol=1e-6)
    torch.testing.assert_close(found.left_residual, left, atol=1e-9, rtol=1e-6)
    nearest = (found.values[:, None] - exact).abs().min(dim=1).values
    assert (nearest <= found.bound + 1e-9).all()


def test_bounds_are_not_empty_words() -> None:
    """One pass over a flat spectrum: values are off, bounds show it, and Krylov is closer for the same products."""
    z, _ = linear(torch.linspace(1.0, 0.8, 60, dtype=DTYPE))
    operator, exact = linearise(z, randn(60)), torch.linspace(1.0, 0.8, 60, dtype=DTYPE)[:4]
    rough = randomised_singular(operator, 4, rng(), iterations=1, extra=0)
    assert rough.bound.min() > 1e-3 and (exact - rough.values).min() > 1e-3
    plain = randomised_singular(operator, 4, rng(), iterations=6, extra=4)
    krylov = krylov_singular(operator, 4, rng(), depth=6, extra=4)
    assert (exact - krylov.values).max() < 0.5 * (exact - plain.values).max()


@EVERY
def test_equal_singular_values_and_exhausted_spaces(solve: Solver) -> None:
    """J = 2 P with P a projection on 3 of 8 dimensions: the Krylov space ends at once."""
    inside = rotation(8)[:3]
    z = LinearMap(2 * inside.mT @ inside, randn(8))
    found = solve(linearise(z, randn(8)), 5, rng())
    torch.testing.assert_close(found.values, torch.tensor([2, 2, 2, 0, 0], dtype=DTYPE), atol=1e-9, rtol=1e-9)
    assert (found.right[:3] @ inside.mT).square().sum() > 3 - 1e-9
    assert found.bound.max() < 1e-9


@EVERY
def test_more_triplets_than_exist_are_an_error(solve: Solver) -> None:
    operator = linearise(logits_map(10, 1, 4), randn(10))
    for k in (0, 5):
        with pytest.raises(ValueError, match=f"got k={k}; expected 1 to 4: a Jacobian of 4 outputs by 10 inputs"):
            solve(operator, k, rng())


@EVERY
def test_products_that_are_not_finite_are_an_error(solve: Solver) -> None:
    root = FunctionMap(lambda theta: theta.abs().sqrt(), 6)
    with pytest.raises(ValueError, match="got a?.*Jacobian.* with NaN or infinit.* at a vector of norm 0"):
        solve(linearise(root, torch.zeros(6)), 2, rng())


def test_overlap_of_equal_orthogonal_and_random_subspaces() -> None:
    basis = rotation(40)
    same = overlap(Subspace(basis[:4]), Subspace(basis[:4].flip(0)), generator=rng())
    assert same.share > 1 - 1e-9 and same.p_value == 1 / 201 and same.angles.max() < 1e-6
    apart = overlap(Subspace(basis[:4]), Subspace(basis[4:10]), generator=rng())
    assert apart.share < 1e-9 and apart.p_value == 1.0
    assert abs(float(apart.null.mean()) - 6 / 40) < 0.02, "mean share of 6 random directions among 40"
    chance = [
        overlap(Subspace(basis[:4]), span(randn(4, 40, seed=seed)), generator=rng(seed)).p_value for seed in range(40)
    ]
    assert 0.3 < sum(chance) / 40 < 0.7 and min(chance) > 1 / 201, "p-values of the null are uniform"


def test_the_next_layer_and_the_last_share_sensitive_directions() -> None:
    """A two-layer map whose first layer keeps 3 directions large: both Jacobians are largest along them."""
    inside = rotation(30)[:3]
    gain = torch.eye(30, dtype=DTYPE) + 4 * inside.mT @ inside
    rest = mlp(30, depth=1, gain=0.3)
    local = LinearMap(gain, torch.zeros(30, dtype=DTYPE))
    to_last = FunctionMap(lambda theta: rest(local(theta)), 30)
    at = torch.zeros(30, dtype=DTYPE)
    a, b = (krylov_singular(linearise(z, at), 3, rng()).right for z in (local, to_last))
    assert overlap(Subspace(a), Subspace(b), generator=rng()).share > 0.9


def test_overlap_refuses_what_cannot_be_compared() -> None:
    for a, b in ((rotation(5)[:0], rotation(5)[:2]), (rotation(5)[:2], rotation(6)[:2])):
        with pytest.raises(ValueError, match="got subspaces of"):
            overlap(Subspace(a), Subspace(b), generator=rng())

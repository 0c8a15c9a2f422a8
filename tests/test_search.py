"""Projected L-BFGS: feasible at every step, at the constrained optimum at the end, honest about how it ended."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import DTYPE, constrained_optimum, linear, mlp, randn, spread

from mi_ortho import FunctionMap, Lbfgs, Status, Subspace, match, span
from mi_ortho.elicitation import Feasible, minimise
from mi_ortho.elicitation.search import two_loop, value_and_gradient
from mi_ortho.interventions import empty_subspace

THOROUGH = Lbfgs(max_steps=400, tolerance=1e-15, scale=2.0)
FREE = Feasible(empty_subspace(10, dtype=DTYPE))


def allowed(feasible: Feasible, theta: torch.Tensor) -> None:
    """Assert that every row of theta obeys every constraint to rounding."""
    norms = theta.norm(dim=-1)
    assert (feasible.avoid.basis @ theta.mT).abs().max() <= 1e-12 * norms.max() if len(feasible.avoid) else True
    assert (norms <= feasible.max_norm * (1 + 1e-12)).all() and (norms >= feasible.min_norm * (1 - 1e-12)).all()
    if feasible.nested:
        gram = theta @ theta.mT
        assert (gram - gram.diagonal().diag()).abs().max() <= 1e-12 * norms.max() ** 2


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    avoid=st.integers(0, 5),
    norms=st.sampled_from([(0.0, float("inf")), (0.0, 1.5), (2.0, 2.0), (0.5, 4.0)]),
    nested=st.booleans(),
    size=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_projecting_is_allowed_and_idempotent(
    seed: int, avoid: int, norms: tuple[float, float], nested: bool, size: float
) -> None:
    feasible = Feasible(span(randn(avoid, 10, seed=seed)), *norms, nested=nested)
    once = feasible(size * randn(4, 10, seed=seed + 1))
    allowed(feasible, once)
    torch.testing.assert_close(feasible(once), once, rtol=1e-12, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 4), st.booleans())
def test_a_tangent_step_leaves_the_set_only_to_second_order(seed: int, avoid: int, nested: bool) -> None:
    feasible = Feasible(span(randn(avoid, 10, seed=seed)), 2.0, 2.0, nested=nested)
    at = feasible(randn(3, 10, seed=seed + 1))
    step = feasible.tangent(at, randn(3, 10, seed=seed + 2))
    far, near = ((feasible(at + size * step) - at - size * step).norm() for size in (1e-3, 1e-4))
    if nested:  # moving an earlier row turns what the later ones must avoid, by as much
        far, near = ((feasible(at + size * step) - at - size * step)[0].norm() for size in (1e-3, 1e-4))
    assert near < 0.02 * far + 1e-15


def test_a_step_into_the_ball_keeps_its_radial_part() -> None:
    ball = Feasible(empty_subspace(3, dtype=DTYPE), max_norm=1.0)
    at, step = torch.tensor([[1.0, 0, 0]], dtype=DTYPE), torch.tensor([[2.0, 1, 0]], dtype=DTYPE)
    assert ball.tangent(at, step).tolist() == [[0, 1, 0]]
    assert ball.tangent(at, -step).tolist() == [[-2, -1, 0]]


def test_norms_that_cannot_be_met_are_refused() -> None:
    for low, high in ((2.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match=f"got norms from {low} to {high}; expected 0 <= min_norm"):
            Feasible(empty_subspace(3), low, high)


def test_zero_is_never_turned_into_nan() -> None:
    for norms in ((20.0, 20.0), (0.0, 1.0)):
        assert torch.isfinite(Feasible(empty_subspace(3), *norms)(torch.zeros(2, 3))).all()


@pytest.mark.parametrize("condition", [1.0, 10.0, 100.0])
def test_a_quadratic_is_solved_to_its_constrained_optimum(condition: float) -> None:
    z, _ = linear(spread(10, condition))
    base = randn(10, seed=4)
    avoid = torch.cat([base[None], randn(3, 10, seed=5)])
    goal = match(z, base)
    found = minimise(goal.smooth, randn(2, 10, seed=6), Feasible(span(avoid)), THOROUGH)
    best = constrained_optimum(z.jacobian, base, avoid)
    for result in found:
        assert result.status is Status.CONVERGED
        torch.testing.assert_close(result.vector, best, rtol=1e-5, atol=1e-5)
        assert 2 * result.loss - 2 * float(goal.smooth(best[None])) == pytest.approx(0, abs=1e-10)
        assert all(after <= before for before, after in zip(result.losses, result.losses[1:], strict=False))


def test_the_ball_solution_satisfies_the_lagrange_condition() -> None:
    z, _ = linear(spread(10, 10))
    base = 3 * randn(10, seed=4)
    avoid, goal = span(base[None]), match(z, base)
    ball = Feasible(avoid, max_norm=1.0)
    (result,) = minimise(goal.smooth, randn(1, 10, seed=6), ball, THOROUGH)
    gradient = avoid.reject(value_and_gradient(goal.smooth, result.vector[None])[1])[0]
    assert float(result.vector.norm()) == pytest.approx(1.0, rel=1e-12)
    cosine = torch.nn.functional.cosine_similarity(gradient, result.vector, dim=0)
    assert float(cosine) == pytest.approx(-1, abs=1e-6), "downhill must point straight out of the ball"


def test_a_nonlinear_search_ends_where_the_projected_gradient_vanishes() -> None:
    base = 2 * randn(10, seed=4)
    avoid, goal = span(base[None]), match(mlp(10), base)
    starts = randn(2, 10, seed=6)
    start = value_and_gradient(goal.smooth, starts)[1]
    for result in minimise(goal.smooth, starts, Feasible(avoid), Lbfgs(max_steps=100, tolerance=1e-12, scale=2.0)):
        gradient = value_and_gradient(goal.smooth, result.vector[None])[1]
        assert avoid.reject(gradient).norm() < 1e-5 * start.norm()


def test_a_search_that_meets_the_cap_goes_on_along_it() -> None:
    base = 3 * randn(10, seed=4)
    ball, goal = Feasible(span(base[None]), max_norm=2.0), match(mlp(10, gain=2.5), base)
    found = minimise(goal.smooth, 3 * randn(4, 10, seed=6), ball, Lbfgs(max_steps=150, tolerance=1e-13, scale=2.0))
    rows = torch.stack([result.vector for result in found])
    downhill = ball.tangent(rows, -value_and_gradient(goal.smooth, rows)[1])
    assert (rows.norm(dim=-1) > 1.999).all() and downhill.norm(dim=-1).max() < 1e-4


def test_rows_of_a_batch_do_not_notice_each_other() -> None:
    base = 2 * randn(10, seed=4)
    goal, starts = match(mlp(10), base), randn(5, 10, seed=6)
    together = minimise(goal.smooth, starts, Feasible(span(base[None])), Lbfgs(max_steps=15, scale=2.0))
    for start, row in zip(starts, together, strict=True):
        (alone,) = minimise(goal.smooth, start[None], Feasible(span(base[None])), Lbfgs(max_steps=15, scale=2.0))
        torch.testing.assert_close(row.vector, alone.vector, rtol=1e-8, atol=1e-10)
        assert (row.status, row.evaluations) == (alone.status, alone.evaluations)


def test_a_nested_block_is_orthogonal_and_nearly_as_good_as_one_after_the_other() -> None:
    z, _ = linear(spread(10, 30))
    base = randn(10, seed=4)
    goal, avoid = match(z, base), Subspace(base[None] / base.norm())
    limits = Lbfgs(max_steps=200, tolerance=1e-6, scale=3.0)
    block = minimise(goal.smooth, randn(4, 10, seed=6), Feasible(avoid, nested=True), limits)
    rows = torch.stack([result.vector for result in block])
    allowed(Feasible(avoid, nested=True), rows)
    past = base[None]
    for row, result in zip(rows, block, strict=True):
        best = float(goal(constrained_optimum(z.jacobian, base, past)[None]))
        assert best - 1e-9 <= float(goal(row[None])) <= 1.05 * best + 0.01
        assert result.loss == pytest.approx(float(goal.smooth(row[None])), rel=1e-9), "the loss of what is returned"
        past = torch.cat([past, row[None]])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("max_steps", [1, 3, 10])
def test_a_nested_block_is_orthogonal_wherever_it_stops(seed: int, max_steps: int) -> None:
    base = 4 * randn(10, seed=seed)
    goal, feasible = match(mlp(10, seed=seed), base), Feasible(span(base[None]), max_norm=5.0, nested=True)
    found = minimise(goal.smooth, 4 * randn(5, 10, seed=seed + 9), feasible, Lbfgs(max_steps=max_steps, scale=4.0))
    rows = torch.stack([result.vector for result in found])
    allowed(feasible, rows)
    losses = torch.tensor([result.loss for result in found], dtype=DTYPE)
    torch.testing.assert_close(losses, goal.smooth(rows), rtol=1e-9, atol=1e-12)


def test_evaluations_are_what_was_evaluated() -> None:
    calls: list[int] = []
    goal = match(mlp(10), 2 * randn(10, seed=4))

    def counted(theta: torch.Tensor) -> torch.Tensor:
        calls.append(len(theta))
        return goal.smooth(theta)

    for nested in (False, True):
        calls.clear()
        found = minimise(counted, randn(3, 10), Feasible(empty_subspace(10, dtype=DTYPE), nested=nested), Lbfgs())
        assert sum(result.evaluations for result in found) == sum(calls)


def test_nan_is_reported_and_stays_in_its_row() -> None:
    def objective(theta: torch.Tensor) -> torch.Tensor:
        broken = torch.where(theta[:, 0] > 50, torch.nan, 1.0)
        return (theta - 1).square().sum(-1) * broken

    start = torch.zeros(2, 10, dtype=DTYPE)
    start[1, 0] = 60.0
    sound, broken = minimise(objective, start, FREE, THOROUGH)
    assert sound.status is Status.CONVERGED and sound.loss < 1e-8
    assert broken.status is Status.NONFINITE


def test_a_gradient_of_nan_is_not_called_convergence() -> None:
    (result,) = minimise(lambda theta: theta.abs().sqrt().sum(-1) + 1, torch.zeros(1, 10, dtype=DTYPE), FREE, THOROUGH)
    assert result.status is Status.NONFINITE


@pytest.mark.parametrize("beyond", [torch.nan, torch.inf, -torch.inf])
def test_a_wall_of_nan_is_walked_around(beyond: float) -> None:
    def objective(theta: torch.Tensor) -> torch.Tensor:
        bowl = (theta[:, 0] - 1).square() + theta[:, 1:].square().sum(-1) * 50
        return torch.where(theta[:, 0] < 1.2, bowl, beyond)

    start = torch.full((1, 10), 0.001, dtype=DTYPE)
    start[0, 0] = -3.0  # the first step goes straight at the wall, and past it
    (result,) = minimise(objective, start, FREE, Lbfgs(200, 1e-14, scale=100.0))
    assert 0 <= result.loss < 1e-8


def test_running_out_of_steps_is_said() -> None:
    z, _ = linear(spread(10, 100))
    (result,) = minimise(match(z, randn(10)).smooth, randn(1, 10, seed=1), FREE, Lbfgs(max_steps=2))
    assert result.status is Status.MAX_STEPS and len(result.losses) == 3


def test_the_exact_inverse_as_preconditioner_needs_two_steps() -> None:
    z, _ = linear(spread(10, 1000))
    base = randn(10)
    goal, avoid = match(z, base), span(base[None])
    gram = z.jacobian.mT @ z.jacobian / (z.jacobian @ base).square().sum()
    projector = torch.eye(10, dtype=DTYPE) - avoid.basis.mT @ avoid.basis
    inverse = torch.linalg.pinv(projector @ gram @ projector, rtol=1e-12, hermitian=True)
    start, limits = randn(1, 10, seed=1), Lbfgs(max_steps=2, tolerance=1e-15, scale=1e4)
    (result,) = minimise(goal.smooth, start, Feasible(avoid), limits, lambda gradient: gradient @ inverse)
    best = constrained_optimum(z.jacobian, base, base[None])
    assert result.loss == pytest.approx(float(goal.smooth(best[None])), abs=1e-12)


def test_two_loop_satisfies_the_secant_equation_for_every_row() -> None:
    hessian = randn(6, 6)
    hessian = hessian @ hessian.mT + torch.eye(6, dtype=DTYPE)
    pairs = []
    for seed in range(3):
        change = randn(2, 6, seed=seed)
        curvature = change @ hessian
        pairs.append((change, curvature, 1 / (change * curvature).sum(-1)))
    torch.testing.assert_close(two_loop(pairs[-1][1], pairs, None), pairs[-1][0])
    change, curvature, inverse = pairs[-1]
    rejected = [*pairs[:-1], (change, curvature, inverse * torch.tensor([1.0, 0.0]))]
    torch.testing.assert_close(two_loop(pairs[-2][1], rejected, None)[1], pairs[-2][0][1])


def test_a_map_without_gradient_ends_at_once() -> None:
    still = FunctionMap(lambda theta: 0 * theta + 1, 10)
    (result,) = minimise(lambda theta: still(theta).sum(-1), randn(1, 10), FREE, Lbfgs())
    assert result.status is Status.CONVERGED and result.evaluations <= 4

"""MELBO on maps whose answer is known: singular vectors, calibration, norms, orthogonality, outcomes."""

import math
from collections import Counter

import pytest
import torch
from toys import DTYPE, gained, linear, mlp, rng, saturating

from mi_ortho import FunctionMap, SearchResult, Status, displace, max_abs_cosine, melbo, random_vectors
from mi_ortho.elicitation import Feasible, melbo_published
from mi_ortho.interventions import empty_subspace, orthonormal_rows

ZERO = torch.zeros(8, dtype=DTYPE)
SINGULAR = torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.1], dtype=DTYPE)


def stack(results: list[SearchResult]) -> torch.Tensor:
    return torch.stack([result.vector for result in results])


def check_singular(results: list[SearchResult], right: torch.Tensor, radius: float, tolerance: float) -> None:
    for result, direction, sigma in zip(results, right, SINGULAR, strict=False):
        assert result.loss == pytest.approx(radius * float(sigma), rel=tolerance)
        assert abs(float(result.vector @ direction)) == pytest.approx(radius, rel=tolerance)


@pytest.mark.parametrize("block", [1, 3, 8])
@pytest.mark.parametrize("p", [2.0, 4.0])
def test_on_a_linear_map_it_finds_the_singular_vectors_in_order(block: int, p: float) -> None:
    z, right = linear(SINGULAR)
    objective = displace(z, p=p, like=ZERO)
    results = melbo(objective, radius=2.5, n=4, generator=rng(), block=block, max_steps=500, tolerance=1e-14)
    check_singular(results, right, 2.5, 1e-6)
    assert all(result.status is Status.CONVERGED for result in results)


@pytest.mark.parametrize("block", [1, 3, 8])
@pytest.mark.parametrize("p", [2.0, 4.0])
@pytest.mark.parametrize("bend", [1.5, 4.0, None])
def test_what_has_converged_on_a_curved_map_is_stationary(bend: float | None, p: float, block: int) -> None:
    z = mlp(12) if bend is None else saturating(12, 4, gain=bend)
    objective = displace(z, p=p, like=torch.zeros(12, dtype=DTYPE))
    found = melbo(objective, radius=2.0, n=8, generator=rng(), block=block, max_steps=80)
    ended = Counter(result.status.name for result in found)
    avoid = empty_subspace(12, dtype=DTYPE)
    for result in found:
        assert result.loss == pytest.approx(float(objective(result.vector[None])), rel=1e-9)
        if result.status is Status.CONVERGED:
            assert gained(objective, result.vector, Feasible(avoid, 2.0, 2.0)) < 0.005
        avoid = avoid.extend(result.vector[None])
    assert set(ended) <= {"CONVERGED", "STALLED", "MAX_STEPS"}
    assert ended["CONVERGED"] or block == 1 or bend == 4.0, ended
    assert max_abs_cosine(stack(found)) < 1e-12


@pytest.mark.parametrize("seed", range(4))
def test_the_first_of_a_block_never_falls_whatever_the_others_do(seed: int) -> None:
    objective = displace(saturating(12, 4, seed=seed), p=4.0, like=torch.zeros(12, dtype=DTYPE))
    first, *_ = melbo(objective, radius=2.0, n=6, generator=rng(seed), block=6, max_steps=40)
    assert list(first.losses) == sorted(first.losses) and len(first.losses) > 3


def test_vectors_of_a_block_are_as_good_as_one_after_the_other() -> None:
    for p in (2.0, 4.0):
        objective = displace(saturating(12, 4), p=p, like=torch.zeros(12, dtype=DTYPE))
        one, eight = (
            melbo(objective, radius=2.0, n=8, generator=rng(), block=block, max_steps=200) for block in (1, 8)
        )
        assert sum(r.loss for r in eight) > 0.97 * sum(r.loss for r in one)


def test_the_published_schedule_finds_them_too() -> None:
    z, right = linear(SINGULAR)
    objective = displace(z, like=ZERO)
    results = melbo_published(objective, radius=2.5, n=2, generator=rng(), learning_rate=0.01, max_steps=800)
    check_singular(results, right, 2.5, 1e-3)
    assert len(results[0].losses) == 801 and results[0].evaluations == 801


def test_all_directions_can_be_asked_for() -> None:
    found = stack(melbo(displace(mlp(8), like=ZERO), radius=3.0, n=8, generator=rng(), block=3))
    assert found.dtype == DTYPE and max_abs_cosine(found) < 1e-12
    torch.testing.assert_close(found.norm(dim=-1), torch.full((8,), 3.0, dtype=DTYPE), rtol=1e-12, atol=0)


def test_the_objective_grows_and_beats_random_vectors() -> None:
    objective = displace(mlp(32, gain=1.0), like=torch.zeros(32, dtype=DTYPE))
    (result,) = melbo(objective, radius=4.0, generator=rng(), max_steps=60)
    assert list(result.losses) == sorted(result.losses)
    assert result.loss == pytest.approx(float(objective(result.vector[None])))
    random = objective(random_vectors(500, 32, 4.0, rng(1)).to(DTYPE))
    assert result.loss > 1.1 * float(random.max())


def test_power_iteration_is_at_least_as_good_as_the_published_schedule() -> None:
    objective = displace(mlp(16, gain=1.0), like=torch.zeros(16, dtype=DTYPE))
    ours = melbo(objective, radius=2.0, n=4, generator=rng(), block=1, max_steps=100)
    published = melbo_published(objective, radius=2.0, n=4, generator=rng(), max_steps=300)
    assert sum(r.loss for r in ours) > 0.99 * sum(r.loss for r in published)
    assert sum(r.evaluations for r in ours) < 0.35 * sum(r.evaluations for r in published)
    assert max_abs_cosine(stack(published)) < 1e-12


def test_the_generator_decides_the_result() -> None:
    objective = displace(mlp(8), like=ZERO)
    first, same, other = (melbo(objective, radius=3.0, generator=rng(seed), max_steps=2)[0] for seed in (1, 1, 2))
    assert torch.equal(first.vector, same.vector) and not torch.equal(first.vector, other.vector)


def test_nan_is_a_status() -> None:
    broken = FunctionMap(lambda theta: torch.where(theta.norm(dim=-1, keepdim=True) > 1, torch.nan, theta), 8)
    found = melbo(displace(broken, like=ZERO), radius=3.0, n=3, generator=rng(), block=2)
    assert [result.status for result in found] == [Status.NONFINITE] * 3
    torch.testing.assert_close(stack(found).norm(dim=-1), torch.full((3,), 3.0, dtype=DTYPE))
    assert max_abs_cosine(stack(found)) < 1e-12


def test_nan_stays_in_its_row() -> None:
    """One row whose gradient is NaN must not reach the others of its block."""
    z = mlp(8)
    fragile = FunctionMap(lambda theta: torch.where(theta[..., :1] > 1.0, torch.nan, z(theta)), 8)
    starts = [3 * orthonormal_rows(random_vectors(4, 8, 3.0, rng(seed))) for seed in range(40)]
    seed = next(k for k, rows in enumerate(starts) if rows[0, 0] < 0 and (rows[1:, 0] > 1).any())
    found = melbo(displace(fragile, like=ZERO), radius=3.0, n=4, generator=rng(seed), block=4, max_steps=3)
    assert torch.isfinite(stack(found)).all() and max_abs_cosine(stack(found)) < 1e-12
    assert found[0].status is not Status.NONFINITE and found[0].loss > found[0].losses[0]


@pytest.mark.parametrize("search", [melbo, melbo_published])
def test_bad_arguments_are_refused(search) -> None:
    objective = displace(mlp(8), like=ZERO)
    for radius in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"got radius {radius}; expected a positive, finite norm; try"):
            search(objective, radius=radius, generator=rng())
    for n in (0, 9):
        with pytest.raises(ValueError, match=f"got n={n}; expected 1 to d_model=8"):
            search(objective, radius=1.0, n=n, generator=rng())
    if search is melbo:
        with pytest.raises(ValueError, match="got block=0; expected at least 1"):
            melbo(objective, radius=1.0, generator=rng(), block=0)

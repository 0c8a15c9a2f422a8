"""MELBO: the steering vectors of a given norm that change a model most.

Mack and Turner 2024, "Mechanistically eliciting latent behaviors in language models".
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.elicitation.objectives import Displace
from mi_ortho.elicitation.search import Feasible, SearchResult, Status, negligible, value_and_gradient
from mi_ortho.elicitation.starts import nothing_yet, random_vectors, require_search


def melbo(
    objective: Displace,
    *,
    radius: float,
    n: int = 1,
    generator: torch.Generator,
    block: int = 8,
    max_steps: int = 20,
    tolerance: float = 1e-4,
    starts: Float[Tensor, "k d_model"] | None = None,
) -> list[SearchResult]:
    """n mutually orthogonal steering vectors of norm `radius` that move the target activations as far as they can.

    Power iteration: theta <- radius * Gram-Schmidt(gradient), in blocks. It has no learning rate; the step of a vector
    whose objective would drop is damped, each on its own. A vector must avoid those before it, so it stops only after
    them. On a linear map it converges to the top right singular vectors.

    Args:
        objective: from `displace(z)`.
        radius: norm of every vector.
        n: how many; each is orthogonal to all before it.
        generator: source of the random starts.
        block: vectors that are iterated together.
        max_steps: iterations per block.
        tolerance: relative gain of a vector's squared objective below which it may stop. It has converged where turning
            it changes its objective by a share of at most sqrt(tolerance) / 5 a radian, to first order.
        starts: where the first k searches begin, of any norm, such as vectors of a smaller radius; random without.

    Returns:
        n results in the order found; `losses` holds the objective (it grows).

    Raises:
        ValueError: radius not positive and finite, n not in 1 to d_model, or block below 1.
    """
    width = objective.z.d_model
    require_search(radius, n, width)
    if block < 1:
        raise ValueError(f"got block={block}; expected at least 1; 8 suits a CPU")
    results: list[SearchResult] = []
    avoid = nothing_yet(objective)
    warm = avoid.basis.new_zeros(0, width) if starts is None else starts.to(avoid.basis)
    while len(results) < n:
        size = min(block, n - len(results))
        given = warm[len(results) :][:size]
        start = torch.cat([given, random_vectors(size - len(given), width, radius, generator).to(avoid.basis)])
        sphere = Feasible(avoid, radius, radius, nested=True)
        newest = _power_iteration(objective, sphere(start), sphere, max_steps, tolerance, alone=block == 1)
        results += newest
        avoid = avoid.extend(torch.stack([result.vector for result in newest]))
    return results


def _power_iteration(
    objective: Displace,
    theta: Float[Tensor, "n d_model"],
    sphere: Feasible,
    max_steps: int,
    tolerance: float,
    alone: bool,
) -> list[SearchResult]:
    """Iterate one block. A row leaves it after all rows before it, once it is stationary or cannot move.

    A vector that is searched alone leaves as soon as it gains less than the tolerance, stationary or not.
    """
    value, gradient = value_and_gradient(objective, theta)
    slope = _slope(theta, value, gradient, sphere)
    level = torch.zeros(len(theta), dtype=torch.long)
    losses = [[first] for first in value.tolist()]
    evaluations, results = 1, list[SearchResult]()
    for _ in range(max_steps):
        step = _damped_power_step(objective, theta, value, gradient, sphere, level, alone)
        evaluations += step.evaluations
        small = step.value.square() / value.square().clamp_min(1e-30) - 1 < tolerance
        theta, value, gradient, level = step.theta, step.value, step.gradient, step.level
        before, slope = slope, _slope(theta, value, gradient, sphere)
        still = negligible(25 * slope.square(), torch.ones_like(slope), tolerance)
        # near a saddle point the slope is small too, but it grows
        still &= (slope <= before) | negligible(slope.square(), torch.ones_like(slope), 0.0)
        for row, last in zip(losses[step.stuck :], value[step.stuck :].tolist(), strict=True):
            row.append(last)
        ends = small & (still | alone)
        ends[0] |= step.stuck
        if bool(ends[0] & still[0]):
            still &= _is_top(objective, theta, value, gradient, sphere)
            ends &= still | alone
            ends[0] |= step.stuck
            evaluations += 2 * PROBES
        count = int(ends.cumprod(0).sum())
        for index in range(count):
            status = Status.CONVERGED if still[index] else Status.STALLED
            results.append(_result(theta[index], value[index], gradient[index], losses[index], status, evaluations))
            sphere = replace(sphere, avoid=sphere.avoid.extend(theta[index][None]))
        theta, value, gradient = theta[count:], value[count:], gradient[count:]
        slope, level, losses = slope[count:], level[count:], losses[count:]
        if not losses:
            break
    for row, last, way, history in zip(theta, value, gradient, losses, strict=True):
        results.append(_result(row, last, way, history, Status.MAX_STEPS, evaluations))
    return results


def _result(
    theta: Tensor, value: Tensor, gradient: Tensor, losses: list[float], status: Status, evaluations: int
) -> SearchResult:
    sound = bool(torch.isfinite(value) & torch.isfinite(gradient).all())
    return SearchResult(theta.clone(), tuple(losses), status if sound else Status.NONFINITE, evaluations)


def _slope(theta: Tensor, value: Tensor, gradient: Tensor, sphere: Feasible) -> Tensor:
    """Relative change of each row's objective for every radian that the row is turned, to first order, shape (n,)."""
    slope = sphere.max_norm * sphere.tangent(theta, gradient).norm(dim=-1)
    return slope / value.abs().clamp_min(torch.finfo(value.dtype).tiny)


PROBES = 4


def _is_top(objective: Displace, theta: Tensor, value: Tensor, gradient: Tensor, sphere: Feasible) -> Tensor:
    """Whether each row is a maximum: turning it by a tenth of a radian gains nothing.

    It is turned along its tangential gradient first, then along differences of gradients. That is a power iteration
    towards the largest second derivative, which at a saddle point is positive.
    """
    way, top = sphere.tangent(theta, gradient), torch.ones_like(value, dtype=torch.bool)
    shift = torch.zeros_like(value)
    for _ in range(PROBES):
        way = torch.nn.functional.normalize(way, dim=-1)
        for side in (-0.1, 0.1):
            aside = torch.nn.functional.normalize(theta + side * sphere.max_norm * way, dim=-1) * sphere.max_norm
            gained, slope = value_and_gradient(objective, aside)
            top &= gained <= value
        change = sphere.tangent(theta, slope - gradient)
        shift = torch.maximum(shift, change.norm(dim=-1))  # so that the most negative derivative does not win
        way = change + shift[:, None] * way
    return top


class _PowerStep(NamedTuple):
    theta: Tensor
    value: Tensor
    gradient: Tensor
    level: Tensor  # which of the dampings each row took
    evaluations: int
    stuck: bool  # no damping made the first row's objective grow: it has not moved


DAMPINGS = (0.0, 0.5, 0.75, 0.9, 0.97, 0.99, 0.997, 1.0)
STAY = len(DAMPINGS) - 1
ALONE = 4  # dampings that a vector searched alone tries: more would change vectors that are already published


def _damped_power_step(
    objective: Displace,
    theta: Tensor,
    value: Tensor,
    gradient: Tensor,
    sphere: Feasible,
    level: Tensor,
    alone: bool,
) -> _PowerStep:
    """One step: every row goes towards its gradient by the first damping with which its own objective grows.

    The first row tries all dampings, the others begin two below their last. A row that gains with none of them stays,
    except that it is made orthogonal to the rows before it.
    """
    # a row without a gradient must not reach the others through Gram-Schmidt
    usable = torch.isfinite(gradient).all(-1, keepdim=True)
    toward = torch.where(usable, sphere.max_norm * torch.nn.functional.normalize(gradient, dim=-1), theta)
    level = (level - 2).clamp(0)
    level[0] = 0
    for tries in range(1, STAY + 2):
        dampings = [DAMPINGS[index] for index in level.tolist()]
        stay = torch.tensor(dampings, dtype=torch.float64).to(theta)[:, None]
        go = torch.tensor([1 - damping for damping in dampings], dtype=torch.float64).to(theta)[:, None]
        trial = sphere(stay * theta + go * toward)
        trial_value, trial_gradient = value_and_gradient(objective, trial)
        least = _value_without_step(theta, value, gradient, trial)
        fails = (~(trial_value.square() > least.square())).cpu() & (level < STAY)
        if not bool(fails.any()):
            break
        if alone and tries == ALONE:
            return _PowerStep(theta, value, gradient, level, tries, stuck=True)
        level = level + fails
        level[1:] = torch.where(fails[1:] & (tries >= ALONE), STAY, level[1:])
    if stuck := int(level[0]) == STAY:
        trial[0], trial_value[0], trial_gradient[0] = theta[0], value[0], gradient[0]
    return _PowerStep(trial, trial_value, trial_gradient, level, tries, stuck)


def _value_without_step(theta: Tensor, value: Tensor, gradient: Tensor, trial: Tensor) -> Tensor:
    """Each row's objective, to first order, if it is only made orthogonal to the new rows before it, shape (n,)."""
    if len(theta) == 1:
        return value
    unit = torch.nn.functional.normalize(trial, dim=-1)
    inside = (theta @ unit.mT).tril(-1) @ unit
    rest = theta - inside
    rest = rest * (theta.norm(dim=-1, keepdim=True) / rest.norm(dim=-1, keepdim=True).clamp_min(1e-30))
    change = ((rest - theta) * gradient).sum(-1)
    change[0] = 0
    return (value + change).clamp_min(0)

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
) -> list[SearchResult]:
    """n mutually orthogonal steering vectors of norm `radius` that move the target activations as far as they can.

    Power iteration: theta <- radius * Gram-Schmidt(gradient), in blocks. It has no learning rate; the step of a vector
    whose objective would drop is damped, whatever the others of its block do. A vector stops only after those before
    it, which it must avoid. On a linear map it converges to the top right singular vectors.

    Args:
        objective: from `displace(z)`.
        radius: norm of every vector.
        n: how many; each is orthogonal to all before it.
        generator: source of the random starts.
        block: vectors that are iterated together.
        max_steps: iterations per block.
        tolerance: relative gain of a vector's squared objective below which it may stop. It has converged where its
            objective changes by at most a fifth of sqrt(tolerance) of itself for every radian that it is turned.

    Returns:
        n results in the order found; `losses` holds the objective (it grows).

    Raises:
        ValueError: radius not positive, or n above d_model.
    """
    width = objective.z.d_model
    require_search(radius, n, width)
    if block < 1:
        raise ValueError(f"got block={block}; expected at least 1; 8 suits a CPU")
    found: list[SearchResult] = []
    avoid = nothing_yet(objective)
    while len(found) < n:
        start = random_vectors(min(block, n - len(found)), width, radius, generator).to(avoid.basis)
        sphere = Feasible(avoid, radius, radius, nested=True)
        results = _power_iteration(objective, sphere(start), sphere, max_steps, tolerance, alone=block == 1)
        found += results
        avoid = avoid.extend(torch.stack([result.vector for result in results]))
    return found


def _power_iteration(
    objective: Displace,
    theta: Float[Tensor, "n d_model"],
    sphere: Feasible,
    max_steps: int,
    tolerance: float,
    alone: bool,
) -> list[SearchResult]:
    """Rows leave the block one after the other, each once all before it have and it is stationary or cannot move.

    A vector that is searched alone leaves as soon as it gains less than the tolerance, wherever that is.
    """
    value, gradient = value_and_gradient(objective, theta)
    slope = _slope(theta, value, gradient, sphere)
    level = torch.zeros(len(theta), dtype=torch.long)
    losses = [[first] for first in value.tolist()]
    evaluations, done = 1, list[SearchResult]()
    for _ in range(max_steps):
        found = _damped_power_step(objective, theta, value, gradient, sphere, level, alone)
        evaluations += found.evaluations
        small = found.value.square() / value.square().clamp_min(1e-30) - 1 < tolerance
        theta, value, gradient, level = found.theta, found.value, found.gradient, found.level
        before, slope = slope, _slope(theta, value, gradient, sphere)
        still = negligible(25 * slope.square(), torch.ones_like(slope), tolerance)
        # on the way out of a saddle point the slope is small, too, but grows
        still &= (slope <= before) | negligible(slope.square(), torch.ones_like(slope), 0.0)
        for row, last in zip(losses[found.stuck :], value[found.stuck :].tolist(), strict=True):
            row.append(last)
        ends = small & (still | alone)
        ends[0] |= found.stuck
        if bool(ends[0] & still[0]):
            still &= _is_top(objective, theta, value, gradient, sphere)
            ends &= still | alone
            ends[0] |= found.stuck
            evaluations += 2 * PROBES
        count = int(ends.cumprod(0).sum())
        for index in range(count):
            status = Status.CONVERGED if still[index] else Status.STALLED
            done.append(_result(theta[index], value[index], gradient[index], losses[index], status, evaluations))
            sphere = replace(sphere, avoid=sphere.avoid.extend(theta[index][None]))
        theta, value, gradient = theta[count:], value[count:], gradient[count:]
        slope, level, losses = slope[count:], level[count:], losses[count:]
        if not losses:
            break
    for row, last, way, history in zip(theta, value, gradient, losses, strict=True):
        done.append(_result(row, last, way, history, Status.MAX_STEPS, evaluations))
    return done


def _result(
    theta: Tensor, value: Tensor, gradient: Tensor, losses: list[float], status: Status, evaluations: int
) -> SearchResult:
    sound = bool(torch.isfinite(value) & torch.isfinite(gradient).all())
    return SearchResult(theta.clone(), tuple(losses), status if sound else Status.NONFINITE, evaluations)


def _slope(theta: Tensor, value: Tensor, gradient: Tensor, sphere: Feasible) -> Tensor:
    """The share of itself by which each row's objective changes for every radian it is turned."""
    slope = sphere.max_norm * sphere.tangent(theta, gradient).norm(dim=-1)
    return slope / value.abs().clamp_min(torch.finfo(value.dtype).tiny)


PROBES = 4


def _is_top(objective: Displace, theta: Tensor, value: Tensor, gradient: Tensor, sphere: Feasible) -> Tensor:
    """Whether a tenth of a radian gains nothing, along the gradient's rest and along where its changes lead.

    At a saddle point it does: the differences of gradients turn the way towards the largest second derivative.
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
ALONE = 4  # of these a vector that is searched alone tries, so that vectors published earlier are found again


def _damped_power_step(
    objective: Displace,
    theta: Tensor,
    value: Tensor,
    gradient: Tensor,
    sphere: Feasible,
    level: Tensor,
    alone: bool,
) -> _PowerStep:
    """Every row as far towards its gradient as that makes its own objective larger than staying would.

    The first row tries all dampings, the others from about where they were before. One that gains nowhere stays, but
    for what rows before it now forbid.
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
        least = _if_it_stayed(theta, value, gradient, trial)
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


def _if_it_stayed(theta: Tensor, value: Tensor, gradient: Tensor, trial: Tensor) -> Tensor:
    """Each row's objective, to first order, after losing only what it has in the rows before it as they now are."""
    if len(theta) == 1:
        return value
    unit = torch.nn.functional.normalize(trial, dim=-1)
    inside = (theta @ unit.mT).tril(-1) @ unit
    rest = theta - inside
    rest = rest * (theta.norm(dim=-1, keepdim=True) / rest.norm(dim=-1, keepdim=True).clamp_min(1e-30))
    change = ((rest - theta) * gradient).sum(-1)
    change[0] = 0
    return (value + change).clamp_min(0)

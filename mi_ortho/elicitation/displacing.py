"""MELBO: the steering vectors of a given norm that change a model most.

Mack and Turner 2024, "Mechanistically eliciting latent behaviors in language models".
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.elicitation.starts import nothing_yet, random_vectors, require_search
from mi_ortho.objectives import Displace
from mi_ortho.search import Feasible, SearchResult, Status, value_and_gradient


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

    Power iteration: theta <- radius * Gram-Schmidt(gradient), in blocks. It has no learning rate; where the objective
    would drop, the step is damped. On a linear map it converges to the top right
    singular vectors.

    Args:
        objective: from `displace(z)`.
        radius: norm of every vector.
        n: how many; each is orthogonal to all before it.
        generator: source of the random starts.
        block: vectors that are iterated together.
        max_steps: iterations per block.
        tolerance: relative gain of a block's objective below which it has converged.

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
        results = _power_iteration(objective, sphere(start), sphere, max_steps, tolerance)
        found += results
        avoid = avoid.extend(torch.stack([result.vector for result in results]))
    return found


def _power_iteration(
    objective: Displace, theta: Float[Tensor, "n d_model"], sphere: Feasible, max_steps: int, tolerance: float
) -> list[SearchResult]:
    value, gradient = value_and_gradient(objective, theta)
    history, evaluations, status = [value], 1, Status.MAX_STEPS
    for _ in range(max_steps):
        found = _damped_power_step(objective, theta, value, gradient, sphere)
        evaluations += found.evaluations
        if found.theta is None:
            status = Status.CONVERGED
            break
        gain = _merit(found.value) / _merit(value).clamp_min(1e-30) - 1
        theta, value, gradient = found.theta, found.value, found.gradient
        history.append(value)
        if gain < tolerance:
            status = Status.CONVERGED
            break
    status = status if bool(torch.isfinite(value).all() and torch.isfinite(gradient).all()) else Status.NONFINITE
    rows = zip(theta, torch.stack(history).mT.tolist(), strict=True)
    return [SearchResult(row.clone(), tuple(losses), status, evaluations) for row, losses in rows]


class _PowerStep(NamedTuple):
    theta: Tensor | None  # None: no damping made the block's objective grow
    value: Tensor
    gradient: Tensor
    evaluations: int


def _merit(value: Float[Tensor, " n"]) -> Tensor:
    """What a block maximises: squares weighted k, k-1, .., 1, largest when each vector is best given those before it.

    Brockett 1991. The plain sum of norms would be larger for a mixture of the same directions, and stop the iteration.
    """
    return (value.square() * torch.arange(len(value), 0, -1, device=value.device)).sum()


def _damped_power_step(
    objective: Displace, theta: Tensor, value: Tensor, gradient: Tensor, sphere: Feasible
) -> _PowerStep:
    toward = sphere.max_norm * torch.nn.functional.normalize(gradient, dim=-1)
    for tries, damping in enumerate((0.0, 0.5, 0.75, 0.9), start=1):
        trial = sphere(damping * theta + (1 - damping) * toward)
        trial_value, trial_gradient = value_and_gradient(objective, trial)
        if _merit(trial_value) > _merit(value):
            return _PowerStep(trial, trial_value, trial_gradient, tries)
    return _PowerStep(None, value, gradient, tries)

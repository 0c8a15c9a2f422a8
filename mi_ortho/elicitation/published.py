"""The published loops of MELBO and MELBO-ortho, on the same objectives, to be compared with ours."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.elicitation.objectives import Displace, Match
from mi_ortho.elicitation.orthogonal import Progress, begin, judge
from mi_ortho.elicitation.search import Feasible, SearchResult, Status, value_and_gradient
from mi_ortho.elicitation.starts import noise, nothing_yet, random_vectors, require_search
from mi_ortho.interventions.subspace import Subspace


def melbo_published(
    objective: Displace,
    *,
    radius: float,
    n: int = 1,
    generator: torch.Generator,
    learning_rate: float = 1e-3,
    max_steps: int = 300,
) -> list[SearchResult]:
    """MELBO with the published schedule: one vector at a time, AMSGrad (betas .9, .98) on the sphere.

    Each step projects the gradient off the vectors found so far, removes its radial part, steps, projects the vector
    and restores its norm.
    """
    width = objective.z.d_model
    require_search(radius, n, width)
    results: list[SearchResult] = []
    avoid = nothing_yet(objective)
    for _ in range(n):
        start = random_vectors(1, width, radius, generator).to(avoid.basis)
        results.append(_amsgrad(objective, start, Feasible(avoid, radius, radius), learning_rate, max_steps))
        avoid = avoid.extend(results[-1].vector[None])
    return results


def _amsgrad(
    objective: Displace, start: Float[Tensor, "1 d_model"], sphere: Feasible, learning_rate: float, max_steps: int
) -> SearchResult:
    theta = sphere(start).requires_grad_()
    optimiser = torch.optim.AdamW([theta], lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0, amsgrad=True)
    losses = []
    for _ in range(max_steps):
        value, gradient = value_and_gradient(objective, theta)
        losses.append(float(value[0]))
        theta.grad = -sphere.avoid.reject(gradient)
        theta.grad -= (theta.grad * theta.detach()).sum() / theta.detach().square().sum() * theta.detach()
        optimiser.step()
        with torch.no_grad():
            theta.copy_(sphere(theta))
    with torch.no_grad():
        losses.append(float(objective(theta)[0]))
    status = Status.MAX_STEPS if math.isfinite(losses[-1]) else Status.NONFINITE
    return SearchResult(theta.detach()[0].clone(), tuple(losses), status, max_steps + 1)


def melbo_ortho_published(
    goal: Match,
    base: Float[Tensor, " d_model"],
    *,
    seed: int,
    learning_rate: float = 0.01,
    max_steps: int = 1000,
    patience: int = 8,
    resume: Progress | None = None,
) -> Iterator[SearchResult]:
    """The published MELBO-ortho loop, on the same goal: Adam on the raw gradient, projection after each step.

    Its fixed point is not the constrained optimum (Adam rescales each coordinate of a gradient that is mostly
    forbidden), so losses are higher than `melbo_ortho`'s on the same problem. The start is small noise: at the base
    itself the loss has no gradient.

    As published every vector avoids all before it, collapsed ones too; `resume.kept` has to hold those as well, in the
    order of the searches. The published loop was stopped by hand; this one ends after `patience` collapsed searches in
    a row.
    """
    if patience < 1:
        raise ValueError(f"got patience={patience}; expected a positive number; leave it out for the default")
    avoid, nothing = begin(goal, base, resume := resume or Progress(base.new_zeros(0, len(base))))
    attempts, collapsed, norm = resume.attempts, resume.collapsed, float(base.norm())
    while len(avoid) < len(base) and collapsed < patience:
        start = avoid.reject(noise(1, base, 0.02 * norm, seed, attempts))
        attempts += 1
        result = judge(goal, _adam(goal, start, avoid, learning_rate, max_steps), nothing, norm)
        collapsed = collapsed + 1 if result.status in (Status.COLLAPSED, Status.NONFINITE) else 0
        if avoidable(result):
            avoid = avoid.extend(result.vector[None])
        yield result


def avoidable(result: SearchResult) -> bool:
    """Whether the published loop makes later vectors orthogonal to this one: it is a direction at all."""
    return bool(torch.isfinite(result.vector).all() and result.vector.any())


def _adam(goal: Match, start: Tensor, avoid: Subspace, learning_rate: float, max_steps: int) -> SearchResult:
    theta = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([theta], lr=learning_rate)
    losses = []
    for _ in range(max_steps):
        value, theta.grad = value_and_gradient(goal, theta)
        losses.append(float(value[0]))
        optimiser.step()
        with torch.no_grad():
            theta.copy_(avoid.reject(theta))
    return SearchResult(theta.detach()[0].clone(), (*losses, losses[-1]), Status.MAX_STEPS, max_steps)

"""The shortest vector with a given effect."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.elicitation.orthogonal import Goal
from mi_ortho.elicitation.search import Feasible, Lbfgs, Precondition, SearchResult, Status, minimise
from mi_ortho.interventions.subspace import Subspace


def shrink(
    goal: Goal,
    vector: Float[Tensor, " d_model"],
    avoid: Subspace,
    *,
    keep: float = 0.95,
    settings: Lbfgs | None = None,
    precondition: Precondition | None = None,
) -> SearchResult:
    """A shorter vector with the same effect: what a norm should be quoted from.

    An optimiser lets insensitive coordinates wander, so the norm it ends with is an upper bound. This lowers a norm cap
    by a tenth at a time, re-optimising inside it, as long as the vector keeps the share `keep` of its effect
    goal(0) - goal(vector), and then closes in on the last cap that keeps it to 1 %.

    Returns:
        The shortest vector that still keeps the effect (`vector` itself if none is shorter). Its status is that of the
        search inside the largest cap that lost it: CONVERGED only if no vector as short as that keeps the effect.
    """
    with torch.no_grad():
        nothing, start = (float(goal(v[None])[0]) for v in (torch.zeros_like(vector), vector))
    limit = nothing - keep * (nothing - start)
    settings = settings or Lbfgs(max_steps=6, scale=float(vector.norm()))
    best, evaluations = SearchResult(vector, (start,), Status.MAX_STEPS, 0), 0
    top = float(vector.norm())
    kept, lost, status = 1.0, 0.0, Status.MAX_STEPS  # caps, as multiples of the norm of `vector`
    for _ in range(28):
        cap = max(0.9 * kept, (kept * lost) ** 0.5)
        trial = minimise(goal.smooth, best.vector[None], Feasible(avoid, max_norm=cap * top), settings, precondition)[0]
        evaluations += trial.evaluations
        with torch.no_grad():
            loss = float(goal(trial.vector[None])[0])
        if loss <= limit:
            best, kept = replace(trial, losses=(loss,)), min(cap, float(trial.vector.norm()) / top)
        else:
            lost, status = cap, trial.status
        if kept < 1.01 * lost:
            break
    return replace(best, status=status, evaluations=evaluations)

"""MELBO-ortho: steering vectors orthogonal to a base vector and to each other that do what the base does.

Goldman-Wetzler and Turner 2024, "I found >800 orthogonal 'write code' steering vectors".
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.elicitation.objectives import Match, MatchDistribution, Penalised, check_width
from mi_ortho.elicitation.search import Feasible, Lbfgs, Precondition, SearchResult, Status, minimise
from mi_ortho.elicitation.starts import noise
from mi_ortho.interventions.subspace import Subspace, empty_subspace

Goal = Match | MatchDistribution | Penalised


@dataclass(frozen=True)
class OrthoSettings:
    """How an orthogonal family is searched for.

    Attributes:
        max_norm: cap on every vector's norm; without one, the count of vectors is not well defined.
        min_norm: equal to max_norm for a fixed norm.
        restarts: random starts per vector, of which the best is kept.
        block: vectors searched as one pipelined block (for accelerators; 1 is best on a CPU).
        patience: stop after this many collapsed searches in a row.
        damping: ridge of the preconditioner, relative to the largest eigenvalue of the curvature.
        refresh: vectors between rebuilds of the preconditioner.
        solver: limits of each search.
    """

    max_norm: float = float("inf")
    min_norm: float = 0.0
    restarts: int = 1
    block: int = 1
    patience: int = 8
    damping: float = 1e-2
    refresh: int = 8
    solver: Lbfgs = Lbfgs()

    def __post_init__(self):
        if self.restarts < 1 or self.block < 1 or min(self.restarts, self.block) > 1:
            raise ValueError(
                f"got restarts={self.restarts}, block={self.block}; expected both at least 1 and one of them 1; "
                "use restarts for quality on a CPU, block for throughput on a GPU"
            )
        for name in ("patience", "refresh", "damping"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"got {name}={getattr(self, name)}; expected a positive number; leave it out for the default"
                )
        Feasible(empty_subspace(1), self.min_norm, self.max_norm)  # refuses norms that cannot be met


@dataclass(frozen=True, eq=False)
class Progress:
    """Where an interrupted family stands, so that it continues exactly as if it had not been interrupted.

    Attributes:
        kept: the vectors that later ones avoid, in order, shape (k, d_model): those found so far without the collapsed
            ones (with them for `melbo_ortho_published`).
        attempts: searches made, collapsed ones included (whole blocks only).
        collapsed: how many of the last searches collapsed in a row.
    """

    kept: Float[Tensor, "k d_model"]
    attempts: int = 0
    collapsed: int = 0


def melbo_ortho(
    goal: Goal,
    base: Float[Tensor, " d_model"],
    *,
    seed: int,
    settings: OrthoSettings | None = None,
    curvature: Float[Tensor, "d_model d_model"] | None = None,
    resume: Progress | None = None,
) -> Iterator[SearchResult]:
    """Steering vectors orthogonal to `base` and to each other that do what `base` does, one after the other.

    Vector k minimises the goal over the complement of everything before it, from random noise of the base's norm.
    A search whose vector has no effect is yielded as COLLAPSED, is not added to what later ones must avoid, and the
    next search starts elsewhere; after `settings.patience` of them in a row the family has ended.

    Args:
        goal: `match(z, base)` for the published activation loss, `match_distribution(z, base)` for behaviour.
        base: the vector whose effect is repeated.
        seed: with the attempt's number it fixes every start, so that a resumed family equals an uninterrupted one.
        settings: limits; unlimited norms by default, as published.
        curvature: `gauss_newton(goal, base)`, which makes each search several times shorter.
        resume: continue after the vectors an interrupted call with the same arguments already gave.

    Yields:
        One `SearchResult` for every search. Its `loss` is the goal's own (relative loss or nats); `losses` before
        the last are those of what was minimised, `goal.smooth`.
    """
    avoid, nothing = begin(goal, base, resume := resume or Progress(base.new_zeros(0, len(base))))
    settings = settings or OrthoSettings()
    settings = replace(settings, solver=replace(settings.solver, scale=float(base.norm())))
    preconditioner = None if curvature is None else _Preconditioner(curvature, settings)
    attempts, collapsed = resume.attempts, resume.collapsed
    while len(avoid) < len(base) and collapsed < settings.patience:
        precondition = preconditioner and preconditioner.outside(avoid)
        results = _search(goal, base, avoid, settings, precondition, seed, attempts)
        attempts += len(results)
        for result in results:
            outcome = judge(goal, result, nothing, float(base.norm()))
            if outcome.status in (Status.COLLAPSED, Status.NONFINITE):
                collapsed += 1
            else:
                collapsed, avoid = 0, avoid.extend(outcome.vector[None])
            yield outcome


def together(settings: OrthoSettings, free: int) -> int:
    """How many results `melbo_ortho` yields after one search, with `free` directions still allowed."""
    if settings.block == 1:
        return 1
    return max(settings.restarts, min(settings.block, free))


def begin(goal: Goal, base: Float[Tensor, " d_model"], resume: Progress) -> tuple[Subspace, float]:
    """What the next vector must avoid, and the goal's loss without any vector."""
    check_width(goal.z, base)
    if not 0 < float(base.norm()) < float("inf"):
        raise ValueError(f"got a base vector of norm {float(base.norm()):g}; expected a positive, finite one")
    with torch.no_grad():
        nothing = float(goal(torch.zeros_like(base)[None])[0])
    return Subspace(base[None] / base.norm()).extend(resume.kept), nothing


def _search(
    goal: Goal,
    base: Tensor,
    avoid: Subspace,
    settings: OrthoSettings,
    precondition: Precondition | None,
    seed: int,
    attempt: int,
) -> list[SearchResult]:
    """One block of vectors, or the best of several restarts of one vector."""
    rows = max(settings.restarts, together(settings, len(base) - len(avoid)))
    start = noise(rows, base, float(base.norm()), seed, attempt)
    feasible = Feasible(avoid, settings.min_norm, settings.max_norm, nested=settings.block > 1)
    results = minimise(goal.smooth, start, feasible, settings.solver, precondition)
    if settings.block > 1:
        return results
    best = min(results, key=lambda result: result.loss if result.status is not Status.NONFINITE else float("inf"))
    return [replace(best, evaluations=sum(result.evaluations for result in results))]


def judge(goal: Goal, result: SearchResult, nothing: float, norm: float) -> SearchResult:
    """Report the goal's own loss, and call a vector collapsed when it has no effect."""
    with torch.no_grad():
        loss = float(goal(result.vector[None])[0])
    losses = (*result.losses[:-1], loss)
    if result.status is Status.NONFINITE or loss != loss:
        return replace(result, losses=losses, status=Status.NONFINITE)
    vanished = float(result.vector.norm()) < 1e-2 * norm or loss > 0.99 * nothing
    return replace(result, losses=losses, status=Status.COLLAPSED if vanished else result.status)


class _Preconditioner:
    """(P G P + ridge)^-1 with P the projector off the basis as it stood at the last multiple of `refresh` vectors.

    An inverse costs d_model^3, so each is kept until the next multiple.
    """

    def __init__(self, curvature: Float[Tensor, "d_model d_model"], settings: OrthoSettings):
        largest = torch.linalg.eigvalsh(curvature)[-1]
        self.curvature, self.refresh = curvature, settings.refresh
        self.ridge = settings.damping * float(largest.clamp_min(torch.finfo(curvature.dtype).tiny))
        self.size, self.inverse = 0, curvature

    def outside(self, avoid: Subspace) -> Precondition:
        size = 1 + (len(avoid) - 1) // self.refresh * self.refresh
        if size != self.size:
            basis = Subspace(avoid.basis[:size], checked=size)
            self.size, self.inverse = size, complement_inverse(self.curvature, basis, self.ridge)
        inverse = self.inverse
        return lambda gradient: gradient @ inverse


def complement_inverse(
    curvature: Float[Tensor, "d_model d_model"], avoid: Subspace, ridge: float
) -> Float[Tensor, "d_model d_model"]:
    """(P G P + ridge)^-1 for a curvature matrix G and the projector P off a subspace."""
    inside = avoid.reject(avoid.reject(curvature).mT)
    identity = torch.eye(len(curvature), dtype=curvature.dtype, device=curvature.device)
    return torch.cholesky_inverse(torch.linalg.cholesky((inside + inside.mT) / 2 + ridge * identity))

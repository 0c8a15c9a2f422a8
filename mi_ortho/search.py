"""Constrained minimisation over steering vectors: every iterate is feasible, every step uses the projected gradient.

Feeding the unprojected gradient to a per-coordinate optimiser and projecting afterwards converges somewhere else
(its fixed point solves P D g = 0, not P g = 0); `melbo_ortho_published` keeps that loop for comparison.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_ortho.objectives import Objective
from mi_ortho.subspace import Subspace, orthonormal_rows


class Status(Enum):
    """How a search ended; the value says what to do about it."""

    CONVERGED = "the loss stopped improving"
    MAX_STEPS = "the step limit came first: raise max_steps, or accept the loss as reported"
    COLLAPSED = "no feasible vector has an effect: recorded, not counted; the family has ended or needs another start"
    NONFINITE = "the loss became NaN or infinite: lower the radius, or use float32 blocks"


@dataclass(frozen=True, eq=False)
class SearchResult:
    """One vector that a search found.

    Attributes:
        vector: shape (d_model,).
        losses: the objective after each accepted step, first the start's.
        status: how the search ended.
        evaluations: forward plus backward passes spent on this vector.
    """

    vector: Float[Tensor, " d_model"]
    losses: tuple[float, ...]
    status: Status
    evaluations: int

    @property
    def loss(self) -> float:
        """The last accepted loss."""
        return self.losses[-1]


@dataclass(frozen=True, eq=False)
class Feasible:
    """The set of allowed steering vectors: orthogonal to `avoid`, with min_norm <= |theta| <= max_norm.

    With `nested`, row j of a block must also be orthogonal to rows 0..j-1 of the same block. Calling it projects, and
    projecting twice changes nothing.

    >>> ball = Feasible(Subspace(torch.tensor([[1.0, 0.0]])), max_norm=2.0)
    >>> ball(torch.tensor([[5.0, 8.0]])).tolist()
    [[0.0, 2.0]]
    """

    avoid: Subspace
    min_norm: float = 0.0
    max_norm: float = float("inf")
    nested: bool = False

    def __post_init__(self):
        if not 0 <= self.min_norm <= self.max_norm:
            raise ValueError(
                f"got norms from {self.min_norm} to {self.max_norm}; expected 0 <= min_norm <= max_norm; "
                "for a sphere give the same number twice"
            )

    def __call__(self, theta: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
        """The allowed vector nearest to each row (nearest in order, row by row, when nested)."""
        inside = self.avoid.reject(theta)
        if self.nested and len(inside) > 1:
            unit = self.avoid.reject(orthonormal_rows(inside))
            inside = unit * (inside * unit).sum(-1, keepdim=True)
        norm = inside.norm(dim=-1, keepdim=True)
        return inside * (norm.clamp(self.min_norm, self.max_norm) / norm.clamp_min(torch.finfo(norm.dtype).tiny))

    def tangent(self, at: Float[Tensor, "n d_model"], step: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
        """The part of `step` (a direction of descent) that stays allowed to first order at `at`."""
        step = self.avoid.reject(step)
        if self.nested and len(at) > 1:
            unit = orthonormal_rows(at)
            step = step - (step @ unit.mT).tril(-1) @ unit
        norm = at.norm(dim=-1, keepdim=True)
        unit = at / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        radial = (step * unit).sum(-1, keepdim=True)
        outward = (norm >= self.max_norm * (1 - 1e-6)) & (radial > 0)
        inward = (norm <= self.min_norm * (1 + 1e-6)) & (radial < 0)
        return torch.where(outward | inward, step - radial * unit, step)


Precondition = Callable[[Float[Tensor, "n d_model"]], Float[Tensor, "n d_model"]]


@dataclass(frozen=True)
class Lbfgs:
    """Settings of `minimise`.

    Attributes:
        max_steps: accepted steps at most.
        tolerance: relative change of the loss below which, twice in a row, the search has converged.
        history: curvature pairs kept.
        max_step: longest step, as a multiple of `scale`.
        scale: a typical norm of the answer, in activation units.
    """

    max_steps: int = 30
    tolerance: float = 1e-3
    history: int = 12
    max_step: float = 1.5
    scale: float = 1.0


def minimise(
    objective: Objective,
    init: Float[Tensor, "n d_model"],
    feasible: Feasible,
    settings: Lbfgs,
    precondition: Precondition | None = None,
) -> list[SearchResult]:
    """Minimise `objective` over `feasible` from each row of `init` by projected, preconditioned L-BFGS.

    Rows are independent problems that share their function evaluations (with `feasible.nested` they share one
    constraint and are solved as a pipelined block).

    Args:
        objective: maps (n, d_model) to n losses; should be smooth.
        init: starting points, projected first.
        feasible: where the answers must lie.
        settings: limits and tolerances.
        precondition: an approximate inverse Hessian, applied between projections.

    Returns:
        One result a row. Not converging is a status, never an exception.
    """
    state = _State.start(objective, feasible(init), feasible)
    for _ in range(settings.max_steps):
        if bool(state.done.all()):
            break
        state.step(objective, feasible, settings, precondition)
    return state.results()


def value_and_gradient(
    objective: Objective, theta: Float[Tensor, "n d_model"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n d_model"]]:
    """Losses and their gradients for every row, detached."""
    theta = theta.detach().requires_grad_()
    with torch.enable_grad():
        loss = objective(theta)
        (gradient,) = torch.autograd.grad(loss.sum(), theta)
    return loss.detach(), gradient


@dataclass(eq=False)
class _State:
    """The one mutable thing of the module: where a running search stands. Never leaves it."""

    theta: Tensor
    loss: Tensor
    gradient: Tensor
    pairs: list[tuple[Tensor, Tensor, Tensor]]
    quiet: Tensor
    done: Tensor
    losses: list[list[float]]
    evaluations: Tensor

    @classmethod
    def start(cls, objective: Objective, theta: Tensor, feasible: Feasible) -> "_State":
        loss, gradient = value_and_gradient(objective, theta)
        n = len(theta)
        return cls(
            theta=theta,
            loss=loss,
            gradient=gradient,
            pairs=[],
            quiet=torch.zeros(n, dtype=torch.long, device=theta.device),
            done=~(torch.isfinite(loss) & torch.isfinite(gradient).all(-1)),
            losses=[[float(value)] for value in loss],
            evaluations=torch.ones(n, dtype=torch.long, device=theta.device),
        )

    def step(self, objective: Objective, feasible: Feasible, settings: Lbfgs, precondition: Precondition | None):
        projected = -feasible.tangent(self.theta, -self.gradient)
        direction = self.direction(projected, feasible, settings, precondition)
        theta, loss, gradient, moved = self.search_line(objective, feasible, direction)
        change = theta - self.theta
        curvature = -feasible.tangent(theta, -gradient) - projected
        self.remember(change, curvature, moved, settings.history)
        small = (self.loss - loss).abs() <= settings.tolerance * self.loss.abs()
        self.quiet = torch.where(small, self.quiet + 1, torch.zeros_like(self.quiet))
        self.theta, self.loss, self.gradient = theta, loss, gradient
        for row in (~self.done).nonzero().flatten().tolist():
            self.losses[row].append(float(loss[row]))
        self.done = self.done | (self.quiet >= 2) | (~moved)

    def direction(
        self, projected: Tensor, feasible: Feasible, settings: Lbfgs, precondition: Precondition | None
    ) -> Tensor:
        step = feasible.tangent(self.theta, -two_loop(projected, self.pairs, precondition))
        downhill = (step * projected).sum(-1, keepdim=True) < 0
        longest = settings.max_step * settings.scale
        steepest = -projected * (0.1 * longest / projected.norm(dim=-1, keepdim=True).clamp_min(1e-30))
        known = bool(self.pairs) or precondition is not None
        step = torch.where(downhill, step, steepest) if known else steepest
        return step * (longest / step.norm(dim=-1, keepdim=True).clamp_min(1e-30)).clamp_max(1)

    def search_line(
        self, objective: Objective, feasible: Feasible, direction: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Bool[Tensor, " n"]]:
        """Backtracking by quadratic interpolation until each row meets the Armijo condition (at most 6 halvings)."""
        slope = (direction * self.gradient).sum(-1)
        size = torch.ones_like(self.loss)
        theta, loss, gradient = self.theta, self.loss, self.gradient
        pending = ~self.done
        for _ in range(7):
            rows = slice(None) if feasible.nested else pending
            trial = feasible(torch.where(pending[:, None], self.theta + size[:, None] * direction, theta))
            trial_loss, trial_gradient = loss.clone(), gradient.clone()
            trial_loss[rows], trial_gradient[rows] = value_and_gradient(objective, trial[rows])
            self.evaluations[pending] += 1
            sound = torch.isfinite(trial_loss) & torch.isfinite(trial_gradient).all(-1)
            # rows of a block move while earlier rows do, so a row may rise by 2 % before it has to wait
            slack = 0.02 * self.loss.abs() if feasible.nested else 0.0
            good = pending & sound & (trial_loss <= self.loss + 1e-4 * size * slope + slack)
            theta = torch.where(good[:, None], trial, theta)
            loss, gradient = torch.where(good, trial_loss, loss), torch.where(good[:, None], trial_gradient, gradient)
            pending = pending & ~good
            if not bool(pending.any()):
                break
            model = -slope * size**2 / (2 * (trial_loss - self.loss - slope * size)).clamp_min(1e-30)
            size = torch.where(sound, torch.minimum(torch.maximum(model, 0.1 * size), 0.5 * size), 0.1 * size)
        return theta, loss, gradient, ~pending & ~self.done

    def remember(self, change: Tensor, curvature: Tensor, moved: Tensor, history: int):
        product = (change * curvature).sum(-1)
        keep = moved & (product > 1e-8 * change.norm(dim=-1) * curvature.norm(dim=-1))
        inverse = torch.where(keep, 1 / product.clamp_min(1e-38), torch.zeros_like(product))
        if bool(keep.any()):
            self.pairs = [*self.pairs, (change, curvature, inverse)][-history:]

    def results(self) -> list[SearchResult]:
        sound = torch.isfinite(self.loss) & torch.isfinite(self.theta).all(-1)
        status = [
            Status.NONFINITE if not ok else Status.CONVERGED if done else Status.MAX_STEPS
            for ok, done in zip(sound.tolist(), self.done.tolist(), strict=True)
        ]
        rows = zip(self.theta.detach(), self.losses, status, self.evaluations.tolist(), strict=True)
        return [SearchResult(theta.clone(), tuple(losses), end, count) for theta, losses, end, count in rows]


def two_loop(
    gradient: Float[Tensor, "n d_model"],
    pairs: list[tuple[Tensor, Tensor, Tensor]],
    precondition: Precondition | None,
) -> Float[Tensor, "n d_model"]:
    """The L-BFGS inverse-Hessian product (Nocedal 1980), each row with its own curvature pairs.

    Args:
        gradient: what to multiply.
        pairs: (change of theta, change of gradient, 1 / their product); a product of 0 marks a pair a row rejected.
        precondition: the initial inverse Hessian; the usual scaled identity without one.
    """
    q = gradient
    weights: list[Tensor] = []
    for change, curvature, inverse in reversed(pairs):
        weight = inverse * (change * q).sum(-1)
        weights.append(weight)
        q = q - weight[:, None] * curvature
    if precondition is not None:
        q = precondition(q)
    elif pairs:
        change, curvature, inverse = pairs[-1]
        scale = (change * curvature).sum(-1) / curvature.square().sum(-1).clamp_min(1e-38)
        q = torch.where((inverse > 0)[:, None], scale[:, None] * q, q)
    for (change, curvature, inverse), weight in zip(pairs, reversed(weights), strict=True):
        q = q + (weight - inverse * (curvature * q).sum(-1))[:, None] * change
    return q

"""Constrained minimisation over steering vectors: every iterate is feasible, every step uses the projected gradient.

Feeding the unprojected gradient to a per-coordinate optimiser and projecting afterwards converges somewhere else
(its fixed point solves P D g = 0, not P g = 0); `melbo_ortho_published` keeps that loop for comparison.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.elicitation.objectives import Objective
from mi_ortho.interventions.subspace import Subspace, orthonormal_rows, reject_twice


class Status(Enum):
    """How a search ended; the value says what to do about it."""

    CONVERGED = "stationary: the gradient has no part left along which the vector may move"
    STALLED = "steps no longer help although the gradient has not vanished: lower the tolerance, or accept the loss"
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
        inside = reject_twice(self.avoid.basis, theta)
        if self.nested and len(inside) > 1:
            unit = reject_twice(self.avoid.basis, orthonormal_rows(inside))
            inside = unit * (inside * unit).sum(-1, keepdim=True)
        norm = inside.norm(dim=-1, keepdim=True)
        return inside * (norm.clamp(self.min_norm, self.max_norm) / norm.clamp_min(1e-30))  # 0 stays 0

    def tangent(self, at: Float[Tensor, "n d_model"], step: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
        """The part of `step` (a direction of descent) that stays allowed to first order at `at`."""
        step = reject_twice(self.avoid.basis, step)
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
    state = _State.start(objective, feasible(init), feasible.nested)
    for _ in range(settings.max_steps):
        if bool(state.done().all()):
            break
        state.step(objective, feasible, settings, precondition)
    return state.results()


def value_and_gradient(objective: Objective, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Losses (n) and their gradients (n, d_model) for every row of theta, detached."""
    theta = theta.detach().requires_grad_()
    with torch.enable_grad():
        loss = objective(theta)
        (gradient,) = torch.autograd.grad(loss.sum(), theta)
    return loss.detach(), gradient


def negligible(gain: Float[Tensor, " n"], value: Float[Tensor, " n"], tolerance: float) -> Tensor:
    """Whether a predicted gain is too small a share of a value to count: below the tolerance, or lost in rounding.

    >>> negligible(torch.tensor([1e-5, 1e-2]), torch.tensor([1.0, 1.0]), 1e-3).tolist()
    [True, False]
    """
    return gain <= max(tolerance, 128 * torch.finfo(value.dtype).eps) * value.abs()


@dataclass(eq=False)
class _State:
    """The one mutable thing of the module: where a running search stands. Never leaves it."""

    nested: bool
    theta: Tensor
    loss: Tensor
    gradient: Tensor
    broken: Tensor  # rows whose start was already NaN: they never move
    quiet: Tensor  # steps in a row that changed the loss by less than the tolerance
    failed: Tensor  # line searches in a row without an acceptable point
    evaluations: Tensor
    losses: list[list[float]]
    converged: Tensor  # rows that stopped where the quasi-Newton model of the loss promises nothing more
    settled: Tensor  # rows of a block that have stopped once since the rows before them do not move
    pairs: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    @classmethod
    def start(cls, objective: Objective, theta: Tensor, nested: bool) -> "_State":
        loss, gradient = value_and_gradient(objective, theta)
        none = torch.zeros(len(theta), dtype=torch.long, device=theta.device)
        broken = ~(torch.isfinite(loss) & torch.isfinite(gradient).all(-1))
        losses = [[value] for value in loss.tolist()]
        return cls(
            nested, theta, loss, gradient, broken, none, none.clone(), none + 1, losses, broken & False, broken & False
        )

    def done(self) -> Tensor:
        """Rows that no longer move: in a block only once all rows before them, which they must avoid, are done."""
        still = self.broken | (self.quiet >= 2) | (self.failed >= 2)
        return self.broken | (still.cumprod(0) > 0) if self.nested else still

    def step(self, objective: Objective, feasible: Feasible, settings: Lbfgs, precondition: Precondition | None):
        active = ~self.done()
        projected = -feasible.tangent(self.theta, -self.gradient)
        direction = self.direction(projected, feasible, settings, precondition)
        theta, loss, gradient, moved = self.search_line(objective, feasible, direction, active)
        curvature = -feasible.tangent(theta, -gradient) - projected
        self.remember(theta - self.theta, curvature, moved, settings.history)
        small = (self.loss - loss).abs() <= settings.tolerance * self.loss.abs()
        self.quiet = torch.where(small & moved, self.quiet + 1, torch.where(moved, 0, self.quiet))
        self.failed = torch.where(moved, 0, self.failed + 1)
        self.theta, self.loss, self.gradient = theta, loss, gradient
        for row in active.nonzero().flatten().tolist():
            self.losses[row].append(float(loss[row]))
        self.end(active, feasible, settings, precondition)

    def end(self, active: Tensor, feasible: Feasible, settings: Lbfgs, precondition: Precondition | None):
        """Decide which of the rows that have just stopped are stationary.

        A row of a block learnt its curvature while the rows before it still moved. So it goes on at least once with
        curvature learnt afresh, and until it is stationary.
        """
        ending = active & self.done()
        if not bool(ending.any()):
            return
        start = torch.tensor([losses[0] for losses in self.losses]).to(self.loss)
        gain = self.promise(feasible, settings, precondition)
        # times 10: the model promises too little where the loss is not quadratic. A loss that falls to 0 has no scale
        # of its own, so its gain is also compared with the loss at the start
        small = negligible(10 * gain, self.loss, settings.tolerance) | (
            gain <= torch.finfo(gain.dtype).eps * start.abs()
        )
        self.converged = torch.where(ending, small, self.converged)
        if self.nested:
            again = ending & ~(small & self.settled)
            self.quiet, self.failed = (torch.where(again, 0, count) for count in (self.quiet, self.failed))
            self.pairs = [(change, curve, torch.where(again, 0, inverse)) for change, curve, inverse in self.pairs]
            self.settled = self.settled | ending

    def promise(self, feasible: Feasible, settings: Lbfgs, precondition: Precondition | None) -> Tensor:
        """By how much the quasi-Newton model says the loss can still fall; without a model, a bound to first order."""
        projected = -feasible.tangent(self.theta, -self.gradient)
        first_order = projected.norm(dim=-1) * settings.max_step * settings.scale
        step = feasible.tangent(self.theta, -two_loop(projected, self.pairs, precondition))
        model = -(step * projected).sum(-1) / 2
        modelled = torch.full_like(self.broken, precondition is not None)
        for _, _, inverse in self.pairs:
            modelled = modelled | (inverse > 0)
        return torch.where(modelled & (model >= 0), model, first_order)

    def direction(
        self, projected: Tensor, feasible: Feasible, settings: Lbfgs, precondition: Precondition | None
    ) -> Tensor:
        """The quasi-Newton step, or steepest descent where that is not downhill or has just failed."""
        longest = settings.max_step * settings.scale
        steepest = -projected * (0.1 * longest / projected.norm(dim=-1, keepdim=True).clamp_min(1e-30))
        if not self.pairs and precondition is None:
            return steepest.nan_to_num()
        step = feasible.tangent(self.theta, -two_loop(projected, self.pairs, precondition))
        usable = ((step * projected).sum(-1) < 0) & (self.failed == 0)
        step = torch.where(usable[:, None], step, steepest)
        return (step * (longest / step.norm(dim=-1, keepdim=True).clamp_min(1e-30)).clamp_max(1)).nan_to_num()

    def search_line(
        self, objective: Objective, feasible: Feasible, direction: Tensor, active: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Backtracking by quadratic interpolation until each row meets the Armijo condition (at most 6 times)."""
        size = torch.ones_like(self.loss)
        theta, loss, gradient = self.theta, self.loss, self.gradient
        pending = active
        settled = True
        for _ in range(7):
            trial = feasible(torch.where(pending[:, None], self.theta + size[:, None] * direction, theta))
            trial_loss, trial_gradient = self.evaluate(objective, trial, pending | self.nested)
            sound = torch.isfinite(trial_loss) & torch.isfinite(trial_gradient).all(-1)
            # Armijo's condition needs the slope along the path taken, which the projection may have bent
            slope = ((trial - self.theta) * self.gradient).sum(-1).clamp_max(0)
            # rows of a block move while earlier rows do, so a row may rise by 2 % before it has to wait
            slack = 0.02 * self.loss.abs() if self.nested else 0.0
            good = pending & sound & (trial_loss <= self.loss + 1e-4 * slope + slack)
            theta, loss = torch.where(good[:, None], trial, theta), torch.where(good, trial_loss, loss)
            gradient = torch.where(good[:, None], trial_gradient, gradient)
            pending = pending & ~good
            if not bool(pending.any()):
                break
            settled = not self.nested
            model = -slope * size / (2 * (trial_loss - self.loss - slope)).clamp_min(1e-30)
            size = torch.where(sound, torch.minimum(torch.maximum(model, 0.1 * size), 0.5 * size), 0.1 * size)
        if not settled:
            theta = feasible(theta)  # rows stopped at different tries, and what each must avoid has moved since
            loss, gradient = self.evaluate(objective, theta, torch.ones_like(pending))
        return theta, loss, gradient, active & ~pending

    def evaluate(self, objective: Objective, theta: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Losses and gradients of the chosen rows; the others keep theirs."""
        loss, gradient = self.loss.clone(), self.gradient.clone()
        loss[rows], gradient[rows] = value_and_gradient(objective, theta[rows])
        self.evaluations[rows] += 1
        return loss, gradient

    def remember(self, change: Tensor, curvature: Tensor, moved: Tensor, history: int):
        """Keep the curvature pairs of rows that moved along positive curvature."""
        product = (change * curvature).sum(-1)
        keep = moved & (product > 1e-8 * change.norm(dim=-1) * curvature.norm(dim=-1))
        inverse = torch.where(keep, 1 / product.clamp_min(1e-38), torch.zeros_like(product))
        if bool(keep.any()):
            self.pairs = [*self.pairs, (change, curvature, inverse)][-history:]

    def results(self) -> list[SearchResult]:
        sound = ~self.broken & torch.isfinite(self.loss) & torch.isfinite(self.theta).all(-1)
        ends = torch.where(self.done(), torch.where(self.converged, 0, 1), 2)
        ends = torch.where(sound, ends, 3).tolist()
        status = [(Status.CONVERGED, Status.STALLED, Status.MAX_STEPS, Status.NONFINITE)[end] for end in ends]
        rows = zip(self.theta.detach(), self.losses, status, self.evaluations.tolist(), strict=True)
        return [SearchResult(theta.clone(), tuple(losses), end, count) for theta, losses, end, count in rows]


def two_loop(gradient: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]], precondition: Precondition | None) -> Tensor:
    """The L-BFGS inverse-Hessian product (Nocedal 1980), each row with its own curvature pairs.

    Args:
        gradient: what to multiply, shape (n, d_model).
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
        scale = torch.ones_like(pairs[0][2])
        for change, curvature, inverse in pairs:  # each row by the newest pair it did not reject
            newer = (change * curvature).sum(-1) / curvature.square().sum(-1).clamp_min(1e-38)
            scale = torch.where(inverse > 0, newer, scale)
        q = scale[:, None] * q
    for (change, curvature, inverse), weight in zip(pairs, reversed(weights), strict=True):
        q = q + (weight - inverse * (curvature * q).sum(-1))[:, None] * change
    return q

"""MELBO and MELBO-ortho: steering vectors that change a model most, and orthogonal ones that repeat such a change.

MELBO: Mack and Turner 2024, "Mechanistically eliciting latent behaviors in language models".
MELBO-ortho: Goldman-Wetzler and Turner 2024, "I found >800 orthogonal 'write code' steering vectors".
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.objectives import ActivationMap, Displace, Match, MatchDistribution, Penalised, check_width, unsteered
from mi_ortho.search import Feasible, Lbfgs, Precondition, SearchResult, Status, minimise, value_and_gradient
from mi_ortho.subspace import Subspace, empty_subspace


def random_vectors(n: int, d_model: int, norm: float, generator: torch.Generator) -> Float[Tensor, "n d_model"]:
    """n isotropic random vectors of one norm, on the generator's device."""
    directions = torch.randn(n, d_model, generator=generator, device=generator.device)
    return norm * directions / directions.norm(dim=-1, keepdim=True)


def _check(radius: float, n: int, d_model: int):
    if not 0 < radius < float("inf"):
        raise ValueError(f"got radius {radius}; expected a positive, finite norm; try about the residual stream's norm")
    if not 1 <= n <= d_model:
        raise ValueError(f"got n={n}; expected 1 to d_model={d_model}: no more vectors can be mutually orthogonal")


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
    _check(radius, n, width)
    if block < 1:
        raise ValueError(f"got block={block}; expected at least 1; 8 suits a CPU")
    found: list[SearchResult] = []
    avoid = _nothing_yet(objective)
    while len(found) < n:
        start = random_vectors(min(block, n - len(found)), width, radius, generator).to(avoid.basis)
        sphere = Feasible(avoid, radius, radius, nested=True)
        results = _power_iteration(objective, sphere(start), sphere, max_steps, tolerance)
        found += results
        avoid = avoid.extend(torch.stack([result.vector for result in results]))
    return found


def _nothing_yet(objective: Displace) -> Subspace:
    return empty_subspace(objective.z.d_model, dtype=objective.baseline.dtype, device=objective.baseline.device)


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
    _check(radius, n, width)
    found: list[SearchResult] = []
    avoid = _nothing_yet(objective)
    for _ in range(n):
        start = random_vectors(1, width, radius, generator).to(avoid.basis)
        found.append(_amsgrad(objective, start, Feasible(avoid, radius, radius), learning_rate, max_steps))
        avoid = avoid.extend(found[-1].vector[None])
    return found


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


def calibrate_radius(
    z: ActivationMap, *, generator: torch.Generator, ratio: float = 0.5, samples: int = 30, highest: float = 1e3
) -> float:
    """The norm R at which a random steering vector's effect is no longer linear.

    Solves sqrt(mean_v |z(Rv) - z(0) - R J v|^2 / |R J v|^2) = ratio over random unit vectors v (the calibration of the
    deep causal transcoding post, as the ratio its code solves). J v is a central difference at norm `highest` / 1e5.

    Args:
        z: the activation map.
        generator: source of the random directions.
        ratio: 0.5 in the post.
        samples: number of directions.
        highest: upper end of the search; its lower end is 1e-5 of that.

    Raises:
        ValueError: the map is constant, or the ratio is not reached below `highest`.
    """
    directions = random_vectors(samples, z.d_model, 1.0, generator)
    tiny = 1e-5 * highest
    with torch.no_grad():
        start = unsteered(z, directions).flatten()
        slope = (z(tiny * directions).flatten(1) - z(-tiny * directions).flatten(1)) / (2 * tiny)
        if not slope.norm() > 0:
            raise ValueError("got a map that does not depend on the steering vector; choose a target after the source")

        def nonlinearity(radius: float) -> float:
            excess = z(radius * directions).flatten(1) - start - radius * slope
            return float((excess.square().sum(-1) / (radius * slope).square().sum(-1)).mean().sqrt())

        return _crossing(nonlinearity, ratio, tiny, highest)


def _crossing(fn, level: float, low: float, high: float) -> float:
    if not fn(high) > level:
        raise ValueError(
            f"got a non-linearity of {fn(high):.2g} at norm {high:g}; expected it to exceed {level:g}; "
            "the map is nearly linear: set the radius by hand"
        )
    while high / low > 1.001:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if fn(middle) > level else (middle, high)
    return (low * high) ** 0.5


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
        kept: the vectors found so far without the collapsed ones, in order, shape (k, d_model).
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
    avoid, nothing = _begin(goal, base, resume := resume or Progress(base.new_zeros(0, len(base))))
    settings = settings or OrthoSettings()
    settings = replace(settings, solver=replace(settings.solver, scale=float(base.norm())))
    preconditioner = None if curvature is None else _Preconditioner(curvature, settings)
    attempts, collapsed = resume.attempts, resume.collapsed
    while len(avoid) < len(base) and collapsed < settings.patience:
        precondition = preconditioner and preconditioner.outside(avoid)
        results = _search(goal, base, avoid, settings, precondition, seed, attempts)
        attempts += len(results)
        for result in results:
            done = _judge(goal, result, nothing, float(base.norm()))
            if done.status in (Status.COLLAPSED, Status.NONFINITE):
                collapsed += 1
            else:
                collapsed, avoid = 0, avoid.extend(done.vector[None])
            yield done


def _begin(goal: Goal, base: Float[Tensor, " d_model"], resume: Progress) -> tuple[Subspace, float]:
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
    rows = max(settings.restarts, min(settings.block, len(base) - len(avoid)))
    start = _noise(rows, base, float(base.norm()), seed, attempt)
    feasible = Feasible(avoid, settings.min_norm, settings.max_norm, nested=settings.block > 1)
    results = minimise(goal.smooth, start, feasible, settings.solver, precondition)
    if settings.block > 1:
        return results
    best = min(results, key=lambda result: result.loss if result.status is not Status.NONFINITE else float("inf"))
    return [replace(best, evaluations=sum(result.evaluations for result in results))]


def _noise(rows: int, base: Float[Tensor, " d_model"], norm: float, seed: int, attempt: int) -> Tensor:
    """Random starts that depend on nothing but the seed and the attempt's number, so that resuming repeats them."""
    generator = torch.Generator(base.device).manual_seed((seed * 1_000_003 + attempt) % 2**63)
    return random_vectors(rows, len(base), norm, generator).to(base)


def _judge(goal: Goal, result: SearchResult, nothing: float, norm: float) -> SearchResult:
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
        self.known, self.inverse = 0, curvature

    def outside(self, avoid: Subspace) -> Precondition:
        known = 1 + (len(avoid) - 1) // self.refresh * self.refresh
        if known != self.known:
            basis = Subspace(avoid.basis[:known], checked=known)
            self.known, self.inverse = known, complement_inverse(self.curvature, basis, self.ridge)
        inverse = self.inverse
        return lambda gradient: gradient @ inverse


def complement_inverse(
    curvature: Float[Tensor, "d_model d_model"], avoid: Subspace, ridge: float
) -> Float[Tensor, "d_model d_model"]:
    """(P G P + ridge)^-1 for a curvature matrix G and the projector P off a subspace."""
    inside = avoid.reject(avoid.reject(curvature).mT)
    identity = torch.eye(len(curvature), dtype=curvature.dtype, device=curvature.device)
    return torch.cholesky_inverse(torch.linalg.cholesky((inside + inside.mT) / 2 + ridge * identity))


def melbo_ortho_published(
    goal: Match,
    base: Float[Tensor, " d_model"],
    *,
    seed: int,
    learning_rate: float = 0.01,
    max_steps: int = 1000,
    resume: Progress | None = None,
) -> Iterator[SearchResult]:
    """The published MELBO-ortho loop, on the same goal: Adam on the raw gradient, projection after each step.

    Its fixed point is not the constrained optimum (Adam rescales each coordinate of a gradient that is mostly
    forbidden), so losses are higher than `melbo_ortho`'s on the same problem. The start is small noise: at the base
    itself the loss has no gradient.
    """
    avoid, nothing = _begin(goal, base, resume := resume or Progress(base.new_zeros(0, len(base))))
    attempts, norm = resume.attempts, float(base.norm())
    while len(avoid) < len(base):
        start = avoid.reject(_noise(1, base, 0.02 * norm, seed, attempts))
        attempts += 1
        result = _judge(goal, _adam(goal, start, avoid, learning_rate, max_steps), nothing, norm)
        if result.status not in (Status.COLLAPSED, Status.NONFINITE):
            avoid = avoid.extend(result.vector[None])
        yield result


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
    goal(0) - goal(vector).

    Returns:
        The shortest vector that still keeps the effect (the given one if none is shorter).
    """
    with torch.no_grad():
        nothing, start = (float(goal(v[None])[0]) for v in (torch.zeros_like(vector), vector))
    limit = nothing - keep * (nothing - start)
    settings = settings or Lbfgs(max_steps=6, scale=float(vector.norm()))
    best, evaluations = SearchResult(vector, (start,), Status.CONVERGED, 0), 0
    for _ in range(24):
        ball = Feasible(avoid, max_norm=0.9 * float(best.vector.norm()))
        trial = minimise(goal.smooth, best.vector[None], ball, settings, precondition)[0]
        evaluations += trial.evaluations
        with torch.no_grad():
            loss = float(goal(trial.vector[None])[0])
        if not loss <= limit:
            break
        best = replace(trial, losses=(loss,))
    return replace(best, evaluations=evaluations)

"""Closed-form maps whose answers are known: what every algorithm is tested on before it meets a model."""

from collections.abc import Callable

import mpmath
import torch
from torch import Tensor

from mi_ortho import FunctionMap, LinearMap
from mi_ortho.elicitation import Feasible
from mi_ortho.elicitation.search import value_and_gradient

DTYPE = torch.float64


def rng(seed: int = 0) -> torch.Generator:
    """A seeded generator."""
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(*shape, generator=rng(seed), dtype=DTYPE)


def rotation(d_model: int, seed: int = 0) -> Tensor:
    """A random orthogonal matrix in float64."""
    return torch.linalg.qr(randn(d_model, d_model, seed=seed))[0]


def linear(singular: Tensor, seed: int = 0) -> tuple[LinearMap, Tensor]:
    """A linear map with the given singular values, and its right singular vectors as rows."""
    left, right = rotation(len(singular), seed), rotation(len(singular), seed + 1)
    return LinearMap(left @ torch.diag(singular.to(DTYPE)) @ right, randn(len(singular), seed=seed + 2)), right


def spread(d_model: int, condition: float) -> Tensor:
    """Singular values from 1 down to 1 / condition, evenly in the logarithm."""
    return torch.logspace(0, -float(torch.tensor(condition).log10()), d_model, dtype=DTYPE)


def flat_energy(d_model: int, dims: int, seed: int = 0) -> tuple[FunctionMap, Tensor]:
    """z = |theta inside a subspace|^2 u: exactly `dims` orthogonal vectors of one norm have the full effect.

    Returns the map and the orthonormal basis of the subspace, as rows.
    """
    inside = rotation(d_model, seed)[:dims]
    direction = randn(5, seed=seed + 1)

    def energy(theta: Tensor) -> Tensor:
        return (theta @ inside.mT).square().sum(-1, keepdim=True) * direction

    return FunctionMap(energy, d_model), inside


def threshold_features(d_model: int, count: int, threshold: float, seed: int = 0) -> tuple[FunctionMap, Tensor]:
    """z = sum over orthonormal features f of softplus(8 (<f, theta> - threshold)) / 8 u: linear only past a threshold.

    Returns the map and the features, as rows.
    """
    features = rotation(d_model, seed)[:count]
    direction = randn(5, seed=seed + 1)

    def response(theta: Tensor) -> Tensor:
        above = torch.nn.functional.softplus(8 * (theta @ features.mT - threshold)) / 8
        return above.sum(-1, keepdim=True) * direction

    return FunctionMap(response, d_model), features


def bent(d_model: int, curvature: float) -> FunctionMap:
    """z = (theta, curvature |theta|^2): at norm R the non-linear part is curvature R times the linear one, exactly."""
    return FunctionMap(lambda theta: torch.cat([theta, curvature * theta.square().sum(-1, keepdim=True)], -1), d_model)


def mlp(d_model: int, *, depth: int = 3, gain: float = 1.5, seed: int = 0, dtype: torch.dtype = DTYPE) -> FunctionMap:
    """A random residual tanh network: smooth, and far from linear at norms of a few."""
    layers = [
        (
            gain * randn(d_model, 2 * d_model, seed=2 * i + seed) / d_model**0.5,
            gain * randn(2 * d_model, d_model, seed=2 * i + 1 + seed) / (2 * d_model) ** 0.5,
        )
        for i in range(depth)
    ]
    layers = [(first.to(dtype), second.to(dtype)) for first, second in layers]
    at = randn(d_model, seed=seed + 99).to(dtype)

    def forward(theta: Tensor) -> Tensor:
        x = at + theta
        for first, second in layers:
            x = x + torch.tanh(x @ first) @ second
        return x

    return FunctionMap(forward, d_model)


def logits_map(d_model: int, positions: int, vocab: int, seed: int = 0) -> FunctionMap:
    """A network followed by a linear read-out: logits of shape (*n, positions, vocab)."""
    hidden = mlp(d_model, depth=2, seed=seed)
    readout = randn(positions, vocab, d_model, seed=seed + 7) / d_model**0.5
    return FunctionMap(lambda theta: torch.einsum("...d,pvd->...pv", hidden(theta), readout), d_model)


def constrained_optimum(jacobian: Tensor, base: Tensor, avoid: Tensor) -> Tensor:
    """argmin |J (theta - base)| subject to avoid @ theta = 0, by solving its dense KKT system."""
    gram, count = jacobian.mT @ jacobian, len(avoid)
    unit = avoid / avoid.norm(dim=-1, keepdim=True)  # the constraint does not care, the conditioning does
    top = torch.cat([gram, unit.mT], 1)
    bottom = torch.cat([unit, unit.new_zeros(count, count)], 1)
    right = torch.cat([gram @ base, base.new_zeros(count)])
    return torch.linalg.solve(torch.cat([top, bottom]), right)[: len(base)]


def conjugate_gradient_residuals(jacobian: Tensor, base: Tensor, steps: int) -> Tensor:
    """The residuals r_1 .. r_steps of Hestenes and Stiefel's method for (J'J)^-1 x = base from x = 0.

    In 60 digits: the method loses its orthogonality in 16, and a reference must not have errors of its own.
    """
    with mpmath.workdps(60):
        matrix = mpmath.matrix(jacobian.tolist())
        matrix = (matrix.T * matrix) ** -1
        residual = direction = mpmath.matrix(base.tolist())
        found = []
        for _ in range(steps):
            image = matrix * direction
            square = mpmath.fdot(residual, residual)
            residual = residual - square / mpmath.fdot(direction, image) * image
            direction = residual + mpmath.fdot(residual, residual) / square * direction
            found.append([float(entry) for entry in residual])
    return torch.tensor(found, dtype=DTYPE)


def rounding(answer: Callable[[Tensor], Tensor], at: Tensor, safety: float = 100.0) -> Tensor:
    """The relative error that float64 allows each row of an answer: what rounding the input does to it, `safety` times.

    A change of the input by a share of its size is made and the change of the answer is measured, the largest of some;
    a stable algorithm errs as if its input had been rounded, so this is its tolerance, whatever the processor.
    """
    share, before = 1e-10, answer(at)
    worst = torch.zeros(len(before), dtype=DTYPE)
    for seed in range(4):
        noise = randn(*at.shape, seed=1000 + seed)
        change = answer(at + share * at.norm() / noise.norm() * noise) - before
        worst = torch.maximum(worst, change.norm(dim=-1) / before.norm(dim=-1) / share)
    return safety * torch.finfo(DTYPE).eps * (1 + worst)  # the answer is rounded too


def planted(
    d_model: int,
    count: int,
    response: Callable[[Tensor], Tensor],
    *,
    orthogonal: bool = True,
    m: int = 20,
    seed: int = 0,
) -> tuple[FunctionMap, Tensor, Tensor]:
    """z = sum_i strength_i response(<v_i, theta>) u_i with strengths from 1 to 2: the factors are known.

    Returns the map, v and u as unit rows. The v are orthonormal or independent random directions.
    """
    inward = rotation(d_model, seed)[:count] if orthogonal else unit(randn(count, d_model, seed=seed))
    outward = unit(randn(count, m, seed=seed + 1))
    strength = torch.linspace(1, 2, count, dtype=DTYPE)
    return FunctionMap(lambda theta: (response(theta @ inward.mT) * strength) @ outward, d_model), inward, outward


def unit(rows: Tensor) -> Tensor:
    """The rows at unit length."""
    return torch.nn.functional.normalize(rows, dim=-1)


def saturating(d_model: int, positions: int, *, gain: float = 1.5, seed: int = 0) -> FunctionMap:
    """tanh features at several positions: curved everywhere, and flat where the features are full."""
    width = d_model + d_model // 2
    inward = gain * randn(positions, d_model, width, seed=seed) / d_model**0.5
    outward = randn(positions, width, d_model, seed=seed + 1) / width**0.5
    shift = randn(positions, width, seed=seed + 2)

    def forward(theta: Tensor) -> Tensor:
        features = torch.tanh(torch.einsum("...d,pdw->...pw", theta, inward) + shift)
        return torch.einsum("...pw,pwd->...pd", features, outward)[..., None, :, :]

    return FunctionMap(forward, d_model)


def gained(
    objective: Callable[[Tensor], Tensor],
    vector: Tensor,
    feasible: Feasible,
    *,
    steps: int = 60,
    within: float = float("inf"),
) -> float:
    """By which share of itself the objective still grows along its projected gradient, in steps of at most 5 %.

    `within` is how far it may go, as a share of the vector's norm: a point that is stationary within a tolerance can be
    near a saddle, from which a long way leads further.
    """
    theta, size = vector[None], 0.05
    value, gradient = value_and_gradient(objective, theta)
    first = float(value)
    for _ in range(steps):
        way = feasible.tangent(theta, gradient)
        way = way * vector.norm() / way.norm().clamp_min(1e-300)
        while size > 1e-9:
            trial = feasible(theta + size * way)
            trial_value, trial_gradient = value_and_gradient(objective, trial)
            near = float((trial - vector).norm()) <= within * float(vector.norm())
            if near and trial_value > value:
                theta, value, gradient, size = trial, trial_value, trial_gradient, min(0.05, 2 * size)
                break
            size /= 2
    return (float(value) - first) / abs(first)

"""Exponential deep causal transcoding: derivatives of all orders at once, by orthogonalised gradient iteration."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from mi_ortho.dct.factors import Factors, solve_weights
from mi_ortho.dct.steps import Retraction, check, damped, projected_start, qr_retraction, require_moving
from mi_ortho.derivatives.means import Maps, displacement, displacement_and_gradient


def exponential_dct(
    z: Maps,
    k: int,
    *,
    radius: float,
    generator: torch.Generator,
    steps: int = 10,
    start: Float[Tensor, "k d_model"] | None = None,
    retract: Retraction = qr_retraction,
    damping: float = 1.0,
    projections: int = 32,
    dtype: torch.dtype = torch.float32,
    chunk: int = 16,
) -> Factors:
    """k factors of all derivatives of z at 0 together, by orthogonalised gradient iteration.

    The response e^x - 1 has all its derivatives equal at 0, so that the fit of every derivative tensor needs only
    values of z at norm `radius`. Repeated `steps` times: v <- orthonormal rows; then, at theta = radius v, u <-
    z(theta) - z(0) and v <- the gradient of <u_old, z(theta)>, both at unit length and damped. At the end v is made
    orthonormal once more, u follows, and alpha solves K alpha = <u, z(radius v) - z(0)>, K = <u, u'> (e^<v, v'> - 1).
    (Mack and Turner 2024, algorithm 3; the published code ends without that last retraction, and its v are not
    orthonormal.)

    Args:
        z: one map, or several whose mean is meant; their graphs are never alive together.
        k: number of factors, at most d_model.
        radius: norm of the steering vectors; see `calibrate_scale`.
        generator: source of the random start; its device is where the vectors live.
        steps: iterations, each one forward and one backward pass a factor and map.
        start: directions to begin from; by default the right singular vectors of a randomly projected Jacobian, filled
            up with random directions. Random ones need more steps and reach more factors.
        retract: `qr_retraction` or `polar_retraction`.
        damping: share of the new direction in every move; 1 is the plain iteration, .99 was published for hard cases.
        projections: rows of the projected Jacobian of the default start.
        dtype: of the steering vectors; the blocks of a slice keep their own.
        chunk: factors per pass; memory is that of `chunk` graphs, k rows of inputs and outputs twice, and k^2 numbers.
            The default suits the caches of a processor; a GPU needs more to be busy, 64 or 128.

    Returns:
        Factors with orthonormal inputs; `trace` holds the mean effect |z(radius v) - z(0)|.

    Raises:
        ValueError: k too large, a map constant in theta, values that are not finite.
    """
    zero = check(z, k, radius, generator, dtype)
    v = retract(projected_start(z, zero, k, generator, projections, chunk) if start is None else start)
    u = effect_directions(z, radius * v, chunk)
    trace = []
    for _ in range(steps):
        effect, slope = displacement_and_gradient(z, radius * v, u, chunk=chunk)
        require_moving(effect, "effects")
        trace.append(float(effect.norm(dim=-1).mean()))
        u, v = damped(u, effect, damping), retract(damped(v, require_moving(slope, "gradients"), damping))
    return weighted(z, v, radius, tuple(trace), chunk)


def effect_directions(z: Maps, vectors: Float[Tensor, "k d_model"], chunk: int) -> Float[Tensor, "k m"]:
    """Unit rows in the direction of z(theta) - z(0)."""
    return normalize(require_moving(displacement(z, vectors, chunk=chunk), "effects"), dim=-1)


def weighted(z: Maps, v: Float[Tensor, "k d_model"], radius: float, trace: tuple[float, ...], chunk: int) -> Factors:
    """Exponential factors of given input directions: outputs are their effects, weights the best ones."""
    effect = require_moving(displacement(z, radius * v, chunk=chunk), "effects")
    u = normalize(effect, dim=-1)
    weights = solve_weights((u @ u.mT) * torch.expm1(v @ v.mT), (u * effect).sum(-1))
    trace += (float(effect.norm(dim=-1).mean()),)
    return Factors(v, u, weights, radius, "exponential", trace, {"method": "exponential"})

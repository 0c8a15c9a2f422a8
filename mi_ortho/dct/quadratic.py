"""Quadratic deep causal transcoding: a decomposition of the true second-derivative tensor at 0."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from mi_ortho.dct.factors import Factors, solve_weights
from mi_ortho.dct.steps import Retraction, check, damped, qr_retraction, random_orthonormal, require_moving
from mi_ortho.derivatives.means import Maps, as_maps
from mi_ortho.derivatives.second import hessian_products, second_derivatives


def quadratic_dct(
    z: Maps,
    k: int,
    *,
    radius: float,
    generator: torch.Generator,
    steps: int = 10,
    start: Float[Tensor, "k d_model"] | None = None,
    retract: Retraction = qr_retraction,
    damping: float = 1.0,
    dtype: torch.dtype = torch.float32,
    chunk: int = 64,
) -> Factors:
    """k factors of T, the second derivative of z at 0, by symmetric orthogonalised alternating least squares.

    Repeated `steps` times: v <- orthonormal rows; u <- T(., v, v) at unit length; v <- T(u, v, .) at unit length. T is
    exact: T(u, v, .) is the derivative of J(theta)' u as theta moves from 0 along v. At the end v is made orthonormal,
    u follows, and alpha solves the kernel system K alpha = radius^2 / 2 T(u, v, v), K = <u, u'> <v, v'>^2, so that
    sum_l alpha_l <v_l, theta / radius>^2 u_l is the fit to the second-order part. (Mack and Turner 2024; Sharan and
    Valiant 2017 for orthogonalised ALS. The published code never takes a second derivative, see
    `published_quadratic_dct`.)

    Args:
        z: one map, or several whose mean is meant; their graphs are never alive together.
        k: number of factors, at most d_model.
        radius: norm of the steering vectors; only the scale of alpha depends on it.
        generator: source of the random start; its device is where the vectors live.
        steps: iterations, each about five forward-and-backward passes a factor and map.
        start: directions to begin from; random orthonormal ones by default.
        retract: `qr_retraction` or `polar_retraction`.
        damping: share of the new direction in every move; 1 is the plain iteration.
        dtype: of the steering vectors; the blocks of a slice keep their own.
        chunk: factors per pass; memory is that of `chunk` graphs differentiated twice, and k rows of every kind.

    Returns:
        Factors with orthonormal inputs; `trace` holds the mean of T(u, v, v).

    Raises:
        ValueError: k too large, a map without second derivatives at 0, derivatives that are not finite.
    """
    zero = check(z, k, radius, generator, dtype)
    maps = as_maps(z)

    def outward(v: Tensor) -> Tensor:
        derivatives = torch.stack([second_derivatives(one, zero, v, v, chunk=chunk) for one in maps]).mean(0)
        return require_moving(derivatives, "second derivatives at 0")

    def inward(u: Tensor, v: Tensor) -> Tensor:
        return torch.stack([hessian_products(one, zero, u, v, chunk=chunk) for one in maps]).mean(0)

    v = retract(random_orthonormal(k, zero, generator) if start is None else start)
    trace = []
    for _ in range(steps):
        effect = outward(v)
        trace.append(float(effect.norm(dim=-1).mean()))
        v = retract(damped(v, inward(normalize(effect, dim=-1), v), damping))
    effect = outward(v)
    u = normalize(effect, dim=-1)
    kernel = (u @ u.mT) * (v @ v.mT).square()
    weights = solve_weights(kernel, radius**2 / 2 * (u * effect).sum(-1))
    trace.append(float(effect.norm(dim=-1).mean()))
    return Factors(v, u, weights, radius, "quadratic", tuple(trace), {"method": "quadratic"})

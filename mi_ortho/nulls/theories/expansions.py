"""Theories that expand the effect at a point: T1 to first order, at 0 or on a path, T2 to second order at 0."""

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.derivatives.first import jacobian, mean_jacobian
from mi_ortho.derivatives.second import effect_hessian
from mi_ortho.elicitation.objectives import ActivationMap, Objective, unsteered
from mi_ortho.elicitation.search import value_and_gradient
from mi_ortho.nulls.bounds import ridge_capacity, second_order_count
from mi_ortho.nulls.theories.prediction import Prediction, limited, start_value


def linear_at_zero(
    z: ActivationMap, base: Float[Tensor, " d_model"], norm: float, *, threshold: float = 0.5, chunk: int = 64
) -> Prediction:
    """T1: the ridge capacity of J(0), as if z were its tangent at 0. See `ridge_capacity`.

    A vector works where |J theta - (z(base) - z(0))| is at most the share 1 - threshold of the effect; none does where
    J cannot come so near. min(m, d_model) backward passes for m outputs.

    Args:
        z: an activation map, or an effect as a map to one number.
        base: whose effect is meant.
        norm: cap on the vectors' norm.
        threshold: share of the base's effect that counts, above 0.
        chunk: rows per pass.
    """
    matrix = jacobian(z, torch.zeros_like(base), chunk=chunk)
    return _linear(z, base, matrix, norm, threshold, "Jacobian at 0", 1)


def linear_on_path(
    z: ActivationMap,
    base: Float[Tensor, " d_model"],
    norm: float,
    *,
    threshold: float = 0.5,
    nodes: int = 8,
    chunk: int = 64,
) -> Prediction:
    """T1: the ridge capacity of the mean Jacobian on the path from 0 to the base, which gives the base's effect.

    `nodes` times the cost of `linear_at_zero`. Steep effects need many nodes: the source says by which share J base
    misses the effect.
    """
    matrix = mean_jacobian(z, base, nodes=nodes, chunk=chunk)
    return _linear(z, base, matrix, norm, threshold, f"path-mean Jacobian, {nodes} nodes", nodes)


def _linear(
    z: ActivationMap,
    base: Float[Tensor, " d_model"],
    matrix: Float[Tensor, "m d_model"],
    norm: float,
    threshold: float,
    source: str,
    points: int,
) -> Prediction:
    if not 0 < threshold <= 1:
        raise ValueError(f"got threshold {threshold}; expected above 0, at most 1, a share of the base's effect")
    with torch.no_grad():
        effect = (z(base[None])[0] - unsteered(z, base)).flatten().double()
    matrix = matrix.double()
    # not reachable at all (a gradient of 0 at the least): no vector, not an error
    missed = (matrix @ (torch.linalg.pinv(matrix) @ effect) - effect).norm() / effect.norm()
    unreachable = float(missed) ** 2 > (1 - threshold) ** 2 + 1e-12
    count = 0.0 if unreachable else ridge_capacity(matrix, effect, norm, 1 - threshold)
    gap = float((matrix @ base.double() - effect).norm() / effect.norm())
    source = f"{source}, which gives the effect but for {100 * gap:.0f} %"
    backward = points * (min(len(matrix), len(base)) + (len(matrix) > len(base)))
    return Prediction("T1", limited(count, len(base)), len(base), source, 2 * points + 2, backward)


def second_order_at_zero(
    effect: Objective, like: Float[Tensor, " d_model"], norm: float, *, threshold: float = 0.5, chunk: int = 64
) -> Prediction:
    """T2: `second_order_count` of the effect's gradient and Hessian at 0.

    d_model passes of about two backward passes each.

    Args:
        effect: maps (n, d_model) to n shares of the base's effect, rows independent.
        like: any vector of the space, for its width, dtype and device.
        norm: cap on the vectors' norm.
        threshold: effect that counts as working.
        chunk: rows per pass.

    Raises:
        ValueError: an effect that reaches the threshold at 0, or derivatives that are not finite.
    """
    start, zero = start_value(effect, like, threshold), torch.zeros_like(like)
    values = torch.linalg.eigvalsh(effect_hessian(effect, zero, chunk=chunk)) / 2
    slope = float(value_and_gradient(effect, zero[None])[1].norm())
    count = second_order_count(values, slope, norm, threshold - start)
    return Prediction("T2", float(count), len(like), "gradient and Hessian at 0", 3, 2 * len(like) + 2)

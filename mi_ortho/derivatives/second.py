"""Second derivatives: the Hessian of an effect, and products with the second-derivative tensor of an activation map.

The tensor of z at a point is T(u, v, w) = sum_abc u_a v_b w_c d2 z_a / d theta_b d theta_c, symmetric in v and w. All
products are exact derivatives, not differences.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.derivatives.first import gradient, plain_attention, vector_products
from mi_ortho.elicitation.objectives import ActivationMap


def effect_hessian(
    effect: Callable[[Tensor], Tensor], at: Float[Tensor, " d_model"], *, chunk: int = 64
) -> Float[Tensor, "d_model d_model"]:
    """The Hessian of a scalar effect at one steering vector, symmetric to the last bit.

    One forward and one backward pass whose gradient is differentiated again, `chunk` rows at once: d_model passes of
    about two backward passes each. The graph of one row is held.

    Args:
        effect: maps (n, d_model) to (n,), rows independent; an objective, or a projection of z on a direction.
        at: the point.
        chunk: rows per pass.

    Raises:
        ValueError: entries that are not finite.

    >>> effect_hessian(lambda theta: theta[..., 0] * theta[..., 1], torch.zeros(2)).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    with torch.enable_grad(), plain_attention():
        theta = at.detach().clone().requires_grad_()
        slope = gradient(effect(theta[None]).sum(), theta)
        identity = torch.eye(len(at), dtype=at.dtype, device=at.device)
        rows = torch.cat([vector_products(slope, theta, part) for part in identity.split(chunk)])
    return _require_finite((rows + rows.mT) / 2, at)


def hessian_products(
    z: ActivationMap,
    at: Float[Tensor, " d_model"],
    outputs: Float[Tensor, "n m"],
    vectors: Float[Tensor, "n d_model"],
    *,
    chunk: int = 64,
) -> Float[Tensor, "n d_model"]:
    """Rows T(u, v, .): the Hessian of <u, z> times v, pair by pair.

    That is the derivative of J(theta)' u as theta moves from `at` in the direction v. About two forward and backward
    passes a pair.

    Args:
        z: any activation map, outputs flattened to m.
        at: the point.
        outputs: u, one a row.
        vectors: v, one a row.
        chunk: pairs per pass.

    >>> from mi_ortho.elicitation.objectives import FunctionMap
    >>> square = FunctionMap(lambda theta: theta**2, 2)
    >>> hessian_products(square, torch.zeros(2), torch.eye(2), torch.ones(2, 2)).tolist()
    [[2.0, 0.0], [0.0, 2.0]]
    """
    rows = []
    for u, v in zip(outputs.split(chunk), vectors.split(chunk), strict=True):
        with torch.enable_grad(), plain_attention():
            theta = at.detach().expand(len(v), -1).clone().requires_grad_()
            slope = gradient((z(theta).flatten(1) * u).sum(), theta)
            rows.append(gradient((slope * v).sum(), theta).detach())
    return _require_finite(torch.cat(rows), at)


def second_derivatives(
    z: ActivationMap,
    at: Float[Tensor, " d_model"],
    first: Float[Tensor, "n d_model"],
    second: Float[Tensor, "n d_model"],
    *,
    chunk: int = 64,
) -> Float[Tensor, "n m"]:
    """Rows T(., v, w): the second derivative of z along v and w, pair by pair.

    T(u, v, w) is linear in u, and its gradient by u is the row: three nested backward passes a pair.

    Args:
        z: any activation map, outputs flattened to m.
        at: the point.
        first: v, one a row.
        second: w, one a row.
        chunk: pairs per pass.

    >>> from mi_ortho.elicitation.objectives import FunctionMap
    >>> square = FunctionMap(lambda theta: theta**2, 2)
    >>> second_derivatives(square, torch.zeros(2), torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 1.0]])).tolist()
    [[2.0, 6.0]]
    """
    rows = []
    for v, w in zip(first.split(chunk), second.split(chunk), strict=True):
        with torch.enable_grad(), plain_attention():
            theta = at.detach().expand(len(v), -1).clone().requires_grad_()
            out = z(theta).flatten(1)
            cotangent = torch.zeros_like(out, requires_grad=True)
            once = gradient((out * cotangent).sum(), theta)
            twice = gradient((once * v).sum(), theta)
            rows.append(gradient((twice * w).sum(), cotangent).detach())
    return _require_finite(torch.cat(rows), at)


def _require_finite(derivative: Tensor, at: Float[Tensor, " d_model"]) -> Tensor:
    if not torch.isfinite(derivative).all():
        raise ValueError(
            f"got a second derivative with NaN or infinite entries at a vector of norm {float(at.norm()):.3g}; "
            "expected finite; take a point where z is smooth (a norm |theta| is not at 0) or float32 blocks"
        )
    return derivative

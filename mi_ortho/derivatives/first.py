"""First derivatives of an activation map: products with its Jacobian, the Jacobian itself at a point or averaged on a
path, and the Gauss-Newton matrix of an objective on it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mi_ortho.elicitation.objectives import ActivationMap, Match, MatchDistribution, Penalised

ENTRIES = 2**25  # cotangents held at once


def pullback(
    fn: Callable[[Tensor], Tensor], at: Float[Tensor, " d_model"], cotangents: Float[Tensor, "n m"], *, chunk: int = 64
) -> Float[Tensor, "n d_model"]:
    """Rows c J for cotangents c, with J the Jacobian of the flattened fn at one point.

    One forward pass, then backward passes that carry `chunk` cotangents at once. Costs a backward pass a row; memory
    grows with `chunk`.

    Args:
        fn: maps (n, d_model) to (n, ...), rows independent.
        at: the point.
        cotangents: n row vectors over the m flattened outputs.
        chunk: rows per pass.
    """
    with torch.enable_grad(), plain_attention():
        theta = at.detach().clone().requires_grad_()
        out = fn(theta[None]).flatten()
        return torch.cat([vector_products(out, theta, part) for part in cotangents.split(chunk)])


def pushforward(
    fn: Callable[[Tensor], Tensor],
    at: Float[Tensor, " d_model"],
    tangents: Float[Tensor, "n d_model"],
    *,
    chunk: int = 64,
) -> Float[Tensor, "n m"]:
    """Rows J t for tangents t, with J the Jacobian of the flattened fn at one point.

    c J is linear in c, and its derivative by c in the direction t is J t: one forward and one backward pass, then
    passes that carry `chunk` tangents at once. That needs no forward-mode rule of any operation, and is not slower
    than forward mode.

    Args:
        fn: maps (n, d_model) to (n, ...), rows independent.
        at: the point.
        tangents: n row vectors.
        chunk: rows per pass.

    >>> from mi_ortho.elicitation.objectives import LinearMap
    >>> z = LinearMap(torch.tensor([[1.0, 2.0], [0.0, 3.0]]), torch.zeros(2))
    >>> pushforward(z, torch.zeros(2), torch.tensor([[0.0, 1.0]])).tolist()
    [[2.0, 3.0]]
    """
    with torch.enable_grad(), plain_attention():
        theta = at.detach().clone().requires_grad_()
        out = fn(theta[None]).flatten()
        cotangent = torch.zeros_like(out, requires_grad=True)
        pulled = gradient((out * cotangent).sum(), theta)
        return torch.cat([vector_products(pulled, cotangent, part) for part in tangents.split(chunk)])


def vector_products(
    out: Float[Tensor, " m"], at: Float[Tensor, " d_model"], cotangents: Float[Tensor, "n m"]
) -> Float[Tensor, "n d_model"]:
    """Rows c d(out)/d(at) of an existing graph, all in one backward pass, or one after the other where that fails."""

    def row(cotangent: Tensor, batched: bool) -> Tensor:
        kwargs: dict[str, Any] = {"retain_graph": True, "is_grads_batched": batched, "allow_unused": True}
        (product,) = torch.autograd.grad(out, at, cotangent, **kwargs) if out.requires_grad else (None,)
        # None: nothing depends on the point
        return at.new_zeros(*cotangent.shape[:-1], len(at)) if product is None else product

    try:
        return row(cotangents, True)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # some operation of the graph cannot be batched
        return torch.stack([row(cotangent, False) for cotangent in cotangents])


def gradient(scalar: Tensor, at: Tensor) -> Tensor:
    """The differentiable gradient of an existing graph; 0 where the scalar does not depend on `at`."""
    if not scalar.requires_grad:
        return torch.zeros_like(at)
    return torch.autograd.grad(scalar, at, create_graph=True, allow_unused=True, materialize_grads=True)[0]


def plain_attention() -> AbstractContextManager[Any]:
    """Fused attention written out as products: the fused kernels can be differentiated once and in one row only."""
    return sdpa_kernel(SDPBackend.MATH)


def jacobian(z: ActivationMap, at: Float[Tensor, " d_model"], *, chunk: int = 64) -> Float[Tensor, "m d_model"]:
    """The Jacobian of z at one steering vector, outputs flattened to m rows.

    Rows are pulled back where m <= d_model, columns pushed forward otherwise: min(m, d_model) passes for one row each,
    `chunk` at once.

    Raises:
        ValueError: it has entries that are not finite.

    >>> from mi_ortho.elicitation.objectives import LinearMap
    >>> jacobian(LinearMap(torch.tensor([[1.0, 2.0]]), torch.zeros(1)), torch.zeros(2)).tolist()
    [[1.0, 2.0]]
    """
    with torch.no_grad():
        width = z(at[None]).numel()
    identity = torch.eye(min(width, len(at)), dtype=at.dtype, device=at.device)
    if width <= len(at):
        return require_finite(pullback(z, at, identity, chunk=chunk), at)
    return require_finite(pushforward(z, at, identity, chunk=chunk), at).mT.contiguous()


def require_finite(derivative: Tensor, at: Float[Tensor, " d_model"]) -> Tensor:
    """The derivative, unless it has entries that are not finite."""
    if not torch.isfinite(derivative).all():
        raise ValueError(
            f"got a Jacobian with NaN or infinite entries at a vector of norm {float(at.norm()):.3g}; expected finite; "
            "take a smaller vector or float32 blocks"
        )
    return derivative


def mean_jacobian(
    z: ActivationMap, to: Float[Tensor, " d_model"], *, nodes: int = 8, chunk: int = 64
) -> Float[Tensor, "m d_model"]:
    """The mean Jacobian on the straight path from 0: the integral of J(s to) over s in [0, 1].

    By the fundamental theorem of calculus its product with `to` is z(to) - z(0), exactly, however curved z is. Gauss
    and Legendre's rule with n nodes is exact where J is a polynomial in s of degree up to 2 n - 1.

    Args:
        z: any activation map.
        to: end of the path.
        nodes: points of the quadrature, each the cost of one Jacobian.
        chunk: rows per pass.

    Raises:
        ValueError: nodes < 1, or entries that are not finite.

    >>> from mi_ortho.elicitation.objectives import FunctionMap
    >>> square = FunctionMap(lambda theta: theta**2, 1)
    >>> round(float(mean_jacobian(square, torch.tensor([3.0]), nodes=1)), 4)
    3.0
    """
    if nodes < 1:
        raise ValueError(f"got nodes={nodes}; expected at least 1; 8 suits smooth maps")
    points, weights = np.polynomial.legendre.leggauss(nodes)
    steps = zip((points + 1) / 2, weights / 2, strict=True)
    return sum((weight * jacobian(z, point * to, chunk=chunk) for point, weight in steps), torch.zeros(()).to(to))


def gauss_newton(
    objective: Match | MatchDistribution | Penalised,
    base: Float[Tensor, " d_model"],
    *,
    generator: torch.Generator,
    samples: int | None = None,
    chunk: int = 64,
) -> Float[Tensor, "d_model d_model"]:
    """The Gauss-Newton matrix J'J of an objective's residual, mean of the one at 0 and the one at `base`.

    Exact where the residual has at most 2 d_model entries, else an unbiased sketch from `samples` random signs at each
    of the two points (2 d_model by default), a pass backwards for each: it only serves as a preconditioner, shared by
    all vectors of a family. Few samples give a low rank, which wants a larger ridge (`OrthoSettings.damping`).

    Raises:
        ValueError: samples below 1.
    """
    if samples is not None and samples < 1:
        raise ValueError(f"got samples={samples}; expected at least 1; leave it out for 2 d_model")
    count = 2 * len(base) if samples is None else samples
    return (
        _gram(objective.residual, torch.zeros_like(base), generator, count, chunk)
        + _gram(objective.residual, base, generator, count, chunk)
    ) / 2


def _gram(
    residual: Callable[[Tensor], Tensor],
    at: Float[Tensor, " d_model"],
    generator: torch.Generator,
    samples: int,
    chunk: int,
) -> Float[Tensor, "d_model d_model"]:
    """J'J of a residual at one point, or the sketch of it."""
    with torch.no_grad():
        width = residual(at[None]).shape[-1]
    exact = width <= 2 * len(at)
    count = width if exact else samples
    total = torch.zeros(len(at), len(at), dtype=at.dtype, device=at.device)
    # few rows at a time where the residual is wide: logits over a whole vocabulary
    for start in range(0, count, size := max(1, min(chunk, ENTRIES // width))):
        rows = min(size, count - start)
        if exact:
            cotangents = torch.zeros(rows, width, dtype=at.dtype, device=at.device)
            cotangents.diagonal(start).fill_(1)
        else:
            signs = torch.randint(0, 2, (rows, width), generator=generator, device=generator.device)
            cotangents = (2 * signs - 1).to(at) / count**0.5
        products = pullback(residual, at, cotangents, chunk=chunk)
        total += rearrange(products, "m d -> d m") @ products
    return total

"""First derivatives of an activation map: its full Jacobian and the Gauss-Newton matrix of an objective on it."""

from collections.abc import Callable

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from mi_ortho.objectives import ActivationMap, Match, MatchDistribution, Penalised

ENTRIES = 2**25  # cotangents held at once


def pullback(
    fn: Callable[[Tensor], Tensor], at: Float[Tensor, " d_model"], cotangents: Float[Tensor, "n m"], *, chunk: int = 64
) -> Float[Tensor, "n d_model"]:
    """Rows c J for cotangents c, with J the Jacobian of the flattened fn at one point.

    One forward pass a chunk of the point repeated, one backward pass: no functorch transforms, so every block that
    autograd can differentiate works.

    Args:
        fn: maps (n, d_model) to (n, ...), rows independent.
        at: the point.
        cotangents: n row vectors over the m flattened outputs.
        chunk: rows per pass; memory grows with it.
    """
    rows = []
    for part in cotangents.split(chunk):
        theta = repeat(at, "d -> n d", n=len(part)).detach().requires_grad_()
        with torch.enable_grad():
            total = (fn(theta).flatten(1) * part).sum()
            (gradient,) = torch.autograd.grad(total, theta)
        rows.append(gradient)
    return torch.cat(rows)


def jacobian(
    z: ActivationMap, at: Float[Tensor, " d_model"], *, chunk: int = 64
) -> Float[Tensor, "m d_model"]:
    """The Jacobian of z at one steering vector, outputs flattened to m rows.

    Raises:
        ValueError: it has entries that are not finite.

    >>> from mi_ortho.objectives import LinearMap
    >>> jacobian(LinearMap(torch.tensor([[1.0, 2.0]]), torch.zeros(1)), torch.zeros(2)).tolist()
    [[1.0, 2.0]]
    """
    with torch.no_grad():
        width = z(at[None]).numel()
    identity = torch.eye(width, dtype=at.dtype, device=at.device)
    found = pullback(z, at, identity, chunk=chunk)
    if not torch.isfinite(found).all():
        raise ValueError(
            f"got a Jacobian with NaN or infinite entries at a vector of norm {float(at.norm()):.3g}; expected finite; "
            "take a smaller vector or float32 blocks"
        )
    return found


def gauss_newton(
    objective: Match | MatchDistribution | Penalised,
    base: Float[Tensor, " d_model"],
    *,
    generator: torch.Generator,
    chunk: int = 64,
) -> Float[Tensor, "d_model d_model"]:
    """The Gauss-Newton matrix J'J of an objective's residual, mean of the one at 0 and the one at `base`.

    Exact where the residual has at most 2 d_model entries, else an unbiased sketch from 2 d_model random signs: it only
    serves as a preconditioner, shared by all vectors of a family.
    """
    return (_gram(objective.residual, torch.zeros_like(base), generator, chunk)
            + _gram(objective.residual, base, generator, chunk)) / 2  # fmt: skip


def _gram(
    residual: Callable[[Tensor], Tensor], at: Float[Tensor, " d_model"], generator: torch.Generator, chunk: int
) -> Float[Tensor, "d_model d_model"]:
    with torch.no_grad():
        width = residual(at[None]).shape[-1]
    exact = width <= 2 * len(at)
    count = width if exact else 2 * len(at)
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
        found = pullback(residual, at, cotangents, chunk=chunk)
        total += rearrange(found, "m d -> d m") @ found
    return total

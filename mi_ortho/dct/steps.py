"""What the methods share: checks, retractions to orthonormal rows, damped moves, starting directions."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from mi_ortho.derivatives.first import pullback
from mi_ortho.derivatives.means import Maps, as_maps, require_equal_outputs
from mi_ortho.interventions.subspace import orthonormal_rows, reject_twice

Retraction = Callable[[Float[Tensor, "k d_model"]], Float[Tensor, "k d_model"]]


def qr_retraction(rows: Float[Tensor, "k d_model"]) -> Float[Tensor, "k d_model"]:
    """Orthonormal rows by Gram-Schmidt, as published: each row loses its part along the rows before it."""
    return orthonormal_rows(rows)


def polar_retraction(rows: Float[Tensor, "k d_model"]) -> Float[Tensor, "k d_model"]:
    """The nearest orthonormal rows: the same whatever the order of the rows (the polar factor)."""
    left, _, right = torch.linalg.svd(rows, full_matrices=False)
    return left @ right


def check(z: Maps, k: int, radius: float, generator: torch.Generator, dtype: torch.dtype) -> Float[Tensor, " d_model"]:
    """A zero steering vector on the generator's device, once k, radius and the maps make sense.

    Raises:
        ValueError: k outside 1 to d_model, a radius that is not positive and finite, or maps that do not fit together.
    """
    zero = torch.zeros(as_maps(z)[0].d_model, dtype=dtype, device=generator.device)
    require_equal_outputs(as_maps(z), zero)
    width = len(zero)
    if not 1 <= k <= width:
        raise ValueError(
            f"got k={k}; expected 1 to d_model={width}: no more directions can be orthonormal; ask for fewer"
        )
    if not 0 < radius < float("inf"):
        raise ValueError(f"got radius {radius}; expected a positive, finite norm; try calibrate_scale")
    return zero


def damped(old: Float[Tensor, "k d"], new: Float[Tensor, "k d"], damping: float) -> Float[Tensor, "k d"]:
    """Unit rows of damping * new + (1 - damping) * old, both at unit length."""
    return normalize(damping * normalize(new, dim=-1) + (1 - damping) * old, dim=-1)


def require_moving(moved: Float[Tensor, "k m"], what: str) -> Float[Tensor, "k m"]:
    """The effects themselves; ValueError where they are not finite, or all exactly 0."""
    if not torch.isfinite(moved).all():
        raise ValueError(f"got NaN or infinity in {what}; expected finite; take a smaller radius or float32 blocks")
    if not moved.abs().max() > 0:
        raise ValueError(
            f"got {what} that are all 0; expected an effect; the map does not depend on the steering "
            "vector there: choose a target after the source, or another method"
        )
    return moved


def random_orthonormal(k: int, like: Float[Tensor, " d_model"], generator: torch.Generator) -> Tensor:
    """k random orthonormal rows."""
    rows = torch.randn(k, len(like), generator=generator, device=generator.device)
    return orthonormal_rows(rows.to(like))


def completed(rows: Float[Tensor, "r d_model"], k: int, generator: torch.Generator) -> Float[Tensor, "k d_model"]:
    """Orthonormal rows followed by random ones orthogonal to them, k in all."""
    more = torch.randn(k - len(rows), rows.shape[1], generator=generator, device=generator.device).to(rows)
    return torch.cat([rows, orthonormal_rows(reject_twice(rows, more))]) if len(more) else rows[:k]


def projected_rows(
    z: Maps, zero: Float[Tensor, " d_model"], projections: int, generator: torch.Generator, chunk: int
) -> Float[Tensor, "r d_model"]:
    """W J: random combinations of the Jacobian's rows, `projections` backward passes a map."""
    maps = as_maps(z)
    with torch.no_grad():
        m = maps[0](zero[None]).numel()
    mix = torch.randn(projections, m, generator=generator, device=generator.device).to(zero) / m**0.5
    rows = torch.stack([pullback(one, zero, mix, chunk=chunk) for one in maps]).mean(0)
    return require_moving(rows, "projected Jacobian rows")


def projected_start(
    z: Maps, zero: Float[Tensor, " d_model"], k: int, generator: torch.Generator, projections: int, chunk: int
) -> Float[Tensor, "k d_model"]:
    """The right singular vectors of a projected Jacobian, filled up with random directions: where iterations begin."""
    rows = projected_rows(z, zero, min(projections, k), generator, chunk)
    right = torch.linalg.svd(rows, full_matrices=False)[2]
    return completed(right, k, generator)

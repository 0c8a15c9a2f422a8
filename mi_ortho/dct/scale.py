"""The norm of steering vectors: where their effect is no longer linear."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.dct.steps import check, require_moving
from mi_ortho.derivatives.first import pushforward
from mi_ortho.derivatives.means import Maps, as_maps, displacement

STRIDE = 4.0  # between the norms tried on the way up to the root


def nonlinearity(
    z: Maps, directions: Float[Tensor, "n d_model"], radii: Sequence[float], *, chunk: int = 64
) -> Float[Tensor, "radii n"]:
    """|z(Rv) - z(0) - R J v| / |R J v| for unit directions v and every norm R, J exact: 0 where z is linear.

    Raises:
        ValueError: norms that are not positive, or a direction along which J is 0 or not finite.
    """
    if not radii or min(radii) <= 0:
        raise ValueError(f"got norms {list(radii)}; expected positive ones; 0.001 to 100 was published")
    slope = _slope(z, directions, chunk)
    return torch.stack([_ratio(z, directions, slope, radius, chunk) for radius in radii])


def calibrate_scale(
    z: Maps,
    *,
    generator: torch.Generator,
    ratio: float = 0.5,
    samples: int = 30,
    bracket: tuple[float, float] = (1e-3, 1e3),
    dtype: torch.dtype = torch.float32,
    chunk: int = 64,
) -> float:
    """The norm R with sqrt(mean_v |z(Rv) - z(0) - R J v|^2 / |R J v|^2) = ratio, over random unit directions v.

    The ratio, which the published code solves for; the published text leaves the division out. J v is exact.

    Args:
        z: one map, or several whose mean is meant.
        generator: source of the random directions; its device is where they live.
        ratio: lambda, 0.5 in the post.
        samples: directions.
        bracket: norms between which the ratio is first crossed upwards, found to .1 %. Rounding, which looks like a
            large nonlinearity at small norms of a half-precision model, is not taken for a crossing.
        dtype: of the steering vectors.
        chunk: rows per pass; memory is that of one graph and `chunk` copies of its outputs.

    Raises:
        ValueError: the ratio is not crossed upwards in the bracket, or the map does not depend on theta.
    """
    low, high = bracket
    if not 0 < low < high < math.inf:
        raise ValueError(f"got bracket {bracket}; expected 0 < low < high; (0.001, 1000) is the default")
    zero = check(z, 1, high, generator, dtype)
    directions = torch.randn(samples, len(zero), generator=generator, device=generator.device).to(zero)
    directions = directions / directions.norm(dim=-1, keepdim=True)
    slope = _slope(z, directions, chunk)

    def mean_ratio(radius: float) -> float:
        return float(_ratio(z, directions, slope, radius, chunk).square().mean().sqrt())

    lower, upper = _upward(mean_ratio, ratio, low, high)
    while upper / lower > 1.001:
        middle = (lower * upper) ** 0.5
        lower, upper = (lower, middle) if mean_ratio(middle) > ratio else (middle, upper)
    return (lower * upper) ** 0.5


def _upward(curve: Callable[[float], float], ratio: float, low: float, high: float) -> tuple[float, float]:
    """The first norms, at most a factor STRIDE apart, between which the curve rises through the ratio.

    Below them rounding may exceed it; above them the curve may fall again, because a network bounds what its blocks add
    and the residual stream passes on the rest.
    """
    norms = [low]
    values = [curve(low)]
    while norms[-1] < high:
        norms.append(min(norms[-1] * STRIDE, high))
        values.append(curve(norms[-1]))
        if values[-2] <= ratio <= values[-1] and values[-2] < values[-1]:
            return norms[-2], norms[-1]
    below = min(values) < ratio
    advice = (
        "raise the bracket or lower the ratio; a map this linear may need its radius set by hand"
        if below
        else "lower the bracket or raise the ratio"
    )
    raise ValueError(
        f"got a nonlinearity of {values[0]:.3g} at norm {low:g} and {values[-1]:.3g} at norm {high:g}, at "
        f"most {max(values):.3g}; expected {ratio:g} between them; {advice}"
    )


def _slope(z: Maps, directions: Tensor, chunk: int) -> Tensor:
    zero = torch.zeros_like(directions[0])
    products = [pushforward(one, zero, directions, chunk=chunk) for one in as_maps(z)]
    slope = require_moving(torch.stack(products).mean(0), "Jacobian products at 0")
    if not slope.norm(dim=-1).min() > 0:
        raise ValueError(
            "got a direction along which the Jacobian at 0 is 0; expected a linear part to compare with; "
            "set the radius by hand"
        )
    return slope


def _ratio(z: Maps, directions: Tensor, slope: Tensor, radius: float, chunk: int) -> Tensor:
    linear = radius * slope
    return (displacement(z, radius * directions, chunk=chunk) - linear).norm(dim=-1) / linear.norm(dim=-1)

"""Does a positive quantity grow exponentially with depth, or as a power of it? Least squares in the logarithm."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_LEAST = 5  # the small-sample correction divides by (points - parameters - 1), with three parameters


@dataclass(frozen=True)
class Growth:
    """A straight line through log y.

    Attributes:
        intercept: of the line, log of the value where its abscissa is 0.
        slope: rate b of exp(b l), or exponent b of l^b.
        r_squared: share of the variance of log y that the line explains.
        aic: n log(RSS / n) + 2 * 3 (Akaike 1974; the parameters are line and residual variance).
        aicc: aic with the correction for small samples (Hurvich and Tsai 1989).
        fitted: the line's values of y at the given depths.
    """

    intercept: float
    slope: float
    r_squared: float
    aic: float
    aicc: float
    fitted: tuple[float, ...]


def fit_exponential(depths: Sequence[float], values: Sequence[float]) -> Growth:
    """y = exp(a + b depth).

    Args:
        depths: blocks complete at each measurement, from 0.
        values: positive numbers.

    Raises:
        ValueError: fewer than five points, values that are not positive, or depths that are all the same.

    >>> round(fit_exponential(range(6), [2.0**k for k in range(6)]).slope, 4) == round(math.log(2), 4)
    True
    """
    return _line(list(map(float, depths)), values)


def fit_power(depths: Sequence[float], values: Sequence[float]) -> Growth:
    """y = exp(a) (depth + 1)^b; depth counts from 0, so that the embedding stands at 1. Otherwise as `fit_exponential`.

    The residuals are those of log y in both forms, with as many parameters, so their AIC can be compared.
    """
    if any(depth <= -1 for depth in depths):
        raise ValueError(f"got a depth of {min(depths)}; expected 0 or more; count complete blocks")
    return _line([math.log(depth + 1) for depth in depths], values)


def _line(x: Sequence[float], values: Sequence[float]) -> Growth:
    if len(x) != len(values) or len(x) < _LEAST:
        raise ValueError(
            f"got {len(x)} depths and {len(values)} values; expected as many of both and at least "
            f"{_LEAST}; use a model with more layers"
        )
    if not all(value > 0 and math.isfinite(value) for value in values):
        raise ValueError(
            "got values that are not positive finite numbers; expected positive ones, whose logarithm "
            "exists; leave out the points where nothing varies"
        )
    at, y = torch.tensor(x, dtype=torch.float64), torch.tensor(values, dtype=torch.float64).log()
    spread = (at - at.mean()).square().sum()
    if not spread > 0:
        raise ValueError("got depths that are all the same; expected different ones; measure at several layers")
    slope = ((at - at.mean()) * (y - y.mean())).sum() / spread
    line = y.mean() + slope * (at - at.mean())
    return _growth(float(slope), float(y.mean() - slope * at.mean()), y, line)


def _growth(slope: float, intercept: float, y: Float[Tensor, " n"], line: Float[Tensor, " n"]) -> Growth:
    n, parameters = len(y), 3
    total = float((y - y.mean()).square().sum())
    # a perfect fit leaves rounding; the floor keeps its logarithm finite
    rest = max(float((y - line).square().sum()), 1e-24 * max(total, 1.0))
    aic = n * math.log(rest / n) + 2 * parameters
    corrected = aic + 2 * parameters * (parameters + 1) / (n - parameters - 1)
    r_squared = 1 - rest / total if total > 1e-20 else 0.0
    return Growth(intercept, slope, r_squared, aic, corrected, tuple(line.exp().tolist()))

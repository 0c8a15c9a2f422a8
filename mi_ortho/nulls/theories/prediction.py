"""What a theory of the number of orthogonal vectors says, and the theories that need no effect: T0, T7 and T9."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from scipy.stats import linregress, theilslopes
from torch import Tensor

from mi_ortho.elicitation.objectives import Objective


@dataclass(frozen=True)
class Prediction:
    """How many mutually orthogonal vectors of at most some norm a theory says have an effect of at least a threshold.

    Attributes:
        theory: its name, T0 to T9.
        count: predicted number, from 0 to d_model; not rounded.
        d_model: width of the space, which no count exceeds.
        source: what it was measured from, in words.
        forward: steering vectors that were run forward for it.
        backward: rows that were run backward for it.
        interval: 95 % interval of the count where the theory has one.

    Raises:
        ValueError: a count outside 0 to d_model, or one that is not a number.
    """

    theory: str
    count: float
    d_model: int
    source: str
    forward: int = 0
    backward: int = 0
    interval: tuple[float, float] | None = None

    def __post_init__(self):
        if not 0 <= self.count <= self.d_model:
            raise ValueError(
                f"got a count of {self.count} in {self.d_model} dimensions; expected 0 to {self.d_model}; "
                "look for NaN among what it was measured from"
            )

    def error(self, measured: float) -> float:
        """log2((predicted + 1) / (measured + 1)): 1 where the theory says about twice as many as there are.

        >>> Prediction("T2", 7, 64, "").error(3)
        1.0
        """
        return math.log2((self.count + 1) / (measured + 1))


def limited(count: float, d_model: int) -> float:
    """A count cut to what is possible at all: 0 to d_model. NaN stays NaN, and no `Prediction` takes it."""
    return min(max(float(count), 0.0), float(d_model))


def start_value(effect: Objective, like: Float[Tensor, " d_model"], threshold: float) -> float:
    """The effect without any vector.

    Raises:
        ValueError: it is not finite, or already reaches the threshold.
    """
    with torch.no_grad():
        start = float(effect(torch.zeros_like(like)[None])[0])
    if not start < threshold:
        raise ValueError(
            f"got an effect of {start:.3g} without any vector; expected less than the threshold {threshold}; "
            "measure the effect as a share of the base's, or raise the threshold"
        )
    return start


@dataclass(frozen=True)
class DisplacementCurve:
    """T0: log2(N + 1) = intercept + slope log2(displacement), fitted by `displacement_curve`.

    Attributes:
        slope: N + 1 doubles this many times when the displacement does.
        intercept: log2(N + 1) at displacement 1.
        pairs: how many pairs it was fitted on.
    """

    slope: float
    intercept: float
    pairs: int

    def predict(self, displacement: float, d_model: int) -> Prediction:
        """The count at a displacement |z(base) - z(0)|, at the norm and threshold of the counts it was fitted on.

        One forward pass.
        """
        if not displacement > 0:
            raise ValueError(f"got displacement {displacement}; expected a positive one; take another base")
        logarithm = min(self.intercept + self.slope * math.log2(displacement), 64.0)
        count = limited(2.0**logarithm - 1, d_model)
        return Prediction("T0", count, d_model, f"displacement of the base, {self.pairs} pairs", forward=1)


def displacement_curve(displacements: Sequence[float], counts: Sequence[float]) -> DisplacementCurve:
    """T0: the count depends on the base's displacement only, as a power of it.

    Least squares of log2(N + 1) on log2(displacement); N + 1 so that a base with no vectors counts too. Censored counts
    are to be left out.

    Raises:
        ValueError: fewer than two different displacements, or numbers out of range.

    >>> displacement_curve([48, 90, 123], [106, 58, 1]).predict(90, 128).count < 60
    True
    """
    if len(displacements) != len(counts) or len(set(displacements)) < 2:
        raise ValueError(
            f"got {len(displacements)} displacements and {len(counts)} counts; expected as many of both and "
            "at least two different displacements; add bases"
        )
    if min(displacements) <= 0 or min(counts) < 0:
        raise ValueError("got a displacement or a count below its range; expected D > 0 and N >= 0; correct them")
    line: Any = linregress([math.log2(d) for d in displacements], [math.log2(n + 1) for n in counts])
    return DisplacementCurve(float(line.slope), float(line.intercept), len(counts))


def flat_top(eigenvalues: Float[Tensor, " d"], *, gap: float = 0.03) -> Prediction:
    """T7: as many vectors as the flat top of the Gauss-Newton spectrum has directions.

    Directions are counted from the largest eigenvalue down to the first that is smaller than the one before it by more
    than the share `gap`: inside such a band no direction is preferred, and any orthonormal basis of it does the same.
    Norm and threshold do not enter: where they matter, T7 is wrong.

    Args:
        eigenvalues: of J'J (`gauss_newton`), in any order; its cost is that of the spectrum.
        gap: largest relative step between neighbours in the band.

    Raises:
        ValueError: no positive eigenvalue, values that are not finite, or a gap outside 0 to 1.

    >>> flat_top(torch.tensor([1.0, 0.98, 0.97, 0.5, 0.5])).count
    3.0
    """
    values = eigenvalues.double().sort(descending=True).values
    if not bool(torch.isfinite(values).all()) or not len(values) or not values[0] > 0 or not 0 <= gap < 1:
        raise ValueError(
            f"got {len(values)} eigenvalues and gap {gap}; expected finite ones, one above 0, and a gap from 0 to "
            "below 1; measure the spectrum at a vector that has an effect"
        )
    flat = values[1:] >= (1 - gap) * values[:-1]
    return Prediction("T7", 1.0 + float(flat.cumprod(0).sum()), len(values), f"Gauss-Newton spectrum, gaps <= {gap:g}")


def extrapolated(effects: Sequence[float], d_model: int, *, threshold: float = 0.5) -> Prediction:
    """T9: the line through the effects of a family's first vectors, followed to where it falls below the threshold.

    Theil and Sen's line (the median of all pairwise slopes) of effect on index, from 1; its slope's 95 % interval gives
    the count's. d_model where the line does not fall. Never fewer than the vectors that are already there and work.
    Pass shares of the base's effect, or 1 - loss. A search that aims at one level gives no slope and hence no forecast.

    Raises:
        ValueError: fewer than 3 effects, more than d_model, or some that are not finite.

    >>> extrapolated([0.95, 0.9, 0.85, 0.8], 64).count
    10.0
    """
    if not 3 <= len(effects) <= d_model or not all(map(math.isfinite, effects)):
        raise ValueError(
            f"got {len(effects)} effects in {d_model} dimensions; expected 3 to {d_model} finite ones; "
            "take the first 10"
        )
    line: Any = theilslopes(list(effects), range(1, len(effects) + 1))
    working = sum(value >= threshold for value in effects)
    centre = (len(effects) + 1) / 2
    middle = float(line.intercept + line.slope * centre)

    def crossing(slope: float) -> float:
        ahead = math.inf if slope >= -1e-12 else centre + (threshold - middle) / slope
        return limited(max(ahead + 1e-9 if middle >= threshold else 0.0, working), d_model)

    count, low, high = (crossing(float(slope)) for slope in (line.slope, line.low_slope, line.high_slope))
    return Prediction("T9", float(math.floor(count)), d_model, f"first {len(effects)} effects", interval=(low, high))

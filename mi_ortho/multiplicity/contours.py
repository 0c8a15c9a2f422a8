"""Iso-response contours of pairs of directions: which power p adds up two doses to the same effect.

Two orthogonal directions, each in units of the radius at which it alone just reaches a level of a scalar effect, reach
it together on a curve from (1, 0) to (0, 1). A response to an L^p norm of feature coordinates has the curve
|x|^p + |y|^p = 1: p = 1 for a linear effect, 2 for a quadratic form, large for separate features with a threshold
(Ferreira da Silva and Heimersheim 2026, arXiv 2606.24964, whose response is a function of such a norm).
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from torch import Tensor

from mi_ortho.elicitation.objectives import Objective
from mi_ortho.interventions.subspace import max_abs_cosine
from mi_ortho.multiplicity.response import dose_response, smallest_scale
from mi_ortho.stats import Measured, rate, subsampled

NEAREST, FARTHEST = (
    1 / 8,
    2.0,
)  # radii tried of a pair, in units of each alone: 0.71 is linear, 1.41 the farthest corner
LARGEST = 3.5  # 1/p whose contour meets the diagonal at the nearest radius
ORTHOGONAL = 0.01  # |cosine| up to which two directions are a pair


@dataclass(frozen=True, eq=False)
class Contours:
    """Iso-response contours of all pairs of the directions that reach a level, and the power that fits them.

    Attributes:
        level: of the effect.
        radii: the smallest radius at which each direction alone reaches it, infinite where none does; shape (n,).
        pairs: the two directions of every contour, shape (k, 2).
        angles: even in the positive quadrant, in radians; shape (a,).
        contours: radius of every pair at every angle in units of the two `radii`, shape (k, a); infinite where the pair
            does not reach the level though each alone does.
        inverses: 1/p of every pair's own fit, shape (k,).
        misfits: root mean square distance of each contour from its own fit, in log radius; shape (k,). A contour of
            another shape than |x|^p + |y|^p = 1 has a large one.
        deviations: mean of log radius over that of the fit to all pairs, angle by angle; shape (a,). What shape the
            contours have instead.
        inverse: 1/p of one fit to all pairs, its interval over directions; no interval for fewer than four.
    """

    level: float
    radii: Float[Tensor, " n"]
    pairs: Int[Tensor, "k two"]
    angles: Float[Tensor, " a"]
    contours: Float[Tensor, "k a"]
    inverses: Float[Tensor, " k"]
    misfits: Float[Tensor, " k"]
    deviations: Float[Tensor, " a"]
    inverse: Measured

    @property
    def exponent(self) -> Measured:
        """p of one fit to all pairs; infinite where no finite power is as square as the contours."""
        one = self.inverse
        ends = None if one.interval is None else (_over(one.interval[1]), _over(one.interval[0]))
        return replace(one, value=None if one.value is None else _over(one.value), interval=ends)

    @property
    def unreached(self) -> tuple[int, ...]:
        """The directions that never reach the level and so are in no pair."""
        return tuple(torch.isinf(self.radii).nonzero().flatten().tolist())

    @property
    def reached(self) -> Measured:
        """The share of directions that reach the level, with its exact interval."""
        return rate(len(self.radii) - len(self.unreached), len(self.radii))

    @property
    def outside(self) -> int:
        """How many points of contours lie beyond the radii tried; the nearest of these stand for them in the fits."""
        return int(((self.contours <= NEAREST) | (self.contours >= FARTHEST)).sum())

    @property
    def misfit(self) -> float:
        """Root mean square of `misfits`; NaN without pairs."""
        return float(self.misfits.square().mean().sqrt())


@dataclass(frozen=True, eq=False)
class Plateau:
    """Where the effect of some directions ends.

    Attributes:
        level: half way from the effect of no vector to the median over directions of the largest effect of each.
        largest: effect of each direction, shape (n,).
        growth: the median over directions of the largest effect over the largest up to half of the radius, both above
            that of no vector: 1 on a plateau, 2 for a linear effect, which has none.
    """

    level: float
    largest: Float[Tensor, " n"]
    growth: float


@torch.no_grad()
def half_plateau(
    effect: Objective, directions: Float[Tensor, "n d_model"], *, high: float, grid: int = 16, chunk: int = 64
) -> Plateau:
    """The level half way to the plateau of an effect, and whether there is a plateau.

    Radii up to `high` are tried in equal steps. Where `growth` is not near 1, the level is half the effect at the
    largest radius and no half of a plateau: take a larger radius. Costs n grid + 1 forward passes.

    Raises:
        ValueError: no directions, one of norm 0, a radius that is not positive, or fewer than 2 steps.

    >>> plateau = half_plateau(lambda x: x.norm(dim=-1).clamp_max(3), torch.eye(4), high=16.0)
    >>> plateau.level, plateau.growth
    (1.5, 1.0)
    """
    unit = _unit(directions)
    if not 0 < high < math.inf or grid < 2:
        raise ValueError(f"got radii up to {high} in {grid} steps; expected a positive radius and at least 2 steps")
    steps = torch.linspace(high / grid, high, grid, dtype=torch.float64, device=unit.device)
    effects = dose_response(_in_chunks(effect, chunk), unit, steps).double()
    nothing = float(effect(torch.zeros_like(unit[:1]))[0])
    largest, before = effects.amax(-1), effects[:, : grid // 2].amax(-1)
    growth = ((largest - nothing) / (before - nothing)).nanquantile(0.5)
    return Plateau((nothing + float(largest.quantile(0.5))) / 2, largest, float(growth))


@torch.no_grad()
def iso_response(
    effect: Objective,
    directions: Float[Tensor, "n d_model"],
    level: float,
    *,
    high: float,
    generator: torch.Generator,
    angles: int = 5,
    grid: int = 13,
    refine: int = 9,
    chunk: int = 64,
) -> Contours:
    """The contours at which all pairs of directions reach a level of an effect, and the p of |x|^p + |y|^p = 1.

    Each direction is scaled to the smallest radius at which it alone reaches the level; then the smallest radius of
    every pair is searched at each angle of the positive quadrant (a grid in equal ratios, then bisection). p minimises
    the squared distance in log radius at even angles, in which every angle weighs the same and 1/p is nearly linear.
    The interval of 1/p resamples directions and forms the pairs anew (`stats.subsampled`): pairs share directions.

    A quadratic form whose directions are no eigenvectors has ellipses for contours: below p = 2 for a positive coupling
    of two directions, above it for a negative one, and 2 only on average. Where the sign of a direction means nothing,
    as of a singular vector, give each a random one; a p above 2 of signed directions needs the same with other signs.

    Costs n (2 grid + refine) forward passes for the radii, and n (n - 1) / 2 angles (grid + refine) for the contours:
    at the defaults 5,000 for 10 directions.

    Args:
        effect: one number a row.
        directions: orthogonal, of any norm.
        level: of the effect, above that of no vector; `half_plateau(...).level`, where there is a plateau.
        high: largest radius of a single direction; the smallest is high / 256.
        generator: of the resampling.
        angles: how many between the two directions, evenly.
        grid, refine: radii tried between 1/8 and 2, and bisections of each; a single direction has twice as many.
        chunk: rows per pass.

    Raises:
        ValueError: fewer than 2 directions, some not orthogonal or of norm 0, no angle, or a level that is reached
            without a vector or at the smallest radius.

    >>> found = iso_response(
    ...     lambda x: x.pow(4).sum(-1), torch.eye(6), 1.0, high=4.0, generator=torch.Generator().manual_seed(0)
    ... )
    >>> round(found.exponent.value, 1), len(found.pairs), found.misfit < 0.01
    (4.0, 15, True)
    """
    unit, effect = _unit(directions), _in_chunks(effect, chunk)
    _check(effect, unit, level, angles)
    radii = smallest_scale(effect, unit, level, low=high / 256, high=high, grid=2 * grid, refine=refine + 2)
    if bool((radii <= high / 256).any()):
        count = int((radii <= high / 256).sum())
        raise ValueError(f"got {count} directions at the level from the smallest radius on; lower `high` below {high}")
    able = torch.isfinite(radii).nonzero().flatten()
    pairs = torch.combinations(able)
    turn = torch.arange(1, angles + 1, dtype=torch.float64, device=unit.device) * (math.pi / 2 / (angles + 1))
    sides = torch.stack([turn.cos(), turn.sin()], -1)
    weights = rearrange(sides * radii[pairs][:, None], "k a two -> (k a) two")
    ends = pairs.repeat_interleave(angles, 0)
    parts = [
        smallest_scale(
            effect,
            (weights[rows, :, None].to(unit) * unit[ends[rows]]).sum(1),
            level,
            low=NEAREST,
            high=FARTHEST,
            grid=grid,
            refine=refine,
        )
        for rows in torch.arange(len(ends), device=unit.device).split(chunk)
        if len(rows)
    ]
    contours = rearrange(torch.cat([radii[:0], *parts]), "(k a) -> k a", a=angles)
    return _fitted(level, radii, pairs, turn, contours, generator)


def _check(effect: Objective, unit: Float[Tensor, "n d_model"], level: float, angles: int) -> None:
    if len(unit) < 2 or angles < 1 or max_abs_cosine(unit) > ORTHOGONAL:
        raise ValueError(
            f"got {len(unit)} directions with |cosine| up to {max_abs_cosine(unit):.2g} and {angles} angles; expected "
            f"two orthogonal directions (to {ORTHOGONAL}) and one angle; orthonormalise them"
        )
    nothing = float(effect(torch.zeros_like(unit[:1]))[0])
    if not nothing < level:
        raise ValueError(f"got the level {level}; expected one above {nothing:.3g}, the effect of no vector; raise it")


def _unit(directions: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
    if not len(directions) or not bool((directions.norm(dim=-1) > 0).all()):
        raise ValueError(f"got {len(directions)} directions, none or one of norm 0; expected directions; leave it out")
    return torch.nn.functional.normalize(directions, dim=-1)


def _in_chunks(effect: Objective, chunk: int) -> Objective:
    return lambda rows: torch.cat([effect(part) for part in rows.split(chunk)])


def _fitted(
    level: float, radii: Tensor, pairs: Tensor, angles: Tensor, contours: Tensor, generator: torch.Generator
) -> Contours:
    """The fits to each pair and to all of them."""
    logs = contours.clamp(NEAREST, FARTHEST).log().cpu().numpy()
    turn, able = angles.cpu().numpy(), torch.isfinite(radii).nonzero().flatten().cpu()
    inverses = np.array([_fit(row, turn) for row in logs])
    misfits = [float(np.sqrt(np.mean((row - log_contour(one, turn)) ** 2))) for row, one in zip(logs, inverses)]

    def pooled(rows: Tensor) -> float:
        # the least-squares fit to all contours is the one to the mean of their logarithms
        return _fit(logs[torch.isin(pairs.cpu(), able[rows]).all(-1).numpy()].mean(0), turn)

    inverse = Measured(None, None, "none", len(able))
    if len(able) >= 4:
        inverse = _not_negative(subsampled(pooled, len(able), generator=generator))
    elif len(able) >= 2:
        inverse = replace(inverse, value=pooled(torch.arange(len(able))))
    fit = log_contour(inverse.value, turn) if inverse.value is not None else np.full(len(turn), math.nan)
    deviations = logs.mean(0) - fit if len(logs) else fit
    singly, distances, shape = (torch.as_tensor(each, dtype=torch.float64) for each in (inverses, misfits, deviations))
    return Contours(level, radii, pairs, angles, contours, singly, distances, shape, inverse)


def log_contour(inverse: float, angles: np.ndarray) -> np.ndarray:
    """Log radius of |x|^p + |y|^p = 1 at angles of the positive quadrant, from 1/p; of a square at 0.

    >>> float(np.exp(log_contour(1.0, np.array([np.pi / 4])))[0])  # p = 1 on the diagonal: 1 / sqrt 2
    0.7071...
    """
    x, y = np.log(np.cos(angles)), np.log(np.sin(angles))
    return -np.maximum(x, y) if inverse == 0 else -inverse * np.logaddexp(x / inverse, y / inverse)


def _fit(logs: np.ndarray, angles: np.ndarray) -> float:
    """1/p whose contour is nearest in the squares of log radius."""

    # a lambda, because the run-time checker would wrap a function anew at each of many fits
    squares = lambda inverse: float(np.square(logs - log_contour(inverse, angles)).sum())  # noqa: E731
    result = minimize_scalar(squares, bounds=(0, LARGEST), method="bounded", options={"xatol": 1e-8})
    return 0.0 if squares(0.0) <= result.fun else float(result.x)


def _not_negative(measured: Measured) -> Measured:
    ends = measured.interval
    return measured if ends is None else replace(measured, interval=(max(ends[0], 0.0), ends[1]))


def _over(inverse: float) -> float:
    return 1 / inverse if inverse > 0 else math.inf

"""Intervals that never leave the scale they are on: of rates, counts and means.

Rates are exact, means of six or more values are bootstrapped, of fewer it is Student's t, and at every end of the scale
half a value that was not seen is added.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from scipy.special import ndtr, stdtrit
from scipy.stats import binomtest, chi2

from mi_ortho.stats.measured import BOOTSTRAPPED, LEVEL, REAL_SCALE, Interval, Measured, Scale

RESAMPLINGS = 10_000
UNSEEN = 0.5  # values added at each end of a scale


def rate(hits: int, trials: int, *, level: float = LEVEL) -> Measured:
    """A rate with its exact (Clopper and Pearson's) interval.

    >>> [round(end, 3) for end in rate(0, 14).interval]
    [0.0, 0.232]
    """
    if not 0 <= hits <= trials or trials < 1:
        raise ValueError(f"got {hits} hits in {trials} trials; expected 0 <= hits <= trials and at least one trial")
    ends = binomtest(hits, trials).proportion_ci(level, method="exact")
    return Measured(hits / trials, (float(ends.low), float(ends.high)), "exact binomial", trials)


def count_ratio(count: int, expected: float) -> Measured:
    """A count over the one expected, with the exact Poisson interval of the count: 17 is no different from 15.

    >>> [round(end, 2) for end in count_ratio(17, 15.0).interval]
    [0.66, 1.81]
    """
    if count < 0 or not 0 < expected < math.inf:
        raise ValueError(f"got a count of {count} where {expected} were expected; expected 0 or more over a positive")
    low = float(chi2.ppf((1 - LEVEL) / 2, 2 * count)) / 2 if count else 0.0
    high = float(chi2.ppf((1 + LEVEL) / 2, 2 * count + 2)) / 2
    return Measured(count / expected, (low / expected, high / expected), "exact Poisson")


def paired_rates(first: Sequence[bool], second: Sequence[bool], *, level: float = LEVEL) -> Measured:
    """The difference of two rates on the same trials (Newcombe's 1998 method 10 for pairs).

    >>> difference = paired_rates([True] * 2, [False] * 2)
    >>> difference.value, difference.interval[0] > 0.05
    (1.0, True)
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"got {len(first)} and {len(second)} trials; expected pairs, at least one; match them first")
    a, b, n = np.asarray(first, bool), np.asarray(second, bool), len(first)
    both, only, other = int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum())
    neither = n - both - only - other
    p, q = (both + only) / n, (both + other) / n
    (p_low, p_high), (q_low, q_high) = (_wilson(int(x.sum()), n, level) for x in (a, b))
    margins = (both + only) * (other + neither) * (both + other) * (only + neither)
    cross = both * neither - only * other
    cross = max(cross - n / 2, 0) if cross > 0 else cross  # Newcombe's correction for continuity
    phi = cross / math.sqrt(margins) if margins else 0.0

    def reach(one: float, two: float) -> float:
        return math.sqrt(max(0.0, one * one - 2 * phi * one * two + two * two))

    low = p - q - reach(p - p_low, q_high - q)
    high = p - q + reach(p_high - p, q - q_low)
    return Measured(p - q, (max(-1.0, low), min(1.0, high)), "paired rates (Newcombe)", n)


def exact_paired_rates(first: Sequence[bool], second: Sequence[bool], *, level: float = LEVEL) -> Measured:
    """The difference of two rates on the same trials, with an interval that holds it at least as often as it says.

    The difference is the rate of "only the first" less that of "only the second", of which each gets Clopper and
    Pearson's interval at half the error (Bonferroni). Wider than `paired_rates`, whose coverage is only about right.

    >>> difference = exact_paired_rates([True] * 20, [False] * 20)
    >>> difference.value, round(difference.interval[0], 2)
    (1.0, 0.61)
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"got {len(first)} and {len(second)} trials; expected pairs, at least one; match them first")
    n, narrow = len(first), (1 + level) / 2
    only, other = (rate(sum(a and not b for a, b in rows), n, level=narrow) for rows in _both_ways(first, second))
    assert only.value is not None and other.value is not None and only.interval and other.interval
    ends = only.interval[0] - other.interval[1], only.interval[1] - other.interval[0]
    return Measured(only.value - other.value, ends, "paired rates (exact, Bonferroni)", n)


def _both_ways(first: Sequence[bool], second: Sequence[bool]) -> tuple[Sequence[tuple[bool, bool]], ...]:
    return list(zip(first, second)), list(zip(second, first))


def _wilson(hits: int, trials: int, level: float) -> Interval:
    ends = binomtest(hits, trials).proportion_ci(level, method="wilson")
    return float(ends.low), float(ends.high)


def mean(
    values: Sequence[float],
    *,
    scale: Scale = REAL_SCALE,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
    level: float = LEVEL,
) -> Measured:
    """A mean with an interval that stays on its scale.

    From six values (or clusters) on they are resampled, and the percentiles widened by as much as Student's t is wider
    than the normal distribution (Hesterberg 2015). Of fewer it is Student's t. Where the scale has an end, half a value
    there is added on that side: few values near one end hide rare ones far from it. Where all values are equal, the
    interval reaches as far as the share of others that may differ (exact binomial) can move the mean; without two ends
    of the scale it has no width.

    Args:
        values: numbers; without any, the measurement has no value.
        scale: the smallest and largest value possible.
        clusters: of the values; those of one cluster are no independent samples, so clusters are resampled.
        seed: of the resampling.
        level: share of the samples whose interval holds the mean.

    Raises:
        ValueError: a value that is not finite or off the scale.
    """
    numbers = np.asarray(values, float)
    if not np.isfinite(numbers).all() or (numbers < scale[0] - 1e-6).any() or (numbers > scale[1] + 1e-6).any():
        raise ValueError(
            f"got values {numbers.tolist()[:8]} on the scale {scale}; expected numbers on it; leave out the rest"
        )
    if not len(numbers):
        return Measured(None, None, "none", 0)
    names = list(dict.fromkeys(clusters)) if clusters is not None else []
    inside = np.array([names.index(each) for each in clusters]) if clusters is not None else np.arange(len(numbers))
    sums, sizes = np.bincount(inside, numbers), np.bincount(inside).astype(float)
    n, centre = len(sums), float(numbers.mean())
    if n < 2:
        return Measured(centre, None, "none", n)
    each = sums / sizes
    if np.ptp(each) == 0:
        share = ((1 - level) / 2) ** (1 / n)  # as many equal values are likely only where this share is equal
        ends = [share * centre + (1 - share) * end if math.isfinite(end) else centre for end in scale]
        wide = math.isfinite(scale[0]) and math.isfinite(scale[1])
        return Measured(centre, (ends[0], ends[1]) if wide else (centre, centre), "exact binomial of equal values", n)
    if n < BOOTSTRAPPED:
        half = half_width(float(each.std(ddof=1)) / n**0.5, n, level)
        middle = float(each.mean())
        ends = min(middle - half, centre), max(middle + half, centre)
        return Measured(centre, _on_scale(*ends, n, scale), "Student t", n)
    tail = float(ndtr(-half_width(1.0, n, level) * (n / (n - 1)) ** 0.5))
    draws = np.random.default_rng(seed).integers(0, n, (max(1000, min(RESAMPLINGS, 4_000_000 // n)), n))
    low, high = np.quantile(sums[draws].sum(1) / sizes[draws].sum(1), [tail, 1 - tail])
    kind = "bootstrap" if clusters is None else "bootstrap over clusters"
    return Measured(centre, _on_scale(float(low), float(high), n, scale), kind, n)


def half_width(error: float, n: int, level: float = LEVEL) -> float:
    """Half of an interval by Student's t, from a standard error on n values; infinite for fewer than two."""
    return error * float(stdtrit(n - 1, (1 + level) / 2)) if n > 1 else math.inf


def _on_scale(low: float, high: float, n: int, scale: Scale) -> Interval:
    """An interval of n values with half a value more at each end that the scale has, cut there."""
    ends = [
        (n * edge + UNSEEN * end) / (n + UNSEEN) if math.isfinite(end) else edge
        for edge, end in zip((low, high), scale)
    ]
    return max(ends[0], scale[0]), min(ends[1], scale[1])

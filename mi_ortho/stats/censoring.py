"""Counts that a search's end cut off: 24 of 24 vectors searched says "at least 24".

Such a count is never a plain number. Medians and ratios of counts have intervals made of what is certain about each
count, so that they are open on the side that censoring leaves open.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr
from scipy.stats import CensoredData, binom, ecdf, norm
from scipy.stats import t as student

from mi_ortho.stats.clusters import Units, highest_unit, label_each
from mi_ortho.stats.intervals import mean
from mi_ortho.stats.measured import LEAST, LEVEL, POSITIVE_SCALE, Interval, Measured


@dataclass(frozen=True)
class Count:
    """How many there are, or, where the search ended before they did, at least how many.

    Attributes:
        value: as counted.
        censored: whether the search ended first.

    >>> float(Count(7, False))
    7.0
    """

    value: float
    censored: bool

    def __post_init__(self) -> None:
        if not 0 <= self.value < math.inf:
            raise ValueError(f"got a count of {self.value}; expected 0 or more; leave out what was not counted")

    def __float__(self) -> float:
        if self.censored:
            raise ValueError(
                f"got a count of at least {self.value} as a number; expected one that ended; use median_count"
            )
        return float(self.value)


def searched(value: float, limit: float) -> Count:
    """A count of a search that stops at a limit, which censors counts that reach it.

    >>> searched(24, 24)
    Count(value=24, censored=True)
    """
    if not 0 <= value <= limit:
        raise ValueError(f"got {value} of {limit} searched; expected 0 to the limit; give how many were searched")
    return Count(value, value >= limit)


def mean_count(counts: Sequence[Count], *, seed: int = 0) -> Measured:
    """The mean of counts that all ended; of others it is not known, has no value, and decides nothing.

    >>> mean_count([Count(24, True), Count(20, False)]).value
    """
    if cut := _censored(counts):
        return Measured(None, None, "mean of censored counts: see median_count", len(counts), censored=cut)
    return mean([float(count) for count in counts], scale=POSITIVE_SCALE, seed=seed)


def median_count(counts: Sequence[Count], *, level: float = LEVEL) -> Measured:
    """The median of independent counts from the empirical survival function, with an interval from their order.

    The value is Kaplan and Meier's (1958) estimate, None where more than half are censored. The interval needs no
    assumption about distribution or censoring (order statistics of what each count is at least and at most); below
    six counts it is open on both sides.

    >>> median_count([Count(value, value == 24) for value in (5, 9, 24, 24, 24, 24, 24, 24)]).interval
    (5.0, inf)
    """
    if not counts:
        return Measured(None, None, "none", 0)
    low = np.array([count.value for count in counts])
    high = np.where([count.censored for count in counts], math.inf, low)
    cut = _censored(counts)
    bottom, top = _median_interval(low, high, level)
    return Measured(
        _survival_median(counts), (max(bottom, 0.0), top), "exact, of the median", len(counts), censored=cut
    )


def fitted_count(counts: Sequence[Count]) -> Measured:
    """The median of independent counts as a lognormal distribution with right-censored values, for few counts too.

    The fit is by maximum likelihood (`scipy.stats.CensoredData`). The interval is that of the profile likelihood, with
    a limit that makes it Student's t of the logarithms where nothing is censored. Zeros are taken as anything
    below 1. The limit of the search must not depend on what was found. Without three counts that are known and
    differ, nothing is fitted.

    >>> fitted = fitted_count([Count(value, value == 24) for value in (8, 12, 17, 21, 24)])
    >>> round(fitted.value, 1), fitted.interval[0] < 12, fitted.interval[1] > 24
    (16.1, True, True)
    """
    n, cut = len(counts), _censored(counts)
    exact = [math.log(count.value) for count in counts if not count.censored and count.value > 0]
    if len(exact) < LEAST or np.ptp(exact) == 0:
        return Measured(None, None, "too few known counts for a lognormal", n, censored=cut)
    right = [math.log(count.value) if count.value else -math.inf for count in counts if count.censored]
    right = [edge for edge in right if edge > -math.inf]  # "at least none" says nothing
    left = [0.0] * sum(not count.censored and count.value == 0 for count in counts)
    centre, spread = norm.fit(CensoredData(uncensored=exact, right=right, left=left))
    size = len(exact) + len(right) + len(left)
    interval = _profile(np.array(exact), np.array(right), np.array(left), float(centre), float(spread), size)
    ends = math.exp(interval[0]), math.exp(min(interval[1], 700.0)) if interval[1] < math.inf else math.inf
    return Measured(math.exp(float(centre)), ends, "lognormal, profile likelihood", n, censored=cut)


def _profile(
    exact: np.ndarray, right: np.ndarray, left: np.ndarray, centre: float, spread: float, size: int
) -> Interval:
    """Centres whose likelihood, at the best spread for each, is not too far below the largest one."""
    reach = 12 * spread * max(1.0, 3 / math.sqrt(size))
    centres = np.linspace(centre - reach, centre + reach, 481)
    spreads = spread * np.geomspace(0.2, 30, 41)[:, None]
    squares = float(((exact - exact.mean()) ** 2).sum()) + len(exact) * (exact.mean() - centres) ** 2
    total = -len(exact) * np.log(spreads) - squares / (2 * spreads**2)
    for sign, edges in ((1, right), (-1, left)):
        for edge, times in zip(*np.unique(edges, return_counts=True)):
            total += times * log_ndtr(sign * (centres - edge) / spreads)
    best = total.max(0)
    limit = size / 2 * math.log1p(float(student.ppf((1 + LEVEL) / 2, size - 1)) ** 2 / (size - 1))
    inside = np.flatnonzero(best >= best.max() - limit)
    low, high = inside[0], inside[-1]
    return (
        float(centres[low - 1]) if low else -math.inf,
        float(centres[high + 1]) if high + 1 < len(centres) else math.inf,
    )


def paired_count_ratio(
    values: Sequence[Count], controls: Sequence[Count], *, units: Units | None = None, level: float = LEVEL
) -> Measured:
    """The median of value over control in pairs of counts, either of which may be censored.

    Of each pair only what is certain is used: over a censored control the ratio is at most so large, of a censored
    value at least, of two censored ones anything; a count of 0 is anything below 1. The interval is of order
    statistics, so it holds for every distribution and every kind of censoring, and is open where it has to be. The
    value is None where censoring hides the median. Pairs inside one label of the highest unit that varies are no
    independent samples: of each label the middle pair is taken, from below and from above. Below six labels no
    interval is bounded.

    Args:
        values, controls: row by row of the same pair, searched to limits that were set before.
        units: labels of every row; without them each pair is independent.
        level: share of the samples whose interval holds the median.

    >>> full, ended = [Count(24, True)] * 7, [Count(12, False)] * 7
    >>> paired_count_ratio(full, full).interval, paired_count_ratio(full, ended).interval
    ((0.0, inf), (2.0, inf))
    """
    if len(values) != len(controls) or not values:
        raise ValueError(f"got {len(values)} counts and {len(controls)} controls; expected pairs; match them first")
    name, labels = highest_unit(label_each(units, len(values)))
    value_ends, control_ends = (np.array([_logs(count) for count in each]) for each in (values, controls))
    low, high = value_ends[:, 0] - control_ends[:, 1], value_ends[:, 1] - control_ends[:, 0]
    rows = [[k for k, label in enumerate(labels) if label == each] for each in dict.fromkeys(labels)]
    low, high = (np.array([np.sort(each[k])[(len(k) - 1) // 2] for k in rows]) for each in (low, high))
    with np.errstate(over="ignore"):
        ends = np.exp(_median_interval(low, high, level))
    middle = [np.sort(each)[[(len(rows) - 1) // 2, len(rows) // 2]] for each in (low, high)]
    certain = bool(np.isfinite(middle).all() and (middle[0] == middle[1]).all())
    value = math.exp(float(middle[0].mean())) if certain else None
    cut = sum(one.censored or other.censored for one, other in zip(values, controls))
    kind = f"exact, of the median ratio over {len(rows)} {name or 'sample'}s"
    return Measured(value, (float(ends[0]), float(ends[1])), kind, len(rows), name, cut)


def _logs(count: Count) -> Interval:
    """The logarithms that a count may have."""
    if count.value == 0:
        return -math.inf, math.inf if count.censored else 0.0
    return math.log(count.value), math.inf if count.censored else math.log(count.value)


def _censored(counts: Sequence[Count]) -> int:
    return sum(count.censored for count in counts)


def _median_interval(low: np.ndarray, high: np.ndarray, level: float) -> Interval:
    """The interval of a median from what each value is at least and at most (Conover 1999, ch. 3.2).

    Its k-th and k-th last value, with the largest k for which either end misses in half of 1 - level at most.
    """
    k = median_rank(len(low), level)
    return (float(np.sort(low)[k - 1]), float(np.sort(high)[len(low) - k])) if k else (-math.inf, math.inf)


def median_rank(n: int, level: float = LEVEL) -> int:
    """k of the k-th value from below and from above between which the median of n lies; 0 where none is so sure.

    >>> [median_rank(n) for n in (5, 6, 9, 20)]
    [0, 1, 2, 6]
    """
    k = int(binom.ppf((1 - level) / 2, n, 0.5))
    return k - 1 if k and binom.cdf(k - 1, n, 0.5) > (1 - level) / 2 else k


def _survival_median(counts: Sequence[Count]) -> float | None:
    """The smallest count that at most half of the distribution lies beyond; None where the data end before it."""
    exact = [float(count.value) for count in counts if not count.censored]
    right = [float(count.value) for count in counts if count.censored]
    if not exact:
        return None
    survival = ecdf(CensoredData(uncensored=exact, right=right)).sf
    below = np.flatnonzero(survival.probabilities <= 0.5)
    return float(survival.quantiles[below[0]]) if len(below) else None

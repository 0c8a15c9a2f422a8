"""Minimum detectable effects: what a sample of this size would show in 80 % of the cases, had it been there."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.stats import beta
from statsmodels.stats.power import TTestPower

from mi_ortho.stats.censoring import median_rank
from mi_ortho.stats.clusters import Units, grouped, label_each, matched
from mi_ortho.stats.intervals import rate
from mi_ortho.stats.measured import ERROR
from mi_ortho.stats.outcomes import decide

POWER = 0.8


def detectable_mean(spread: float, n: int, *, power: float = POWER) -> float:
    """The smallest distance of a mean from its threshold that n independent values show, by Student's t.

    Args:
        spread: standard deviation of the values, in their unit.
        n: independent values; of fewer than two the answer is infinite.
        power: share of the samples that show it.

    >>> round(detectable_mean(1.0, 6), 2)
    1.43
    """
    if not 0 <= spread < math.inf:
        raise ValueError(f"got a spread of {spread}; expected 0 or more; give the standard deviation of the values")
    if n < 2:
        return math.inf
    return spread * _standard_effect(n, power)


@lru_cache(maxsize=1000)
def _standard_effect(n: int, power: float) -> float:
    """The same in standard deviations, by bisection: statsmodels' own search for it fails at some n.

    The chance to see it on its own side: that of the other side is tiny, and is no number at large effects.
    """
    test, low, high = TTestPower(), 0.0, 1 / math.sqrt(n)
    while test.power(high, n, ERROR / 2, alternative="larger") < power:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        seen = test.power(middle, n, ERROR / 2, alternative="larger") >= power
        low, high = (low, middle) if seen else (middle, high)
    return high


def detectable_difference(
    values: Sequence[float], controls: Sequence[float], *, units: Units | None = None, power: float = POWER
) -> float:
    """The smallest mean difference that so many pairs, spread like these, show; over the highest unit that varies.

    >>> round(detectable_difference([1.0, 2.0, 4.0], [0.0, 1.0, 1.0]), 2)
    3.77
    """
    pairs = matched(values, controls)
    averages = grouped(pairs, label_each(units, len(pairs))).averages
    return detectable_mean(float(np.std(averages, ddof=1)), len(averages), power=power) if averages[1:] else math.inf


def detectable_rate(trials: int, threshold: float, *, power: float = POWER) -> float:
    """The smallest rate of which so many trials show that it lies above a threshold, by the exact binomial interval.

    Infinite where even hits only would not show it.

    >>> round(detectable_rate(20, 0.5), 2), detectable_rate(3, 0.5)
    (0.8, inf)
    """
    if trials < 1 or not 0 <= threshold <= 1:
        raise ValueError(f"got {trials} trials and the threshold {threshold}; expected one or more, and a share")
    enough = [hits for hits in range(trials + 1) if decide(rate(hits, trials), threshold).supported]
    # P(at least k hits) as a function of the rate is the distribution function of Beta(k, trials - k + 1)
    return float(beta.ppf(power, enough[0], trials - enough[0] + 1)) if enough else math.inf


def detectable_count_ratio(
    spread: float,
    n: int,
    *,
    typical: float,
    limit: float,
    power: float = POWER,
    runs: int = 2000,
    largest: float = 64.0,
    seed: int = 0,
) -> float:
    """The smallest ratio of counts to their controls that n pairs show to be above 1, by simulation.

    Log ratios are normal; counts above the limit are censored (`paired_count_ratio`). Bisected on a logarithmic scale.
    Infinite where no ratio up to `largest` is shown, as with fewer than six pairs.

    Args:
        spread: standard deviation of the log ratio of a pair.
        n: pairs.
        typical: median count of the controls, below the limit.
        limit: where every search ends.
        power: share of the runs that show it.
        runs: simulated samples for each ratio.
        largest: ratio that is tried at most.
        seed: of the simulation.

    >>> round(detectable_count_ratio(0.5, 8, typical=12, limit=96), 1)
    2.6
    >>> detectable_count_ratio(0.5, 8, typical=24, limit=24), detectable_count_ratio(0.5, 5, typical=12, limit=96)
    (inf, inf)
    """
    if not (spread >= 0 and n >= 1 and 0 < typical <= limit and runs >= 1 and largest > 1):
        raise ValueError(
            f"got spread={spread}, n={n}, typical={typical}, limit={limit}, runs={runs}, largest={largest}; expected "
            "a spread of 0 or more, a typical count up to the limit, and a largest ratio above 1"
        )
    # half of the variance of a pair's log ratio on either side
    noise = spread / math.sqrt(2) * np.random.default_rng(seed).standard_normal((2, runs, n))
    rank, end = median_rank(n), math.log(limit / typical)

    def share(log_ratio: float) -> float:
        least = np.minimum(log_ratio + noise[0], end) - np.where(noise[1] < end, noise[1], math.inf)
        return float((np.sort(least)[:, rank - 1] > 0).mean()) if rank else 0.0

    low, high = 0.0, math.log(largest)
    if share(high) < power:
        return math.inf
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (low, middle) if share(middle) >= power else (middle, high)
    return math.exp(high)

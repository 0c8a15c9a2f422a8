"""p-values of counts and means."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.stats import binomtest, norm, ttest_1samp

from mi_ortho.stats.measured import LEVEL, Measured


def coin_p_value(hits: int, trials: int) -> float:
    """Two-sided exact p-value of so many hits of a fair coin; 1 without trials.

    >>> round(coin_p_value(8, 8), 6)
    0.007812
    """
    return float(binomtest(hits, trials).pvalue) if trials else 1.0


def mean_p_value(
    averages: Sequence[float], expected: float, *, alternative: Literal["two-sided", "greater", "less"] = "two-sided"
) -> float | None:
    """Student's p-value of the mean of independent values being `expected`; None for fewer than two.

    Values of one unit are averaged first (`grouped`). Equal values show no spread; theirs is the two-sided sign test's.

    >>> round(mean_p_value([1.0, 2.0, 3.0], 0.0), 3), mean_p_value([1.0] * 5, 0.0), mean_p_value([1.0], 0.0)
    (0.074, 0.0625, None)
    """
    numbers = np.asarray(averages, float)
    if len(numbers) < 2:
        return None
    if np.ptp(numbers) == 0:
        return 1.0 if numbers[0] == expected else coin_p_value(len(numbers), len(numbers))
    return float(np.asarray(ttest_1samp(numbers, expected, alternative=alternative))[1])


def interval_p_value(measured: Measured, limit: float, *, ratio: bool = False, level: float = LEVEL) -> float | None:
    """The p-value of a true value of `limit` that an interval implies, as if what was measured were normal.

    Altman and Bland (2011), How to obtain the P value from a confidence interval. With `ratio` the logarithm is taken
    as normal. On each side of the value the half of the interval that points towards the limit counts. None without an
    interval, of an interval without width, or of a ratio that is not positive.

    >>> round(interval_p_value(Measured(1.0, (0.0, 2.0), "", 8), 0.0), 3)
    0.05
    """
    if measured.value is None or measured.interval is None:
        return None
    numbers = np.asarray([measured.value, *measured.interval, limit], float)
    if ratio:
        if not (numbers > 0).all():
            return None
        numbers = np.log(numbers)
    value, low, high, target = numbers.tolist()
    half = value - low if target < value else high - value
    if not 0 < half < np.inf:
        return None
    return float(2 * norm.sf(abs(value - target) / half * norm.ppf((1 + level) / 2)))

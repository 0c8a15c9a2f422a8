"""Checks of instruments that recur: a number is read only where they are passed.

Each makes a `Gate`; a verdict or a decision that is given one that was not passed is invalid and names it.
"""

import math
from collections.abc import Sequence

import numpy as np

from mi_ortho.stats.measured import LEAST, LEAST_EQUAL, Measured
from mi_ortho.stats.outcomes import Gate

UNSPECIFIC = 0.2  # of the base's effect: more under random vectors of its norm, and the effect is not the behaviour's
AT_END = 0.5  # share of the values at an end of the scale
RELIABLE = 0.7  # correlation of a ruler with itself


def specific(random: Sequence[float], base: float, *, limit: float = UNSPECIFIC) -> Gate:
    """Random vectors of the same norm must have at most a fifth of the base's effect, on average.

    Args:
        random: effects of random vectors.
        base: effect of the base vector, positive.
        limit: share of it.

    >>> specific([0.78, 0.8, 0.76], 1.0).passed
    False
    """
    value = float(np.mean(random)) / base if len(random) and base > 0 else None
    return _at_most("effect of random vectors over that of the base", value, limit)


def below_ceiling(values: Sequence[float], ceiling: float, *, limit: float = AT_END) -> Gate:
    """At most half of the values may lie at the largest value that could have been measured.

    >>> below_ceiling([24.0, 24.0, 23.0], 24.0).passed
    False
    """
    return _at_most("share of the values at the ceiling", _share([each >= ceiling for each in values]), limit)


def above_floor(values: Sequence[float], floor: float, *, limit: float = AT_END) -> Gate:
    """At most half of the values may lie at (or below) the smallest that tells anything, as a count of 0 or 1.

    >>> above_floor([0.0, 1.0, 1.0, 0.0], 1.0).passed
    False
    """
    return _at_most("share of the values at the floor", _share([each <= floor for each in values]), limit)


def reliable(correlation: float | None, *, limit: float = RELIABLE) -> Gate:
    """A ruler must agree with itself: its correlation between halves, readers or repetitions.

    >>> reliable(0.4).text
    'reliability of the ruler: 0.4, must be at least 0.7'
    """
    return _at_least("reliability of the ruler", correlation, limit)


def reachable(reached: float | None, *, limit: float) -> Gate:
    """A target must be reachable: what the vector it was made of reaches of it, in the unit of the limit.

    >>> reachable(0.1, limit=0.5).passed
    False
    """
    return _at_least("what is reached of the target by its own vector", reached, limit)


def enough(n: int, *, limit: int = LEAST) -> Gate:
    """There must be so many independent values.

    >>> enough(2).passed
    False
    """
    return _at_least("independent values", float(n), float(limit))


def has_width(measured: Measured) -> Gate:
    """An interval of fewer than twenty sampled values must have a width: equal values show no spread.

    >>> has_width(Measured(1.0, (1.0, 1.0), "", 2)).passed
    False
    """
    low, high = measured.interval or (math.nan, math.nan)
    needed = LEAST_EQUAL if low == high and measured.n is not None else 0
    return _at_least("values behind an interval without width", float(measured.n or 0), float(needed))


def matched_displacement(value: float, control: float, *, limit: float = 1.25) -> Gate:
    """Vectors and controls must displace the activations equally far, up to a factor.

    Args:
        value, control: mean ‖Δz‖ under the vectors and under the controls, positive.
        limit: the factor.

    >>> matched_displacement(123.0, 48.0).passed
    False
    """
    ratio = max(value / control, control / value) if value > 0 and control > 0 else None
    return _at_most("factor between the displacements of vectors and controls", ratio, limit)


def chosen_by_nothing(works: Sequence[bool]) -> Gate:
    """Vectors whose signs are compared must not have been chosen by working: some of them must not work.

    Among vectors that were kept because they work, any effect looks as if it depended on the sign. Where truly every
    one works, negated vectors are compared with those of a matched control instead.

    >>> chosen_by_nothing([True] * 8).passed
    False
    """
    share = _share(list(works))
    passed = share is not None and share < 1
    return Gate("share of the vectors that work as they are, all tried", share, 1.0, passed)


def _share(hits: Sequence[bool]) -> float | None:
    return sum(hits) / len(hits) if hits else None


def _at_most(name: str, value: float | None, limit: float) -> Gate:
    return Gate(name, value, limit, value is not None and value <= limit, "at most")


def _at_least(name: str, value: float | None, limit: float) -> Gate:
    return Gate(name, value, limit, value is not None and value >= limit, "at least")

"""A measured number with its interval, the scales numbers live on, and the limits below which nothing is decided."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

Interval = tuple[float, float]
Scale = tuple[float, float]
REAL_SCALE: Scale = (-math.inf, math.inf)
POSITIVE_SCALE: Scale = (0.0, math.inf)
UNIT_SCALE: Scale = (0.0, 1.0)
SIGNED_SCALE: Scale = (-1.0, 1.0)  # of correlations and of differences of shares too

LEVEL = 0.95  # of every interval but those of equivalence
ERROR = 0.05  # of every test, and of a family of tests
LEAST = 3  # values below which nothing is decided from a mean: two lie on one side of anything half of the time
BOOTSTRAPPED = 6  # values from which a mean is bootstrapped: of fewer the resampled means cover less than 90 %
LEAST_EQUAL = 20  # equal values below which an interval without width decides nothing


@dataclass(frozen=True)
class Measured:
    """A number with the interval that other samples could have given.

    Attributes:
        value: None where nothing was measured.
        interval: its 95 % interval, of equivalence its 90 % interval; an end is infinite where the data do not bound
            it; None where one number has no spread that could be told.
        kind: of the interval, in words.
        n: independent values it stands on; None where they are not counted.
        unit: what the n are (a name of `UNITS`), where that was told.
        censored: how many of the values are only known to be at least so large.
    """

    value: float | None
    interval: Interval | None
    kind: str
    n: int | None = None
    unit: str = ""
    censored: int = 0


def exactly(value: float) -> Measured:
    """A number that was computed and not sampled: other samples would give the same."""
    return Measured(value, (value, value), "exact number")


def average(values: Iterable[float | None]) -> float | None:
    """The arithmetic mean of the values that are not missing; None if all are.

    >>> average([1.0, None, 2.0]), average([None])
    (1.5, None)
    """
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None


def percent(share: float) -> str:
    """A share in words.

    >>> percent(0.256)
    '26 %'
    """
    return f"{100 * share:.0f} %"


def in_words(measured: Measured, digits: int = 2) -> str:
    """Value, interval and what it stands on: what a sentence says, whatever the outcome is.

    >>> in_words(Measured(1.349, (1.17, 1.57), "bootstrap", 6, "base"))
    '1.35 [1.17, 1.57], n = 6'
    >>> in_words(Measured(4.0, (2.0, math.inf), "median", 8, "base", 5))
    '4.00, at least 2.00, n = 8, 5 of them censored'
    """
    if measured.value is None and measured.interval is None:
        return "not measured"
    text = "" if measured.value is None else f"{measured.value:.{digits}f}"
    low, high = measured.interval or (math.nan, math.nan)
    if math.isfinite(low + high):
        text += f" [{low:.{digits}f}, {high:.{digits}f}]"
    elif math.isfinite(low):
        text += f", at least {low:.{digits}f}"
    elif math.isfinite(high):
        text += f", at most {high:.{digits}f}"
    else:
        text += ", spread not known"
    count = "" if measured.n is None else f", n = {measured.n}"
    return text.removeprefix(", ") + count + (f", {measured.censored} of them censored" if measured.censored else "")

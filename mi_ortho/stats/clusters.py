"""Means over the unit of replication: values of one base, prompt or model are no independent samples of others.

Units are nested: a model has pairs of layers, a pair has behaviours, a behaviour has base vectors, a base is measured
on prompts. What varies at the highest level is what the values are samples of.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mi_ortho.stats.intervals import half_width, mean, rate
from mi_ortho.stats.measured import BOOTSTRAPPED, LEVEL, POSITIVE_SCALE, REAL_SCALE, UNIT_SCALE, Measured, Scale

UNITS = ("model", "layers", "behaviour", "base", "prompt", "sample")  # highest first; a sample is any independent draw

Units = Sequence[Mapping[str, Hashable]]
STUDENTISED = 4000  # resamplings
_PLURALS = {"layers": "pairs of layers"}


@dataclass(frozen=True)
class Grouped:
    """Values averaged inside each label of the highest unit that varies.

    Attributes:
        unit: its name; "" where none varies, and then all values are one sample.
        averages: one for each label, in order of appearance.
        one_model: whether all rows are told to be of one model.
    """

    unit: str
    averages: tuple[float, ...]
    one_model: bool

    def shown(self) -> str:
        """What was resampled, in words.

        >>> Grouped("base", (1.0, 2.0), True).shown()
        '2 bases of one model'
        """
        if not self.unit:
            return "one sample: no unit varies"
        return f"{len(self.averages)} {_PLURALS.get(self.unit, self.unit + 's')}{' of one model' * self.one_model}"


def highest_unit(units: Units) -> tuple[str, list[Hashable]]:
    """The highest of `UNITS` that has more than one label, and the label of every row; "" where none varies.

    Raises:
        ValueError: rows with different units, or with one that is not in UNITS.

    >>> highest_unit([{"model": "a", "base": 0}, {"model": "a", "base": 1}])
    ('base', [0, 1])
    """
    names = set(units[0]) if units else set()
    if any(set(each) != names for each in units) or not names <= set(UNITS):
        others = sorted({name for each in units for name in each})
        raise ValueError(f"got rows with the units {others}; expected the same of {UNITS} in each row; name them so")
    for name in UNITS:
        labels = [each[name] for each in units if name in each]
        if len(set(labels)) > 1:
            return name, labels
    return "", ["all"] * len(units)


def grouped(values: Sequence[float], units: Units) -> Grouped:
    """Values averaged inside each label of the highest unit that varies.

    Raises:
        ValueError: there must be as many units as values, and the same names in each row.

    >>> grouped([1.0, 3.0, 6.0], [{"base": k} for k in (0, 0, 1)]).averages
    (2.0, 6.0)
    """
    if len(values) != len(units):
        raise ValueError(f"got {len(values)} values and {len(units)} rows of units; expected as many; label each value")
    name, labels = highest_unit(units)
    inside: dict[Hashable, list[float]] = {}
    for label, value in zip(labels, values):
        inside.setdefault(label, []).append(float(value))
    one_model = name != "model" and bool(units) and "model" in units[0]
    return Grouped(name, tuple(float(np.mean(each)) for each in inside.values()), one_model)


def over_units(groups: Grouped, *, scale: Scale = REAL_SCALE, seed: int = 0, level: float = LEVEL) -> Measured:
    """The mean of one value for each label of a unit, with its interval (see `by_unit`)."""
    averages = list(groups.averages)
    if scale == UNIT_SCALE and averages and set(averages) <= {0.0, 1.0}:
        measured = rate(int(sum(averages)), len(averages), level=level)
    else:
        measured = mean(averages, scale=scale, seed=seed, level=level)
    if not groups.unit:
        return Measured(measured.value, None, groups.shown(), len(averages))
    kind, ends = f"{measured.kind} over {groups.shown()}", measured.interval
    if scale == POSITIVE_SCALE and ends and ends[0] < ends[1]:
        kind, ends = f"{kind}, upper end of a lognormal", (ends[0], max(ends[1], _lognormal_upper(averages, level)))
    measured = Measured(measured.value, ends, kind, len(averages), groups.unit)
    return studentised(measured, averages, scale=scale, seed=seed, level=level) if scale == REAL_SCALE else measured


def studentised(
    measured: Measured, averages: Sequence[float], *, scale: Scale, seed: int = 0, level: float = LEVEL
) -> Measured:
    """A mean whose interval reaches at least as far as the studentised bootstrap of its values does (Efron 1981).

    That one follows a skewed distribution to its long side, where other intervals of a few values end too early; it
    needs six values, and of fewer, or of equal ones, nothing changes.
    """
    numbers, n = np.asarray(averages), len(averages)
    if measured.interval is None or n < BOOTSTRAPPED or np.ptp(numbers) == 0:
        return measured
    draws = numbers[np.random.default_rng(seed).integers(0, n, (min(STUDENTISED, max(1000, 2_000_000 // n)), n))]
    errors = draws.std(1, ddof=1) / math.sqrt(n)
    spread = errors > 1e-9 * float(np.ptp(numbers))  # one value drawn n times has none
    steps = (draws.mean(1)[spread] - numbers.mean()) / errors[spread]
    low, high = np.quantile(steps, [(1 - level) / 2, (1 + level) / 2]) * float(numbers.std(ddof=1)) / math.sqrt(n)
    centre = float(numbers.mean())
    ends = min(measured.interval[0], centre - float(high)), max(measured.interval[1], centre - float(low))
    ends = max(ends[0], scale[0]), min(ends[1], scale[1])
    return Measured(measured.value, ends, f"{measured.kind}, or studentised", measured.n, measured.unit)


def _lognormal_upper(averages: Sequence[float], level: float) -> float:
    """The upper end of the mean of lognormal values by Cox's method (Zhou and Gao 1997) with Student's t.

    A few values of a skewed distribution hardly ever hold its long tail, and then neither Student's t nor a bootstrap
    reaches its mean. Of values that are close to each other it is about Student's t.
    """
    least = min(each for each in averages if each > 0) / 2  # stands for a zero
    n, logs = len(averages), np.log([max(each, least) for each in averages])
    variance = float(logs.var(ddof=1))
    error = math.sqrt(variance / n + variance**2 / (2 * (n - 1)))
    return math.exp(min(float(logs.mean()) + variance / 2 + half_width(error, n, level), 700.0))


def by_unit(
    values: Sequence[float], units: Units, *, scale: Scale = REAL_SCALE, seed: int = 0, level: float = LEVEL
) -> Measured:
    """The mean over the highest unit that varies, every label counting the same, with its cluster bootstrap.

    Values are averaged inside each label of that unit, and the labels are resampled (Field and Welsh 2007). With one
    model the n are counted within it, and the kind says so: the interval tells of other bases, not of other models.
    What lies across the labels, the same prompts under every base, is taken as given. Rows that differ in no unit are
    one sample. One 0 or 1 for each label is a rate, whose interval is exact. On a scale from 0 without an upper end the
    upper end of the interval is at least that of a lognormal distribution; without any end it is at least the
    studentised bootstrap's. Strongly skewed values without a scale are covered less than 90 % of the time by fewer
    than six labels: give them a scale, or compare logarithms.

    Args:
        values: one for each row.
        units: for each row its label in every unit that was told.
        scale: the smallest and largest value possible.
        seed: of the resampling.
        level: share of the samples whose interval holds the mean.

    Raises:
        ValueError: see `grouped`.

    >>> by_unit([1.0, 3.0, 6.0, 5.0], [{"model": "a", "base": k} for k in (0, 0, 1, 2)]).kind
    'Student t over 3 bases of one model'
    """
    return over_units(grouped(values, units), scale=scale, seed=seed, level=level)


def matched(values: Sequence[float], controls: Sequence[float]) -> list[float]:
    """Value minus control, row by row."""
    if len(values) != len(controls):
        raise ValueError(f"got {len(values)} values and {len(controls)} controls; expected pairs; match them first")
    return [float(value) - float(control) for value, control in zip(values, controls)]


def label_each(units: Units | None, count: int) -> Units:
    """The units that were told, or every row a unit of its own."""
    return [{"sample": k} for k in range(count)] if units is None else units


def doubled(scale: Scale) -> Scale:
    """The scale of differences of two values of a scale."""
    return scale[0] - scale[1], scale[1] - scale[0]

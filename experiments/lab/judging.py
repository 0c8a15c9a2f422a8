"""From repeated measurements to a verdict: a mean with its interval against a threshold fixed before the run."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from mi_ortho import Verdict
from mi_ortho.studies.family.verdicts import decide, mean_interval, numbers

Row = Mapping[str, Any]


def of(rows: Sequence[Row], **wanted: object) -> list[Row]:
    """The rows with these values."""
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def column(rows: Sequence[Row], name: str) -> list[float]:
    """One column as floats, missing values left out."""
    return numbers(rows, name)


def interval_of(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean by Student's t; None for fewer than two values."""
    return mean_interval(values)[1] if values else None


def at_least(
    claim: str, prediction: str, statistic: str, values: Sequence[float], threshold: float, control: Sequence[float]
) -> Verdict:
    """Supported where the whole interval of the mean reaches the threshold, refuted where none of it does."""
    value, interval = mean_interval(values) if values else (None, None)
    supported = None if value is None else decide(value, interval, threshold)
    return Verdict(claim, prediction, statistic, value, interval, threshold, _mean(control), supported)


def at_most(
    claim: str, prediction: str, statistic: str, values: Sequence[float], threshold: float, control: Sequence[float]
) -> Verdict:
    """Supported where the whole interval of the mean stays at or below the threshold, refuted where all is above."""
    value, interval = mean_interval(values) if values else (None, None)
    supported = None
    if value is not None and interval is not None:
        supported = True if interval[1] <= threshold else False if interval[0] > threshold else None
    return Verdict(claim, prediction, statistic, value, interval, threshold, _mean(control), supported)


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None

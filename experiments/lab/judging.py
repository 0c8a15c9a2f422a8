"""From repeated measurements to a verdict: a mean with its interval against a threshold fixed before the run."""

from collections.abc import Hashable, Mapping, Sequence
from statistics import fmean
from typing import Any

from mi_ortho import Verdict
from mi_ortho.runs import numbers
from mi_ortho.stats import REAL_SCALE, Interval, Scale, decide, judge, mean

Row = Mapping[str, Any]


def column(rows: Sequence[Row], name: str) -> list[float]:
    """One column as floats, missing values left out."""
    return numbers(rows, name)


def interval_of(values: Sequence[float]) -> Interval | None:
    """95 % interval of the mean; None for fewer than two values."""
    return mean(values).interval


def at_least(
    claim: str,
    prediction: str,
    statistic: str,
    values: Sequence[float],
    threshold: float,
    control: Sequence[float],
    *,
    scale: Scale = REAL_SCALE,
    clusters: Sequence[Hashable] | None = None,
    failed: str = "",
) -> Verdict:
    """Supported where the whole interval of the mean reaches the threshold, not supported where none of it does.

    Args:
        claim, prediction, statistic: in words.
        values: one for each independent sample, or with `clusters` several.
        threshold: fixed before the run.
        control: the same statistic where the claim should not hold.
        scale: the smallest and largest possible value.
        clusters: which sample each value belongs to: values of one prompt or split are not independent.
        failed: the instrument that failed its check, which makes the outcome invalid.
    """
    measured = mean(values, scale=scale, clusters=clusters)
    decision = decide(measured, threshold, failed=failed)
    return judge(claim, prediction, statistic, measured, threshold, _mean(control), decision)


def at_most(
    claim: str,
    prediction: str,
    statistic: str,
    values: Sequence[float],
    threshold: float,
    control: Sequence[float],
    *,
    scale: Scale = REAL_SCALE,
    clusters: Sequence[Hashable] | None = None,
    failed: str = "",
) -> Verdict:
    """`at_least` on the other side: the whole interval of the mean must stay at or below the threshold."""
    measured = mean(values, scale=scale, clusters=clusters)
    decision = decide(measured, threshold, side="at most", failed=failed)
    return judge(claim, prediction, statistic, measured, threshold, _mean(control), decision)


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None

"""Calibration with many runs: every interval and decision of `stats` on planted samples, printed as a table.

`pytest -m slow -s tests/test_stats_calibration.py` prints it: coverage of 95 % intervals, and rates of wrong decisions.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
from planted import allowed, counts, coverage, generators
from test_stats_equivalence import AT_THE_MARGIN
from test_stats_units import CLUSTERED, NULLS, PROMPTS, nested

from mi_ortho.stats import (
    UNIT_SCALE,
    Measured,
    against_control,
    by_unit,
    decide,
    fitted_count,
    median_count,
    paired_count_ratio,
    paired_difference,
    paired_ratio,
)

RUNS = 1000
Drawn = Callable[[np.random.Generator, int], Measured]


def lognormal(random: np.random.Generator, n: int, limit: float, times: float = 1.0) -> list[float]:
    return np.minimum(20 * times * random.lognormal(0, 0.8, n), limit).tolist()


def clustered(name: str) -> Drawn:
    draw, _, scale = CLUSTERED[name]
    return lambda random, n: by_unit(draw(random, n, PROMPTS).ravel().tolist(), nested(n, PROMPTS), scale=scale)


def ratio(limit: float) -> Drawn:
    return lambda random, n: paired_count_ratio(
        counts(lognormal(random, n, limit, 1.5), limit), counts(lognormal(random, n, limit), limit)
    )


INTERVALS: dict[str, tuple[Drawn, float, tuple[int, ...]]] = {
    **{f"by_unit, {name}": (clustered(name), CLUSTERED[name][1], (3, 4, 6, 12)) for name in CLUSTERED},
    "paired_difference of shares": (
        lambda random, n: paired_difference(
            random.beta(5, 1, n).tolist(), random.beta(1, 2, n).tolist(), scale=UNIT_SCALE
        ),
        0.5,
        (3, 4, 6, 12),
    ),
    "paired_ratio of lognormals": (
        lambda random, n: paired_ratio(lognormal(random, n, math.inf, 1.5), lognormal(random, n, math.inf)),
        1.5,
        (3, 4, 6, 12),
    ),
    **{
        f"{kind.__name__}, limit {limit:g}": (
            lambda random, n, kind=kind, limit=limit: kind(counts(lognormal(random, n, limit), limit)),
            20.0,
            (4, 6, 12),
        )
        for kind in (median_count, fitted_count)
        for limit in (24.0, 60.0, 1e9)
    },
    **{f"paired_count_ratio, limit {limit:g}": (ratio(limit), 1.5, (6, 12)) for limit in (24.0, 60.0, 1e9)},
}


def open_where_unknown(measured: Measured) -> Measured:
    return Measured(measured.value, measured.interval or (-math.inf, math.inf), measured.kind)


@pytest.mark.slow
@pytest.mark.parametrize("name", INTERVALS)
def test_intervals_cover(name: str) -> None:
    draw, truth, sizes = INTERVALS[name]
    shares = {n: coverage(lambda random, n=n: open_where_unknown(draw(random, n)), truth, RUNS) for n in sizes}
    print(f"\n{name}: " + ", ".join(f"n = {n}: {share:.3f}" for n, share in shares.items()))
    assert min(shares.values()) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", AT_THE_MARGIN)
def test_absence_at_the_margin(name: str) -> None:
    for n in (6, 12, 24):
        answers = [AT_THE_MARGIN[name](random, n).decision.supported for random in generators(RUNS)]
        print(f"\n{name}, n = {n}: shown {answers.count(True) / RUNS:.3f}, refuted {answers.count(False) / RUNS:.3f}")
        assert answers.count(True) <= allowed(RUNS) and answers.count(False) <= allowed(RUNS)


@pytest.mark.slow
@pytest.mark.parametrize("name", NULLS)
def test_values_like_their_controls(name: str) -> None:
    draw, _, scale = NULLS[name]
    for n in (3, 4, 6, 12):
        pairs = [(draw(random, n).tolist(), draw(random, n).tolist()) for random in generators(RUNS)]
        answers = [against_control("", "", "", *pair, scale=scale).supported for pair in pairs]
        print(f"\n{name}, n = {n}: above {answers.count(True) / RUNS:.3f}, below {answers.count(False) / RUNS:.3f}")
        assert answers.count(True) + answers.count(False) <= allowed(RUNS)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [12.0, 24.0, 1e9])
def test_equal_counts_do_not_differ(limit: float) -> None:
    for n in (6, 12):
        wrong = 0
        for random in generators(RUNS):
            sides = (counts(np.minimum(random.poisson(8 * random.lognormal(0, 0.5, n)), limit), limit) for _ in "ab")
            measured = paired_count_ratio(*sides)
            wrong += decide(measured, 1.0001).supported is True
            wrong += decide(measured, 0.9999, side="at most").supported is True
        print(f"\nequal counts, limit {limit:g}, n = {n}: {wrong / RUNS:.3f}")
        assert wrong <= allowed(RUNS)

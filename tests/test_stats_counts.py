"""Counts that a search's end cut off: intervals cover, and neither a ceiling nor a floor decides."""

import math

import numpy as np
import pytest
from planted import allowed, counts, coverage, generators

from mi_ortho.stats import (
    Count,
    above_floor,
    below_ceiling,
    by_unit,
    decide,
    fitted_count,
    judge,
    mean,
    mean_count,
    median_count,
    outcome,
    paired_count_ratio,
    searched,
)

LIMITS = (24.0, 60.0, 1e9)  # half of the counts below are censored, a tenth, none
TYPICAL, SPREAD = 20.0, 0.8


def drawn(random: np.random.Generator, n: int, limit: float, times: float = 1.0) -> list[Count]:
    return counts(times * TYPICAL * random.lognormal(0, SPREAD, n), limit)


@pytest.mark.parametrize("limit", LIMITS)
def test_intervals_of_a_median_cover_with_and_without_censoring(limit: float) -> None:
    assert coverage(lambda random: median_count(drawn(random, 6, limit)), TYPICAL) >= 0.9
    assert coverage(lambda random: median_count(drawn(random, 12, limit)), TYPICAL) >= 0.9
    whole = [median_count(drawn(random, 20, limit)).value or math.inf for random in generators(50)]
    assert np.median(whole) == pytest.approx(TYPICAL, rel=0.2)


@pytest.mark.parametrize(("limit", "n"), [(24.0, 5), (1e9, 4)])
def test_the_fitted_lognormal_covers_its_median(limit: float, n: int) -> None:
    measured = [fitted_count(drawn(random, n, limit)) for random in generators()]
    ends = np.array([each.interval or (0.0, math.inf) for each in measured])
    assert np.mean((ends[:, 0] <= TYPICAL) & (ends[:, 1] >= TYPICAL)) >= 0.9
    assert all(each.value is None for each in measured if each.interval is None)


def test_the_fitted_lognormal_of_other_counts() -> None:
    """Gamma distributed counts, and whole numbers; without censoring it is Student's t of the logarithms."""
    assert coverage(lambda random: fitted_count(counts(random.gamma(2, 10, 6), 60)), 16.78) >= 0.9
    rounded = [np.rint(10 * random.lognormal(0, 0.8, 6)) for random in generators()]
    ends = np.array([fitted_count(counts(each, 1e9)).interval or (0, math.inf) for each in rounded])
    assert np.mean((ends[:, 0] <= 10) & (ends[:, 1] >= 10)) >= 0.9
    values = [8.0, 12.0, 17.0, 21.0, 30.0]
    exact = mean(np.log(values).tolist())
    assert exact.interval is not None
    assert fitted_count(counts(values, 1e9)).interval == pytest.approx(np.exp(exact.interval), rel=0.02)


@pytest.mark.parametrize("limit", LIMITS)
def test_the_interval_of_a_ratio_covers_whatever_is_censored(limit: float) -> None:
    assert coverage(lambda r: paired_count_ratio(drawn(r, 9, limit, 1.5), drawn(r, 9, limit)), 1.5) >= 0.9


@pytest.mark.parametrize("limit", LIMITS)
def test_equal_counts_hardly_ever_differ(limit: float) -> None:
    """Whole numbers, zeros and ties included, of bases that vary: the same on both sides."""
    wrong = 0
    for random in generators():
        values, controls = (counts(random.poisson(8 * random.lognormal(0, 0.5, 10)), limit) for _ in range(2))
        ratio = paired_count_ratio(values, controls)
        wrong += decide(ratio, 1.0001, side="at least").supported is True
        wrong += decide(ratio, 0.9999, side="at most").supported is True
    assert wrong <= allowed()


def test_pairs_of_one_base_are_one_sample() -> None:
    def draw(random: np.random.Generator) -> tuple[list[Count], list[Count]]:
        shifts = random.normal(0, 1, 8).repeat(5)
        return counts(20 * np.exp(shifts + 0.1 * random.normal(0, 1, 40)), 1e9), counts([20.0] * 40, 1e9)

    units = [{"base": base} for base in range(8) for _ in range(5)]
    assert coverage(lambda random: paired_count_ratio(*draw(random), units=units), 1.0) >= 0.9
    assert coverage(lambda random: paired_count_ratio(*draw(random)), 1.0, runs=50) < 0.75
    ratio = paired_count_ratio(*draw(np.random.default_rng(0)), units=units)
    assert (ratio.n, ratio.unit, ratio.censored) == (8, "base", 0)


# --- what must not decide


CEILING = ([24] * 8 + [21, 20, 20, 18, 18, 16.2], [24] * 11 + [20, 21, 19.8])  # 21.8 against 23.2 of 24 searched


@pytest.mark.parametrize("threshold", [0.5, 0.9, 1.0, 1.1, 2.0])
def test_a_ceiling_at_the_limit_of_the_search_decides_nothing(threshold: float) -> None:
    values, controls = (counts(each, 24) for each in CEILING)
    ratio = paired_count_ratio(values, controls)
    assert np.mean(CEILING[0]) == pytest.approx(21.8) and np.mean(CEILING[1]) == pytest.approx(23.2)
    assert (ratio.value, ratio.interval, ratio.censored) == (None, (0.0, math.inf), 11)
    assert decide(ratio, threshold, side="at least").outcome == "undecided"
    assert decide(ratio, threshold, side="at most").outcome == "undecided"
    for side in (values, controls):
        assert decide(median_count(side), 23.0, side="at most").supported is None
        assert "of 14 counts are censored, so their mean is not known" in decide(mean_count(side), 20.0).why
        gate = below_ceiling([count.value for count in side], 24)
        assert not gate.passed
        verdict = judge("", "", "", ratio, 1.0, None, decide(ratio, threshold), gates=[gate])
        assert verdict.outcome == "invalid" and "ceiling: 0." in verdict.failed and verdict.censored == 11


def test_searches_that_ended_decide() -> None:
    """Followed until a family ended, a random base has more: 106 against 58."""
    random = np.random.default_rng(0)
    values, controls = (counts(size * random.lognormal(0, 0.1, 8), 112 + 40) for size in (58, 106))
    ratio = paired_count_ratio(values, controls)
    assert ratio.value == pytest.approx(58 / 106, rel=0.2) and decide(ratio, 1.0).outcome == "not supported"
    assert decide(ratio, 1.0, side="at most").outcome == "supported"


def test_one_censored_side_bounds_the_ratio_on_one_side() -> None:
    full, ended = counts([24] * 8, 24), counts([6, 7, 5, 8, 6, 7, 4, 8], 24)
    more, less = paired_count_ratio(full, ended), paired_count_ratio(ended, full)
    assert more.interval == pytest.approx((3.0, math.inf)) and less.interval == pytest.approx((0.0, 1 / 3))
    assert decide(more, 2.0).outcome == "supported", "at least three times as many"
    assert decide(more, 3.5).outcome == "undecided" and decide(less, 0.5, side="at most").outcome == "supported"


@pytest.mark.parametrize("threshold", [0.5, 1.0, 2.0])
def test_a_floor_decides_nothing(threshold: float) -> None:
    """.25 against .83 of 16 vectors: a handful of zeros and ones."""
    values = counts([0, 0, 1, 0, 0, 0, 1, 0, 0, 1, 0, 0], 16)
    controls = counts([1, 0, 2, 0, 1, 1, 0, 3, 0, 1, 1, 0], 16)
    assert mean_count(values).value == 0.25 and mean_count(controls).value == pytest.approx(0.83, abs=0.01)
    ratio = paired_count_ratio(values, controls)
    assert {decide(ratio, threshold, side=side).outcome for side in ("at least", "at most")} == {"undecided"}
    gate = above_floor([count.value for count in controls], 1.0)
    assert decide(ratio, threshold, gates=[gate]).outcome == "invalid" and not gate.passed


def test_a_censored_count_is_no_number() -> None:
    cut = Count(24, True)
    with pytest.raises(ValueError, match="got a count of at least 24 as a number; expected one that ended"):
        float(cut)
    for function in (mean, lambda values: by_unit(values, [{"base": k} for k in range(3)])):
        with pytest.raises(Exception, match="values"):
            function([cut, cut, cut])  # pyright: ignore[reportArgumentType]
    assert outcome({"supported": decide(mean_count([cut] * 30), 5.0).supported}) == "undecided"
    assert mean_count(counts([3, 5, 4], 24)).value == 4.0
    assert fitted_count([cut] * 9).interval is None and fitted_count(counts([5, 5, 5, 24], 24)).interval is None
    assert median_count([cut] * 9).value is None and median_count([cut] * 9).interval == (24.0, math.inf)
    assert decide(median_count([cut] * 9), 20.0).supported is True, "at least 24 is more than 20"
    assert median_count([]).interval is None and median_count(counts([1, 2, 3], 9)).interval == (0.0, math.inf)


def test_counts_that_cannot_be_are_refused() -> None:
    for call, message in (
        (lambda: Count(-1, False), "got a count of -1"),
        (lambda: searched(30, 24), "got 30 of 24 searched"),
        (lambda: paired_count_ratio([], []), "got 0 counts and 0 controls"),
    ):
        with pytest.raises(ValueError, match=message):
            call()

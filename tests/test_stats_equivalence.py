"""Absence is shown seldom where it is not there; corrections hold over families of tests."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from planted import RUNS, allowed, generators

from mi_ortho.stats import (
    UNIT_SCALE,
    Verdict,
    against_control,
    benjamini_hochberg,
    decide,
    equivalence_of_means,
    equivalence_of_rates,
    equivalence_of_ratios,
    holm,
    in_words,
    intervals,
    judge,
    paired_ratio,
)
from mi_ortho.stats.equivalence import Equivalence

Shown = Callable[[np.random.Generator, int], Equivalence]


@pytest.fixture(autouse=True)
def fewer_resamplings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLINGS", 1000)
    monkeypatch.setattr("mi_ortho.stats.clusters.STUDENTISED", 1000)
    monkeypatch.setattr("gc.collect", lambda: 0)  # which statsmodels calls in every correction


def near(values: np.ndarray, margin: float) -> Equivalence:
    return equivalence_of_means(values.tolist(), margin=margin)


def hits(random: np.random.Generator, n: int, share: float) -> list[float]:
    return (random.random(n) < share).astype(float).tolist()


AT_THE_MARGIN: dict[str, Shown] = {  # the true difference is the margin: absence must not be shown, nor refuted
    "normal": lambda random, n: near(random.normal(0.5, 0.3, n), 0.5),
    "skewed upwards": lambda random, n: near(random.exponential(1, n) - 0.5, 0.5),
    "skewed downwards": lambda random, n: near(0.5 - random.exponential(1, n), 0.5),
    "bounded": lambda random, n: equivalence_of_means(
        random.beta(5, 2, n).tolist(), random.beta(2, 5, n).tolist(), margin=3 / 7, scale=UNIT_SCALE
    ),
    "hits": lambda random, n: equivalence_of_means(
        hits(random, n, 0.7), hits(random, n, 0.5), margin=0.2, scale=UNIT_SCALE
    ),
    "ratios": lambda random, n: equivalence_of_ratios(
        random.lognormal(math.log(1.25), 0.2, n).tolist(), [1.0] * n, margin=1.25
    ),
    "rates": lambda random, n: equivalence_of_rates(
        int(random.binomial(10 * n, 0.6)), 10 * n, int(random.binomial(10 * n, 0.5)), 10 * n, margin=0.1
    ),
}


@pytest.mark.parametrize("name", AT_THE_MARGIN)
def test_absence_is_hardly_ever_shown_at_the_margin(name: str) -> None:
    supported = [AT_THE_MARGIN[name](random, 6).decision.supported for random in generators()]
    assert supported.count(True) <= allowed() and supported.count(False) <= allowed()


def test_the_interval_of_an_equivalence_covers_at_ninety_percent() -> None:
    truths = {"skewed upwards": 0.5, "rates": 0.1}
    covered = dict.fromkeys(truths, 0)
    for name, truth in truths.items():
        for random in generators():
            low, high = AT_THE_MARGIN[name](random, 8).measured.interval or (math.nan, math.nan)
            covered[name] += low <= truth <= high
    assert min(covered.values()) >= 0.9 * RUNS - 9, covered  # two standard errors of a share of 0.9


def test_absence_that_is_there_is_shown() -> None:
    assert np.mean([near(r.normal(0, 0.2, 8), 0.5).decision.supported is True for r in generators(50)]) > 0.9
    shown = equivalence_of_rates(100, 200, 101, 200, margin=0.15)
    assert shown.decision.supported and (shown.decision.p_value or 1) < 0.01
    apart = near(np.array([1.0, 1.1, 0.9, 1.2, 1.0, 0.95]), 0.5).decision
    assert apart.supported is False and (apart.p_value or 1) < 0.01


def test_no_twice_as_many_is_no_no_more() -> None:
    """1.35 [1.17, 1.57] is below 2, and yet more."""
    values = [1.20, 1.55, 1.30, 1.42, 1.10, 1.60, 1.28, 1.40]
    ratio = paired_ratio(values, [1.0] * 8)
    assert ratio.interval is not None and ratio.interval[0] > 1.1 and ratio.interval[1] < 1.6
    assert decide(ratio, 2.0).outcome == "not supported"
    absence = equivalence_of_ratios(values, [1.0] * 8, margin=1.25)
    assert absence.decision.outcome == "undecided"
    assert in_words(ratio).startswith("1.35 [1.") and in_words(absence.measured).startswith("1.35 [1.")
    assert equivalence_of_ratios(values, [1.0] * 8, margin=1.1).decision.outcome == "not supported"


def test_few_or_equal_values_show_no_absence() -> None:
    assert near(np.zeros(5), 0.1).decision.outcome == "undecided"
    assert near(np.zeros(19), 0.1).decision.outcome == "undecided"
    assert near(np.array([0.01, -0.01, 0.0, 0.01, 0.0]), 0.5).decision.why == "5 values; absence needs 6"
    assert near(np.array([]), 0.1).decision.outcome == "undecided"


def test_margins_and_counts_that_say_nothing_are_refused() -> None:
    for call, message in (
        (lambda: near(np.zeros(6), 0.0), "got the margin 0.0"),
        (lambda: equivalence_of_ratios([1.0], [1.0], margin=1.0), "expected one above 1"),
        (lambda: equivalence_of_ratios([0.0], [1.0], margin=2.0), "not positive"),
        (lambda: equivalence_of_rates(3, 2, 0, 2, margin=0.1), "got 3 hits in 2 trials"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# --- families of tests


def standing_on(p_values: np.ndarray) -> list[Verdict]:
    """Verdicts that each stand on a p-value below 0.05."""
    return [Verdict("", "", "", 1.0, None, 0.0, None, True if p < 0.05 else None, p_value=float(p)) for p in p_values]


def test_holm_bounds_the_chance_of_any_wrong_verdict() -> None:
    families = [standing_on(random.random(8)) for random in generators(2 * RUNS)]
    wrong = sum(any(verdict.supported for verdict in holm(family)) for family in families)
    assert wrong <= allowed(2 * RUNS)
    assert sum(any(verdict.supported for verdict in family) for family in families) > RUNS / 2, "without it"


def test_benjamini_and_hochberg_bound_the_share_of_wrong_verdicts() -> None:
    shares, kept = [], 0
    for random in generators():
        p_values = np.concatenate([random.random(15), random.beta(0.02, 1, 5)])  # five effects, fifteen nulls
        supported = [verdict.supported is True for verdict in benjamini_hochberg(standing_on(p_values))]
        shares.append(sum(supported[:15]) / max(1, sum(supported)))
        kept += sum(supported[15:])
    assert np.mean(shares) <= 0.05 + 2 * np.std(shares) / RUNS**0.5 and kept > 4 * RUNS


def test_a_verdict_that_a_correction_takes_back_says_so() -> None:
    verdicts = standing_on(np.array([0.001, 0.03, 0.2]))
    without = Verdict("", "", "", 1.0, None, 0.0, None, True)
    first, second, third, last = holm([*verdicts, without])
    assert first.supported and first.p_adjusted == pytest.approx(0.003) and last is without
    assert second.outcome == "undecided" and second.p_adjusted == pytest.approx(0.06)
    assert second.why == "p = 0.03 is 0.06 after correction (Holm, 3 tests), above 0.05"
    assert third.outcome == "undecided" and third.why == "" and third.p_adjusted == pytest.approx(0.2)
    assert benjamini_hochberg(verdicts)[1].supported is True, "0.045"
    assert holm([without]) == [without] and holm([]) == []
    refuted = against_control("", "", "", [0.0, 0.1, 0.3], [0.9, 0.5, 1.6])
    assert refuted.p_value is not None and holm([refuted, *verdicts])[0].outcome == "undecided"
    with pytest.raises(ValueError, match="got the error rate 5"):
        holm(verdicts, error=5)
    shown = equivalence_of_means([0.01, -0.02, 0.0, 0.02, 0.01, -0.01], margin=0.1)
    absence = judge("", "", "", shown.measured, shown.margin, None, shown.decision)
    assert absence.p_value == shown.decision.p_value and holm([absence])[0].supported

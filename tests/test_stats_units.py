"""Intervals over the highest unit that varies, and of differences from a control, cover what they say."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from planted import RUNS, allowed, coverage, generators, nested

from mi_ortho.stats import (
    POSITIVE_SCALE,
    REAL_SCALE,
    SIGNED_SCALE,
    UNIT_SCALE,
    Scale,
    against_control,
    by_unit,
    decide,
    grouped,
    highest_unit,
    intervals,
    mean_p_value,
    paired_difference,
    paired_ratio,
)

Values = Callable[[np.random.Generator, int, int], np.ndarray]
PROMPTS = 4
CLUSTERED: dict[str, tuple[Values, float, Scale]] = {  # values of n bases on some prompts; a base shifts all of its own
    "normal": (lambda r, n, p: r.normal(0, 1, (n, 1)) + 0.3 * r.normal(0, 1, (n, p)), 0.0, REAL_SCALE),
    "heavy tails": (lambda r, n, p: r.standard_t(3, (n, 1)) + 0.3 * r.normal(0, 1, (n, p)), 0.0, REAL_SCALE),
    "rates": (lambda r, n, p: (r.random((n, p)) < r.beta(1, 3, (n, 1))).astype(float), 0.25, UNIT_SCALE),
    "correlations": (lambda r, n, p: np.tanh(r.normal(0, 1, (n, 1)) + 0.2 * r.normal(0, 1, (n, p))), 0.0, SIGNED_SCALE),
    "skewed": (lambda r, n, p: r.exponential(1, (n, 1)) * np.ones((n, p)), 1.0, POSITIVE_SCALE),
    "very skewed": (lambda r, n, p: r.lognormal(0, 1, (n, 1)) * np.ones((n, p)), math.exp(0.5), POSITIVE_SCALE),
}


@pytest.fixture(autouse=True)
def fewer_resamplings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLINGS", 1000)
    monkeypatch.setattr("mi_ortho.stats.clusters.STUDENTISED", 1000)


# --- units


@pytest.mark.parametrize("n", [3, 6])
@pytest.mark.parametrize("name", CLUSTERED)
def test_the_cluster_bootstrap_covers_the_mean_of_few_and_many_bases(name: str, n: int) -> None:
    draw, truth, scale = CLUSTERED[name]
    units = nested(n, PROMPTS)
    measured = [by_unit(draw(random, n, PROMPTS).ravel().tolist(), units, scale=scale) for random in generators()]
    ends = np.array([each.interval for each in measured])
    assert np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1])) >= 0.9
    assert ends.min() >= scale[0] and ends.max() <= scale[1]
    decided = [decide(each, truth).supported for each in measured]
    assert decided.count(True) <= allowed() and decided.count(False) <= allowed()


def test_rows_of_a_base_counted_as_independent_do_not_cover() -> None:
    draw = CLUSTERED["normal"][0]
    rows = [{"model": "one", "prompt": k} for k in range(6 * PROMPTS)]
    assert coverage(lambda random: by_unit(draw(random, 6, PROMPTS).ravel().tolist(), rows), 0.0) < 0.75


def test_what_was_resampled_is_said() -> None:
    one = by_unit([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], nested(3, 2))
    assert (one.n, one.unit, one.kind) == (3, "base", "Student t over 3 bases of one model")
    two_models = [*nested(3, 1, "a"), *nested(3, 1, "b")]
    several = by_unit([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], two_models)
    assert (several.n, several.unit, several.kind) == (2, "model", "Student t over 2 models")
    prompts = by_unit([1.0, 0.0, 1.0, 1.0], nested(1, 4), scale=UNIT_SCALE)
    assert (prompts.n, prompts.unit, prompts.kind) == (4, "prompt", "exact binomial over 4 prompts of one model")
    assert highest_unit(two_models)[0] == "model"
    splits = by_unit([0.1, 0.2, 0.3], [{"model": "a", "base": 0}] * 3)
    assert splits.interval is None and splits.n == 1 and splits.kind == "one sample: no unit varies"


def test_a_label_with_more_rows_weighs_no_more() -> None:
    rows = [{"base": 0}, {"base": 0}, {"base": 0}, {"base": 1}]
    assert by_unit([0.0, 0.0, 0.0, 1.0], rows).value == 0.5
    assert grouped([0.0, 0.0, 3.0, 1.0], rows).averages == (1.0, 1.0)


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="got 1 values and 2 rows"):
        by_unit([1.0], nested(2, 1))
    with pytest.raises(ValueError, match="expected the same of"):
        by_unit([1.0, 2.0], [{"base": 0}, {"model": 0}])
    with pytest.raises(ValueError, match="got rows with the units .'split'"):
        by_unit([1.0, 2.0], [{"split": 0}, {"split": 1}])
    with pytest.raises(ValueError, match="got 2 values and 1 controls"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="not positive"):
        paired_ratio([1.0, 0.0], [1.0, 1.0])


# --- differences


@pytest.mark.parametrize("n", [3, 6])
def test_intervals_of_differences_and_ratios_cover(n: int) -> None:
    shared = nested(n, 2)

    def shares(random: np.random.Generator) -> tuple[list[float], list[float]]:
        return random.beta(5, 1, n).tolist(), random.beta(1, 2, n).tolist()

    def hits(random: np.random.Generator) -> tuple[list[float], list[float]]:
        hard = random.random((n, 1))  # both sides fail on the same bases
        one, other = ((random.random((n, 2)) < share * hard).astype(float).ravel().tolist() for share in (0.9, 0.4))
        return one, other

    def sizes(random: np.random.Generator) -> tuple[list[float], list[float]]:
        return random.lognormal(0.5, 1, n).tolist(), random.lognormal(0, 1, n).tolist()

    assert coverage(lambda random: paired_difference(*shares(random), scale=UNIT_SCALE), 5 / 6 - 1 / 3) >= 0.9
    assert coverage(lambda random: paired_difference(*hits(random), units=shared, scale=UNIT_SCALE), 0.25) >= 0.9
    assert coverage(lambda random: paired_ratio(*sizes(random)), math.exp(0.5)) >= 0.9


NULLS: dict[str, tuple[Callable[[np.random.Generator, int], np.ndarray], float, Scale]] = {
    "normal": (lambda random, n: random.normal(1, 1, n), 0.0, REAL_SCALE),
    "near one": (lambda random, n: random.beta(5, 1, n), 0.5, UNIT_SCALE),
    "skewed": (lambda random, n: random.lognormal(0, 1, n), 0.1, POSITIVE_SCALE),
}


@pytest.mark.parametrize(("name", "n"), [("normal", 4), ("normal", 8), ("near one", 8), ("skewed", 4)])
def test_a_value_like_its_control_is_hardly_ever_beyond_it(name: str, n: int) -> None:
    draw, threshold, scale = NULLS[name]
    supported, decided = 0, 0
    for random in generators():
        values, controls = draw(random, n).tolist(), draw(random, n).tolist()
        verdict = against_control("", "", "", values, controls, scale=scale)
        supported += verdict.supported is True
        decided += verdict.supported is not None
    with_threshold = against_control("", "", "", values, controls, threshold=threshold, scale=scale)
    assert with_threshold.supported is not True
    assert supported <= allowed(error=0.025) and decided <= allowed()


def test_a_value_that_differs_from_its_control_is_seen() -> None:
    verdicts = [
        against_control("", "", "", r.beta(5, 1, 8).tolist(), r.beta(1, 5, 8).tolist(), threshold=0.5, scale=UNIT_SCALE)
        for r in generators(50)
    ]
    assert np.mean([verdict.supported is True for verdict in verdicts]) > 0.9
    verdict = verdicts[0]
    assert verdict.difference is not None and verdict.difference_interval is not None and verdict.control is not None
    assert verdict.value is not None and verdict.difference == pytest.approx(verdict.value - verdict.control)
    assert verdict.difference_interval[0] > 0 and verdict.p_value is not None and verdict.p_value < 0.05
    assert verdict.unit == "sample" and 0 < (verdict.detectable or 0) < verdict.difference


def test_thirteen_controls_on_the_side_of_their_claims_support_none() -> None:
    """Values that pass a threshold as surely as their controls do, higher than these or not."""
    for case in range(13):
        random = np.random.default_rng(case)
        controls = 0.6 + 0.1 * random.random(8)
        values = controls + (0.2 if case % 2 else 0.0) + 0.01 * random.random(8)
        verdict = against_control("", "", "", values.tolist(), controls.tolist(), threshold=0.5, scale=UNIT_SCALE)
        assert verdict.outcome == "undecided" and verdict.why == "the control is on the same side of the threshold"
        below = against_control(
            "", "", "", (1 - values).tolist(), (1 - controls).tolist(), threshold=0.5, side="at most", scale=UNIT_SCALE
        )
        assert below.outcome == "undecided"


def test_a_value_below_its_control_is_refuted_whatever_its_threshold() -> None:
    values, controls = [0.6, 0.62, 0.61, 0.63, 0.64], [0.91, 0.9, 0.93, 0.92, 0.9]
    assert against_control("", "", "", values, controls, threshold=0.5, scale=UNIT_SCALE).outcome == "not supported"
    with pytest.raises(ValueError, match="show absence by equivalence_of_means"):
        against_control("", "", "", values, controls, side="within")


def test_p_values_of_means_are_those_of_a_null() -> None:
    for n in (3, 6, 12):
        p_values = [mean_p_value(random.normal(1, 1, n).tolist(), 1.0) or 0.0 for random in generators()]
        assert sum(p_value < 0.05 for p_value in p_values) <= allowed()
    assert RUNS >= 200

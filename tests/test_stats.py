"""Intervals cover what they say, decisions err as seldom as they say, and an outcome has one wording."""

import ast
import math
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binom, mannwhitneyu, poisson
from toys import randn, rng, rotation

from mi_ortho import stats
from mi_ortho.multiplicity.response import composition_exponent, paired_sign_test
from mi_ortho.stats import (
    OUTCOMES,
    SIGNED_SCALE,
    UNIT_SCALE,
    Decision,
    Measured,
    Verdict,
    agreed,
    all_of,
    count_ratio,
    decide,
    exactly,
    intervals,
    mean,
    outcome,
    paired_rates,
    rate,
    stands,
    tally,
)
from mi_ortho.studies.family.verdicts import beyond_linear
from mi_ortho.studies.nulls.verdicts import beyond_capacity

ROOT = Path(__file__).parent.parent
RUNS = 300
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
PLANTED: dict[str, tuple[Draw, float, stats.Scale]] = {
    "uniform": (lambda random, shape: random.random(shape), 0.5, UNIT_SCALE),
    "at both ends": (lambda random, shape: random.beta(0.5, 0.5, shape), 0.5, UNIT_SCALE),
    "near one": (lambda random, shape: random.beta(5, 1, shape), 5 / 6, UNIT_SCALE),
    "quarters": (lambda random, shape: random.binomial(4, 0.7, shape) / 4, 0.7, UNIT_SCALE),
    "correlations": (lambda random, shape: np.tanh(random.normal(0, 1, shape)), 0.0, SIGNED_SCALE),
    "normal": (lambda random, shape: random.normal(2, 1, shape), 2.0, stats.REAL_SCALE),
}


@pytest.fixture(autouse=True)
def fewer_resamplings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLINGS", 4000)


# --- coverage


@pytest.mark.parametrize("n", [4, 6, 12])
@pytest.mark.parametrize("name", PLANTED)
def test_the_interval_of_a_mean_covers_it_and_stays_on_its_scale(name: str, n: int) -> None:
    draw, truth, scale = PLANTED[name]
    found = [mean(row.tolist(), scale=scale) for row in draw(np.random.default_rng(n), (RUNS, n))]
    ends = np.array([each.interval for each in found])
    assert np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1])) >= 0.9
    assert ends.min() >= scale[0] and ends.max() <= scale[1]
    decisions = [decide(each, truth) for each in found]
    assert np.mean([each.supported is True for each in decisions]) <= 0.05
    assert np.mean([each.supported is False for each in decisions]) <= 0.05


@pytest.mark.parametrize("trials", [5, 14, 40])
def test_the_interval_of_a_rate_is_exact(trials: int) -> None:
    ends = np.array([rate(hits, trials).interval for hits in range(trials + 1)])
    for truth in np.linspace(0.01, 0.99, 50):
        inside = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
        chances = binom.pmf(np.arange(trials + 1), trials, truth)
        assert chances[inside].sum() >= 0.95
        assert chances[ends[:, 0] > truth].sum() <= 0.025 + 1e-9 and chances[ends[:, 1] < truth].sum() <= 0.025 + 1e-9


@pytest.mark.parametrize("truth", [0.5, 3.0, 40.0])
def test_the_interval_of_a_count_is_exact(truth: float) -> None:
    counts = np.arange(200)
    ends = np.array([count_ratio(int(count), 1.0).interval for count in counts])
    assert poisson.pmf(counts, truth)[(ends[:, 0] <= truth) & (truth <= ends[:, 1])].sum() >= 0.95


@pytest.mark.parametrize("n", [10, 40])
@pytest.mark.parametrize("cells", [(0.25, 0.25, 0.25, 0.25), (0.1, 0.6, 0.05, 0.25), (0.02, 0.9, 0.02, 0.06)])
def test_the_interval_of_paired_rates_covers_their_difference(cells: tuple[float, ...], n: int) -> None:
    """Cells: both, only the first, only the second, neither."""
    drawn = np.random.default_rng(n).multinomial(n, cells, RUNS)
    truth, inside, wrong = cells[1] - cells[2], 0, 0
    for both, first, second, neither in drawn.tolist():
        one = [True] * (both + first) + [False] * (second + neither)
        other = [True] * both + [False] * first + [True] * second + [False] * neither
        low, high = paired_rates(one, other).interval or (math.nan, math.nan)
        inside += low <= truth <= high
        wrong += low > truth
    assert inside / RUNS >= 0.9 and wrong / RUNS <= 0.05


def test_values_of_one_cluster_are_no_independent_samples() -> None:
    random = np.random.default_rng(0)
    names = np.repeat(np.arange(10), 6).tolist()
    covered = np.zeros(2)
    for _ in range(200):
        values = (random.normal(0, 1, 10).repeat(6) + 0.2 * random.normal(0, 1, 60)).tolist()
        for k, clusters in enumerate((names, None)):
            found = mean(values, clusters=clusters)
            low, high = found.interval or (math.nan, math.nan)
            covered[k] += low <= 0 <= high
    assert covered[0] / 200 >= 0.9 and covered[1] / 200 < 0.7
    assert mean([1.0, 1.1, 2.0, 2.1], clusters=[0, 0, 1, 1]).n == 2


@pytest.mark.parametrize("count", [10, 24])
def test_the_exponent_of_exactly_quadratic_effects_is_covered(count: int) -> None:
    """The vectors of a map that is a quadratic form: 2 lies in the interval, though subsets of one family agree."""
    width, covered, steep = 40, 0, 0
    for seed in range(200):
        values = (0.7 * randn(width, seed=seed)).exp()
        vectors = rotation(width, seed=seed)[:count]
        found = composition_exponent(
            lambda theta, values=values: theta.square() @ values,
            vectors,
            0.5 * float(values.mean()),
            generator=rng(seed),
            sizes=(2, 4, 8),
            grid=7,
            refine=10,
        )
        low, high = found.interval
        covered += low <= 2 <= high
        steep += decide(found.inverse, 0.5, side="at most").supported is True
    assert covered / 200 >= 0.9 and steep / 200 <= 0.05


def test_a_coin_flip_effect_has_no_sign_when_all_vectors_are_tried() -> None:
    random = np.random.default_rng(0)
    all_of_them, chosen = [], []
    for _ in range(300):
        own, negated = (torch.from_numpy(random.random(40) < 0.5) for _ in range(2))
        all_of_them.append(paired_sign_test(own, negated).p_value)
        chosen.append(paired_sign_test(own[own], negated[own]).p_value)
    assert np.mean(np.array(all_of_them) < 0.05) <= 0.05
    assert np.mean(np.array(chosen) < 0.05) > 0.9, "which is why they are not chosen"


# --- decisions


@pytest.mark.parametrize(
    ("interval", "wanted"),
    [((0.3, 0.5), (True, False)), ((0.0, 0.1), (False, True)), ((0.1, 0.3), (None, None)), (None, (None, None))],
)
def test_a_decision_needs_the_whole_interval(
    interval: tuple[float, float] | None, wanted: tuple[bool | None, bool | None]
) -> None:
    found = Measured(0.2, interval, "")
    assert (decide(found, 0.2).supported, decide(found, 0.2, side="at most").supported) == wanted


def test_absence_is_an_interval_within_a_margin() -> None:
    inside, outside, wide = (Measured(0.0, ends, "") for ends in ((-0.1, 0.2), (0.3, 0.5), (-0.5, 0.1)))
    assert [decide(each, 0.25, side="within").supported for each in (inside, outside, wide)] == [True, False, None]


@pytest.mark.parametrize(
    ("found", "threshold", "side"),
    [
        (rate(0, 14), 0.05, "at most"),  # 0 [0, 0.23]
        (rate(13, 14), 0.95, "at least"),  # 0.929 [0.66, 0.998]
        (paired_rates([True] * 2, [False] * 2), 0.2, "at least"),
        (mean([1.0, 1.0]), 0.5, "at least"),
        (mean([1.0] * 8), 0.5, "at least"),
        (mean([1.0] * 4, scale=UNIT_SCALE), 0.5, "at least"),
        (mean([-0.55, -0.002, 0.54], scale=SIGNED_SCALE), 0.5, "at least"),
        (mean([2.0]), 0.5, "at least"),
        (mean([]), 0.5, "at least"),
        (count_ratio(17, 15.0), 1.0, "at least"),
    ],
)
def test_what_decided_before_and_should_not(found: Measured, threshold: float, side: stats.Side) -> None:
    decision = decide(found, threshold, side=side)
    assert decision.outcome == "undecided" and decision.why


def test_enough_equal_values_decide() -> None:
    assert decide(mean([1.0] * 20), 0.5).supported is True
    low, high = mean([1.0] * 8, scale=UNIT_SCALE).interval or (math.nan, math.nan)
    assert (low, high) == pytest.approx((0.025 ** (1 / 8), 1.0)), "as the exact interval of 8 hits of 8"
    assert decide(exactly(1e-6), 1e-4, side="at most").supported is True, "nothing was sampled"


def test_a_failed_instrument_decides_nothing() -> None:
    decision = decide(rate(100, 100), 0.5, failed="the ruler is bent")
    assert (decision.outcome, decision.supported, decision.failed) == ("invalid", None, "the ruler is bent")
    good, bad, open_ = Decision(True), Decision(False), Decision(None, "why")
    assert all_of([good, open_, bad, decision]) is decision and all_of([good, open_, bad]) is bad
    assert all_of([good, open_]) is open_ and all_of([good]).supported is True and all_of([]).supported is None
    assert agreed([good, good]).supported is True and agreed([good, bad]).supported is None
    assert agreed([good, decision]) is decision
    assert stands(0.5, 5, 0.01).why


def test_bad_values_are_refused() -> None:
    for call, message in (
        (lambda: rate(3, 2), "got 3 hits in 2 trials"),
        (lambda: rate(0, 0), "got 0 hits in 0 trials"),
        (lambda: mean([0.1, math.nan]), "expected numbers"),
        (lambda: mean([0.1, 1.4], scale=UNIT_SCALE), "on the scale"),
        (lambda: paired_rates([True], []), "expected pairs"),
        (lambda: count_ratio(3, 0.0), "got a count of 3"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_one_auc_for_columns_and_for_two_samples() -> None:
    scores, labels = randn(40, 3, seed=1).round(decimals=1), torch.arange(40) % 3 == 0
    wanted = [mannwhitneyu(column[labels], column[~labels]).statistic / (14 * 26) for column in scores.mT.numpy()]
    assert stats.auc(scores, labels).tolist() == pytest.approx(wanted)
    grid = stats.auc_between(scores[labels].reshape(14, 3, 1), scores[~labels].reshape(26, 3, 1))
    assert grid.flatten().tolist() == pytest.approx(wanted) and grid.shape == (3, 1)


# --- one wording, one place


def test_an_outcome_is_read_from_old_and_new_files_alike() -> None:
    verdict = Verdict("c", "p", "s", 1.0, None, 0.5, None, True, failed="the ruler")
    assert verdict.outcome == "invalid" and outcome(verdict) == outcome({"supported": None, "failed": "the ruler"})
    assert [outcome({"supported": each}) for each in (True, False, None, [1], "yes")] == [
        *OUTCOMES[:3],
        *["undecided"] * 2,
    ]
    assert outcome({}) == "undecided" and tally([verdict, {"supported": False}]) == dict(zip(OUTCOMES, (0, 1, 0, 1)))


def sources() -> list[Path]:
    return [path for folder in ("mi_ortho", "experiments") for path in (ROOT / folder).rglob("*.py")]


def own_words(tree: ast.AST) -> list[str]:
    """Dictionaries that name an outcome by a truth value, and calls of interval formulas that `stats` holds."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            keys = {key.value for key in node.keys if isinstance(key, ast.Constant)}
            values = {value.value for value in node.values if isinstance(value, ast.Constant)}
            if {True, False} <= keys and values & {*OUTCOMES, "refuted"}:
                found.append("words for outcomes")
        if isinstance(node, ast.ImportFrom) and node.module == "scipy.stats":
            kept = {"t", "binomtest", "bootstrap", "mannwhitneyu", "CensoredData"} & {
                alias.name for alias in node.names
            }
            found += [f"scipy.stats.{name}" for name in kept]
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "statsmodels":
            found.append(str(node.module))
    return found


def test_no_other_module_words_an_outcome_or_makes_an_interval() -> None:
    others = [path for path in sources() if path.parent != ROOT / "mi_ortho" / "stats"]
    faults = {path.name: own_words(ast.parse(path.read_text())) for path in others}
    assert {name: found for name, found in faults.items() if found} == {}
    planted = 'from scipy.stats import t as student\nWORDS = {True: "supported", False: "refuted", None: "undecided"}'
    assert sorted(own_words(ast.parse(planted))) == ["scipy.stats.t", "words for outcomes"]
    tests = "from statsmodels.stats.power import TTestPower\nfrom scipy.stats import CensoredData"
    assert own_words(ast.parse(tests)) == ["statsmodels.stats.power", "scipy.stats.CensoredData"]


# --- two reports of one run


def one_run(count: int, bound_norm: float, efficiency: float, ridges: tuple[float, float]) -> list[dict[str, object]]:
    """What `family` and `nulls` record of one activation-matched family of `count` good vectors."""
    rows: list[dict[str, object]] = [{"kind": "base", "index": 0, "norm": 5.0}]
    for k in range(count + 3):
        loss = 0.3 if k < count else 0.9
        rows.append({"kind": "vector", "match": "activation", "index": k, "norm": 5.0 * bound_norm, "loss": loss})
        rows.append({"kind": "linear", "expansion": "none", "how": "measured", "index": k, "loss": loss})
        rows.append({"kind": "linear", "expansion": "path", "how": "search", "index": k, "loss": 0.2 + 0.1 * k})
    rows.append({"kind": "linear_null", "index": 0, "loss": 0.2, "efficiency": efficiency})
    for name, ridge in zip(("zero", "path"), ridges):
        rows.append({"kind": "capacity", "expansion": name, "good": count, "loss": 0.5, "ridge": ridge})
    return rows


def test_two_reports_of_one_run_never_judge_one_question_oppositely() -> None:
    """17 of at most 84.5 was "not supported" on one page while 17 over 15 was "supported" on the other."""
    asked, said = set(), set()
    for count, norm, efficiency, path in product((0, 5, 17, 60, 200), (1.0, 1.6), (0.05, 0.3, 1.0), (3.0, 15.0, 150.0)):
        first = beyond_linear(one_run(count, norm, efficiency, (15.0, path)))
        assert first is not None
        bound = 1.0 * (first.value and count / first.value or 1e9)
        second = beyond_capacity(one_run(count, norm, efficiency, (min(15.0, bound), path)))
        assert second is not None and first.question == second.question != ""
        assert {first.outcome, second.outcome} != {"supported", "not supported"}
        assert first.threshold == second.threshold, "one unit"
        asked.add(first.question)
        said |= {("family", first.outcome), ("nulls", second.outcome)}
    assert len(asked) == 1 and len(said) >= 4, "the runs decide both ways"


def test_the_p_value_of_an_interval_agrees_with_the_interval() -> None:
    """Altman and Bland's worked example (2011): a relative risk of .81 (.70 to .94) has p = .005 or so."""
    one = Measured(0.81, (0.70, 0.94), "", 100)
    assert stats.interval_p_value(one, 1.0, ratio=True) == pytest.approx(0.006, abs=0.002)
    uneven = Measured(1.0, (0.0, 4.0), "", 8)  # the half that points towards the limit counts
    assert stats.interval_p_value(uneven, 0.0) == pytest.approx(0.05) and stats.interval_p_value(
        uneven, 4.0
    ) == pytest.approx(0.05)
    assert stats.interval_p_value(uneven, 1.0) == 1.0 and stats.interval_p_value(uneven, 0.0, ratio=True) is None
    assert stats.interval_p_value(Measured(1.0, None, "", 1), 0.0) is None
    assert stats.interval_p_value(Measured(1.0, (1.0, 1.0), "", 1), 0.0) is None

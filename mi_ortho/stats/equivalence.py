"""Absence shown and not assumed: two one-sided tests against a margin that was set before (Schuirmann 1987).

"Not twice as many" is no "no more": a claim of absence is supported only where the 90 % interval lies within the
margin, not supported where it lies outside, and undecided else. Each of the two errors is made in at most 5 % of the
cases.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from statsmodels.stats.proportion import confint_proportions_2indep, tost_proportions_2indep
from statsmodels.stats.weightstats import DescrStatsW

from mi_ortho.stats.clusters import Units, doubled, grouped, label_each, matched, over_units, studentised
from mi_ortho.stats.differences import exponential
from mi_ortho.stats.measured import BOOTSTRAPPED, ERROR, LEVEL, REAL_SCALE, Measured, Scale
from mi_ortho.stats.outcomes import Decision, Gate, decide
from mi_ortho.stats.p_values import mean_p_value

BOTH_SIDES = 1 - 2 * ERROR  # level of the interval that two one-sided tests look at


@dataclass(frozen=True)
class Equivalence:
    """Whether a difference is too small to matter.

    Attributes:
        measured: the difference (or ratio) with its 90 % interval.
        margin: differences up to it do not matter (of a ratio, the factor).
        decision: supported where absence was shown, with the p-value of the two tests.
    """

    measured: Measured
    margin: float
    decision: Decision


def equivalence_of_means(
    values: Sequence[float],
    controls: Sequence[float] | None = None,
    *,
    margin: float,
    units: Units | None = None,
    scale: Scale = REAL_SCALE,
    gates: Sequence[Gate] = (),
    seed: int = 0,
) -> Equivalence:
    """Whether paired values and controls differ by less than a margin; without controls, whether values are near 0.

    Over the highest unit that varies, of which there must be six, both one-sided Student tests must reject
    (statsmodels), and the interval must lie within the margin: it is the union of the 90 % cluster bootstrap on the
    scale of the differences and the 95 % studentised bootstrap, which covers the means of skewed values better
    (Efron 1981).

    Args:
        values, controls: row by row of the same pair.
        margin: set before; a difference of that size would matter.
        units: labels of every row; without them each row is independent.
        scale: of the values.
        gates: checks of the instruments.
        seed: of the resampling.

    >>> equivalence_of_means([0.01, -0.02, 0.0, 0.02, 0.01, -0.01], margin=0.1).decision.outcome
    'supported'
    >>> equivalence_of_means([0.3, -0.2, 0.1, 0.0, -0.1, 0.0], margin=0.1).decision.outcome
    'undecided'
    """
    _check(margin, above=0)
    rows = list(values) if controls is None else matched(values, controls)
    groups = grouped(rows, label_each(units, len(rows)))
    ends = scale if controls is None else doubled(scale)
    measured = over_units(groups, scale=ends, seed=seed, level=BOTH_SIDES)
    measured = studentised(measured, groups.averages, scale=ends, seed=seed, level=LEVEL)
    decision = decide(measured, margin, side="within", gates=gates)
    numbers = np.asarray(groups.averages)
    if decision.supported is None or np.ptp(numbers) == 0:  # equal values have no test, only an interval
        return Equivalence(measured, margin, decision)
    if len(numbers) < BOOTSTRAPPED:
        why = f"{len(numbers)} values; absence needs {BOOTSTRAPPED}"
        return Equivalence(measured, margin, Decision(None, why))
    if not decision.supported:
        beyond = float(np.sign(numbers.mean())) * numbers
        p_value = mean_p_value(beyond.tolist(), margin, alternative="greater")
        return Equivalence(measured, margin, Decision(False, p_value=p_value))
    p_value = float(DescrStatsW(numbers).ttost_mean(-margin, margin)[0])
    return Equivalence(measured, margin, _tested(p_value))


def _tested(p_value: float) -> Decision:
    """The decision of two one-sided tests whose interval lies within the margin."""
    if p_value <= ERROR:
        return Decision(True, p_value=p_value)
    return Decision(None, f"the two one-sided tests have p = {p_value:.2g}", p_value=p_value)


def equivalence_of_ratios(
    values: Sequence[float],
    controls: Sequence[float],
    *,
    margin: float,
    units: Units | None = None,
    gates: Sequence[Gate] = (),
    seed: int = 0,
) -> Equivalence:
    """Whether value over control lies within a factor: `equivalence_of_means` of log ratios.

    Args:
        values, controls: positive, row by row of the same pair.
        margin: the factor, above 1: 1.25 asks for ratios from 0.8 to 1.25.
        units, gates, seed: see `equivalence_of_means`.

    >>> equivalence_of_ratios([1.35, 1.2, 1.5, 1.4, 1.3, 1.3], [1.0] * 6, margin=2.0).decision.outcome
    'supported'
    """
    _check(margin, above=1)
    if not all(0 < each < math.inf for each in (*values, *controls)):
        raise ValueError("got values of which some are not positive; expected positive ones; compare differences")
    logs, others = np.log(values).tolist(), np.log(controls).tolist()
    shown = equivalence_of_means(logs, others, margin=math.log(margin), units=units, gates=gates, seed=seed)
    return Equivalence(exponential(shown.measured), margin, shown.decision)


def equivalence_of_rates(
    hits: int, trials: int, control_hits: int, control_trials: int, *, margin: float, gates: Sequence[Gate] = ()
) -> Equivalence:
    """Whether the rates of two independent samples differ by less than a margin.

    Newcombe's (1998) interval at 90 % and the score test of each side (statsmodels) must agree. Rates of the same
    trials are paired: give their 0 and 1 to `equivalence_of_means` with the scale (0, 1).

    Args:
        hits, trials, control_hits, control_trials: counts of independent trials, at least one each.
        margin: set before, in shares.
        gates: checks of the instruments.

    >>> equivalence_of_rates(100, 200, 98, 200, margin=0.15).decision.outcome
    'supported'
    """
    _check(margin, above=0)
    for count, total in ((hits, trials), (control_hits, control_trials)):
        if not 0 <= count <= total or total < 1:
            raise ValueError(f"got {count} hits in {total} trials; expected 0 <= hits <= trials and at least one trial")
    counts = (hits, trials, control_hits, control_trials)
    low, high = confint_proportions_2indep(*counts, compare="diff", method="newcomb", alpha=2 * ERROR)
    value = hits / trials - control_hits / control_trials
    n = min(trials, control_trials)
    measured = Measured(value, (float(low), float(high)), "difference of rates (Newcombe)", n)
    decision = decide(measured, margin, side="within", gates=gates)
    if decision.supported:
        tests: Any = tost_proportions_2indep(*counts, -margin, margin, compare="diff", method="score")
        decision = _tested(float(tests.pvalue))
    return Equivalence(measured, margin, decision)


def _check(margin: float, *, above: float) -> None:
    if not above < margin < math.inf:
        raise ValueError(f"got the margin {margin}; expected one above {above}; set it before the run")

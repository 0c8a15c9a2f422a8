"""Value against control, paired: differences, ratios, and the verdict about them."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mi_ortho.stats.clusters import Units, by_unit, doubled, grouped, label_each, matched, over_units
from mi_ortho.stats.detectable import detectable_mean
from mi_ortho.stats.measured import ERROR, LEVEL, REAL_SCALE, Measured, Scale
from mi_ortho.stats.outcomes import Decision, Gate, Side, Verdict, all_of, decide, judge
from mi_ortho.stats.p_values import interval_p_value, mean_p_value


def paired_difference(
    values: Sequence[float],
    controls: Sequence[float],
    *,
    units: Units | None = None,
    scale: Scale = REAL_SCALE,
    seed: int = 0,
    level: float = LEVEL,
) -> Measured:
    """The mean of value minus control over pairs, resampled over the highest unit that varies (`by_unit`).

    Args:
        values, controls: row by row of the same prompt, base, or whatever the pair is; 0 and 1 for rates.
        units: labels of every row; without them each pair is independent of the others.
        scale: of the values; differences lie on twice its width.
        seed, level: of the resampling.

    >>> round(paired_difference([0.9, 0.8, 0.7], [0.1, 0.2, 0.3], scale=(0.0, 1.0)).value, 3)
    0.6
    """
    pairs = matched(values, controls)
    return by_unit(pairs, label_each(units, len(pairs)), scale=doubled(scale), seed=seed, level=level)


def paired_ratio(
    values: Sequence[float],
    controls: Sequence[float],
    *,
    units: Units | None = None,
    seed: int = 0,
    level: float = LEVEL,
) -> Measured:
    """The geometric mean of value over control, from the mean log ratio over the highest unit that varies.

    1 is no difference. Counts that a search's end cut off belong into `paired_count_ratio`.

    Raises:
        ValueError: a number that is not positive.

    >>> round(paired_ratio([2.0, 8.0, 4.0], [1.0, 2.0, 2.0]).value, 3)
    2.52
    """
    if not all(0 < each < math.inf for each in (*values, *controls)):
        raise ValueError("got values of which some are not positive; expected positive ones; compare differences")
    measured = paired_difference(
        np.log(values).tolist(), np.log(controls).tolist(), units=units, seed=seed, level=level
    )
    return exponential(measured)


def exponential(measured: Measured) -> Measured:
    """A mean of logarithms as a ratio."""
    value = None if measured.value is None else math.exp(measured.value)
    ends = None if measured.interval is None else (math.exp(measured.interval[0]), math.exp(measured.interval[1]))
    return Measured(value, ends, f"log ratio, {measured.kind}", measured.n, measured.unit, measured.censored)


def independent_difference(value: Measured, control: Measured) -> Measured:
    """Value minus control measured on different samples, its interval from both intervals (Zou and Donner 2008).

    The method of variance estimates recovery: each end lies as far from the difference as the root of the squared
    distances of the two ends that it is made of. A control without an interval leaves the spread unknown.

    >>> independent_difference(Measured(5.0, (2.0, 8.0), ""), Measured(1.0, (-3.0, 5.0), "")).interval
    (-1.0, 9.0)
    """
    if value.value is None or control.value is None:
        return Measured(None, None, "none", value.n)
    difference = value.value - control.value
    if value.interval is None or control.interval is None:
        return Measured(difference, None, "spread of the control not known", value.n)
    (low, high), (control_low, control_high) = value.interval, control.interval
    below = math.hypot(value.value - low, control_high - control.value)
    above = math.hypot(high - value.value, control.value - control_low)
    kind = "difference of independent samples (Zou and Donner)"
    counts = [each.n for each in (value, control) if each.n is not None]
    return Measured(difference, (difference - below, difference + above), kind, min(counts, default=None), value.unit)


def beyond_control(
    value: Measured,
    control: Measured,
    difference: Measured,
    *,
    threshold: float | None = None,
    least: float = 0.0,
    side: Side = "at least",
    gates: Sequence[Gate] = (),
    p_values: tuple[float | None, float | None] = (None, None),
) -> Decision:
    """Whether a value passes its threshold and its control does not: the decision about value minus control.

    Supported needs all of it: every gate passed, the value's interval on its side of the threshold, the difference's
    interval beyond `least` on that side, and a control whose own value is not on that side too; its p-value is the
    largest of both tests (intersection-union). One of the two intervals on the other side refutes it, with that test's
    p-value, wherever the control lies.

    Args:
        value, control: on one scale.
        difference: value minus control, paired.
        threshold: of the value; without one only the difference is judged.
        least: the smallest difference that counts; with "at most" it counts downwards.
        side: which side of the threshold was predicted; absence has its own functions (`equivalence_of_means`).
        gates: checks of the instruments.
        p_values: of the value being `threshold`, and of the difference being `least`; what is None follows from the
            interval (`interval_p_value`). Above 0.05 nothing is decided.
    """
    if side == "within":
        raise ValueError(
            "got the side 'within'; expected 'at least' or 'at most'; show absence by equivalence_of_means"
        )
    limit = least if side == "at least" else -least
    tests = [_tested(difference, limit, side, gates, p_values[1])]
    if threshold is not None:
        tests.append(_tested(value, threshold, side, (), p_values[0]))
    refuting = [each for each in tests if each.supported is False]
    if refuting and not any(each.failed for each in tests):
        decision = min(refuting, key=lambda each: 1.0 if each.p_value is None else each.p_value)
    else:
        decision = all_of(tests if threshold is None else [_held_back(control, threshold, side), *tests])
    p_value = tests[0].p_value if decision.supported is None else decision.p_value
    if decision.supported is not None and p_value is not None and p_value > ERROR:
        what = "the difference" if decision.supported or decision is tests[0] else "the value"
        return Decision(None, f"{what} has p = {p_value:.2g}", p_value=p_value)
    return Decision(decision.supported, decision.why, decision.failed, p_value)


def _tested(measured: Measured, limit: float, side: Side, gates: Sequence[Gate], p_value: float | None) -> Decision:
    """An interval against a limit, with a p-value of its own."""
    decision = decide(measured, limit, side=side, gates=gates)
    return replace(decision, p_value=interval_p_value(measured, limit) if p_value is None else p_value)


def _held_back(control: Measured, threshold: float, side: Side) -> Decision:
    """Whether the control stays on the other side of the threshold."""
    if control.value is None:
        return Decision(None, "the control was not measured")
    passes = control.value >= threshold if side == "at least" else control.value <= threshold
    return Decision(None, "the control is on the same side of the threshold") if passes else Decision(True)


def against_control(
    claim: str,
    prediction: str,
    statistic: str,
    values: Sequence[float],
    controls: Sequence[float],
    *,
    threshold: float | None = None,
    least: float = 0.0,
    side: Side = "at least",
    units: Units | None = None,
    scale: Scale = REAL_SCALE,
    gates: Sequence[Gate] = (),
    detectable: float | None = None,
    separates: str = "",
    question: str = "",
    seed: int = 0,
) -> Verdict:
    """The verdict about paired values and controls: `beyond_control` with everything that it stands on.

    Args:
        claim, prediction, statistic: in words.
        values, controls: row by row of the same pair.
        threshold, least, side, gates: see `beyond_control`.
        units, scale, seed: see `paired_difference`.
        detectable: the smallest difference that such a sample shows in 80 % of the cases; if None, that of Student's t
            with the spread of these differences.
        separates: which theory the number tells from which.
        question: what is asked, where more than one report asks it.

    >>> verdict = against_control("c", "p", "s", [0.9, 0.8, 0.9, 0.85], [0.8, 0.9, 0.85, 0.9], threshold=0.5)
    >>> verdict.outcome, verdict.why
    ('undecided', 'the control is on the same side of the threshold')
    """
    labels = label_each(units, len(values))
    value, control = (by_unit(each, labels, scale=scale, seed=seed) for each in (values, controls))
    groups = grouped(matched(values, controls), labels)
    difference = over_units(groups, scale=doubled(scale), seed=seed)
    single = grouped(values, labels)
    p_values = (
        None if threshold is None else mean_p_value(single.averages, threshold),
        mean_p_value(groups.averages, least if side == "at least" else -least),
    )
    if detectable is None and len(groups.averages) > 1:
        detectable = detectable_mean(float(np.std(groups.averages, ddof=1)), len(groups.averages))
    decision = beyond_control(
        value, control, difference, threshold=threshold, least=least, side=side, gates=gates, p_values=p_values
    )
    return judge(
        claim,
        prediction,
        statistic,
        value,
        threshold,
        control.value,
        decision,
        question,
        difference=difference,
        gates=gates,
        detectable=detectable,
        separates=separates,
    )

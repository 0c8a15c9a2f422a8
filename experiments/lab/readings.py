"""From readings to a verdict: the one place where an experiment's numbers are held against what was predicted.

A claim reads its rows as `Reading`s, one value and its control at one unit, or, where the statistic is made of all
rows at once, as one `Total` with an interval of its own. Which side, threshold, unit, margin and gates it is held
against lies in the file of predictions, and every claim is judged by these lines.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import numpy as np
from scipy.stats import rankdata

from experiments.lab.figures import Ranking
from experiments.lab.predictions import GATES, Prediction, Predictions
from mi_ortho import Verdict
from mi_ortho.pages import Estimate
from mi_ortho.stats import (
    UNITS,
    Count,
    Decision,
    Gate,
    Measured,
    above_floor,
    against_control,
    average,
    below_ceiling,
    beyond_control,
    by_unit,
    decide,
    detectable_difference,
    enough,
    equivalence_of_means,
    independent_difference,
    interval_p_value,
    judge,
    median_count,
    paired_count_ratio,
)

Number = float | Count


@dataclass(frozen=True)
class Reading:
    """One value of a prediction and of its control, at one unit.

    Attributes:
        of: the prediction's key.
        value, control: None where it could not be measured; a `Count` where a search may have cut it off.
        units: names of `UNITS` with their labels, as {"behaviour": "code", "base": 3}.
        gates: what the checks of instruments gave here, by their names in the file of predictions.
    """

    of: str
    value: Number | None
    control: Number | None
    units: Mapping[str, Any]
    gates: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Total:
    """One value of a prediction that all rows make together, with its own interval, and that of its control.

    Attributes:
        of: the prediction's key.
        value, control: measured on different samples (as the model and an untrained network).
        gates: as in `Reading`.
    """

    of: str
    value: Measured
    control: Measured
    gates: Mapping[str, float] = field(default_factory=dict)


def over_prompts(
    prompts: Sequence[Hashable],
    statistic: Callable[[Sequence[Any], int], float | None],
    *,
    unit: str = "prompt",
    draws: int = 200,
    seed: int = 0,
) -> Measured:
    """One number that all prompts make together, with the central 95 % of what resamplings of the prompts give.

    Args:
        prompts: labels; those that occur more than once count once.
        statistic: of labels, which may repeat, and of the number of the draw (0: the prompts as they are), by which a
            control may order things anew; None where these labels give no number.
        unit: what the labels are, a name of `UNITS`.
        draws: resamplings; where more than a tenth of them give no number, the spread is not known.
        seed: of the resamplings.
    """
    labels = list(dict.fromkeys(prompts))
    value = statistic(labels, 0) if labels else None
    if value is None or len(labels) < 2:
        return Measured(value, None, "none", len(labels), unit)
    generator = np.random.default_rng(seed)
    resampled = [[labels[k] for k in generator.integers(0, len(labels), len(labels))] for _ in range(draws)]
    numbers = [x for k, part in enumerate(resampled, 1) if (x := statistic(part, k)) is not None]
    if len(numbers) < 0.9 * draws:
        return Measured(value, None, "spread not known", len(labels), unit)
    low, high = np.quantile(numbers, [0.025, 0.975]).tolist()
    return Measured(value, (min(low, value), max(high, value)), f"bootstrap over {unit}s", len(labels), unit)


def overlapping(parts: Sequence[Measured]) -> Measured:
    """The mean of the same number on samples that overlap, as splits of the same prompts do.

    They may agree fully, so its interval is as wide as theirs are on average, and its n is that of one of them.
    """
    known = [one for one in parts if one.value is not None]
    if not known:
        return Measured(None, None, "none", 0)
    value = fmean(one.value for one in known if one.value is not None)
    ends = [one.interval for one in known if one.interval is not None]
    if len(ends) < len(known):
        return Measured(value, None, "spread not known", known[0].n, known[0].unit)
    interval = fmean(low for low, _ in ends), fmean(high for _, high in ends)
    return Measured(value, interval, f"{known[0].kind}, mean of {len(known)}", known[0].n, known[0].unit)


def measured_in(stored: Mapping[str, Any]) -> Measured:
    """A measurement as `dataclasses.asdict` put it into a row."""
    interval = stored["interval"]
    return Measured(**{**stored, "interval": tuple(interval) if interval else None})


def rank_correlation(a: Sequence[float], b: Sequence[float], *, order: int | None = None) -> float | None:
    """Spearman's correlation of pairs of numbers; None for fewer than three, or where all of either are equal.

    With `order` the second are put into the random order of that number first: the control.
    """
    one, two = np.asarray(a, float), np.asarray(b, float)
    keep = np.isfinite(one) & np.isfinite(two)
    one, two = one[keep], two[keep]
    if order is not None:
        two = np.random.default_rng(order).permutation(two)
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(two) == 0:
        return None
    return float(np.corrcoef(rankdata(one), rankdata(two))[0, 1])


def judged(predictions: Predictions, found: Sequence[Reading | Total]) -> list[Verdict]:
    """One verdict for each prediction of the file, in its order.

    Raises:
        ValueError: a reading of no prediction.
    """
    if strange := {one.of for one in found} - set(predictions.each):
        raise ValueError(
            f"got readings of {', '.join(sorted(strange))}; expected {', '.join(predictions.each)}, the tables of "
            f"{predictions.path.name}; correct the claim or, before its first run, the file"
        )
    return [
        verdict(one, [reading for reading in found if reading.of == key], predictions.seed)
        for key, one in predictions.each.items()
    ]


def verdict(prediction: Prediction, found: Sequence[Reading | Total], seed: int = 0) -> Verdict:
    """What a prediction came to."""
    totals = [one for one in found if isinstance(one, Total)]
    if totals:
        return _of_total(prediction, totals[-1])
    readings = [one for one in found if isinstance(one, Reading)]
    pairs, left = shown(prediction, readings)
    units = [_label(prediction, one) for one in pairs]
    gates = [*_gates(prediction, readings), enough(left, limit=prediction.minimum)]
    values, controls = [one.value for one in pairs], [one.control for one in pairs]
    if prediction.kind == "count":
        return _of_counts(prediction, values, controls, units, gates)
    numbers, others = (
        [float(one) for one in values if one is not None],
        [float(one) for one in controls if one is not None],
    )
    if prediction.side == "within":
        return _of_absence(prediction, numbers, others, units, gates, seed)
    return against_control(
        prediction.question,
        prediction.predicts,
        prediction.statistic,
        numbers,
        others,
        threshold=prediction.threshold,
        least=prediction.beyond,
        side=prediction.side,
        units=units,
        scale=prediction.scale,
        gates=gates,
        detectable=detectable_difference(numbers, others, units=units) if len(numbers) > 1 else None,
        separates=prediction.separates,
        seed=seed,
    )


def drawn(predictions: Predictions, found: Sequence[Reading | Total]) -> list[Ranking]:
    """One drawing for the predictions of each scale: what was measured beside its control, with intervals."""
    drawings = []
    scales = list(dict.fromkeys((one.scale, one.kind) for one in predictions.each.values()))
    for scale, kind in scales:
        rows, thresholds = [], set()
        for key, one in predictions.each.items():
            readings = [reading for reading in found if reading.of == key]
            if (one.scale, one.kind) != (scale, kind) or not readings:
                continue
            thresholds.add(one.threshold)
            value, control = _both(one, readings, predictions.seed)
            rows += [_estimate(key, value, "value"), _estimate(f"{key}: control", control, "control")]
        rows = [row for row in rows if row is not None]
        threshold = thresholds.pop() if len(thresholds) == 1 and kind == "mean" else None
        caption = "Measured and control with 95 % intervals over the unit of each prediction."
        drawings += (
            [Ranking("What was predicted and what was measured", caption, tuple(rows), threshold)] if rows else []
        )
    return drawings


def _both(prediction: Prediction, found: Sequence[Reading | Total], seed: int) -> tuple[Measured, Measured]:
    """Value and control, each measured by itself."""
    totals = [one for one in found if isinstance(one, Total)]
    if totals:
        return totals[-1].value, totals[-1].control
    pairs, _ = shown(prediction, [one for one in found if isinstance(one, Reading)])
    sides = [one.value for one in pairs], [one.control for one in pairs]
    if prediction.kind == "count":
        value, control = (median_count([_count(number) for number in side if number is not None]) for side in sides)
        return value, control
    units = [_label(prediction, one) for one in pairs]
    value, control = (
        by_unit([float(number) for number in side if number is not None], units, scale=prediction.scale, seed=seed)
        for side in sides
    )
    return value, control


def _estimate(label: str, measured: Measured, style: str) -> Estimate | None:
    if measured.value is None:
        return None
    ends = measured.interval
    return Estimate(label, measured.value, ends if ends and all(map(math.isfinite, ends)) else None, style)


def _label(prediction: Prediction, reading: Reading) -> dict[str, Any]:
    """The unit that a prediction counts, told apart by everything above it, which is taken as given."""
    above = UNITS[: UNITS.index(prediction.unit) + 1]
    return {prediction.unit: tuple(reading.units[name] for name in above if name in reading.units)}


def checked(prediction: Prediction, readings: Sequence[Reading]) -> list[Reading]:
    """The readings whose own instruments passed: a base that random vectors imitate says nothing, others still do."""
    return [
        one
        for one in readings
        if all(_passes(name, limit, one.gates[name]) for name, limit in prediction.gates.items() if name in one.gates)
    ]


def shown(prediction: Prediction, readings: Sequence[Reading]) -> tuple[list[Reading], int]:
    """The pairs that a verdict is about, and how many units passed their checks.

    Where too few did the outcome is invalid, and what is shown is what all of them gave.
    """
    whole = [one for one in readings if one.value is not None and one.control is not None]
    kept = checked(prediction, whole)
    left = len({_unit(prediction, one) for one in kept})
    return (kept if left >= prediction.minimum else whole), left


def _passes(name: str, limit: float, value: float) -> bool:
    return value <= limit if GATES[name][1] == "at most" else value >= limit


def _gates(prediction: Prediction, found: Sequence[Reading | Total]) -> list[Gate]:
    """The checks that the file asks for, passed where enough units pass; one that nobody measured is not passed.

    The value is the mean over the units that pass, or over all where too few do.
    """
    made = []
    for name, limit in prediction.gates.items():
        text, side = GATES[name]
        if name in ("ceiling", "floor"):
            values = [
                float(one.value) for one in found if isinstance(one, Reading) and isinstance(one.value, float | int)
            ]
            made.append((below_ceiling if name == "ceiling" else above_floor)(values, limit))
            continue
        asked = [one for one in found if name in one.gates]
        good = [one for one in asked if _passes(name, limit, one.gates[name])]
        units, left = ({_unit(prediction, one) for one in each} for each in (asked, good))
        passed = len(left) >= min(prediction.minimum, len(units)) > 0
        text += f" ({len(units) - len(left)} of {len(units)} left out)" if passed and len(left) < len(units) else ""
        value = average([one.gates[name] for one in (good if passed else asked)])
        made.append(Gate(text, value, limit, passed, side))
    return made


def _unit(prediction: Prediction, found: Reading | Total) -> str:
    return str(_label(prediction, found)) if isinstance(found, Reading) else ""


def _of_counts(
    prediction: Prediction,
    values: Sequence[Number | None],
    controls: Sequence[Number | None],
    units: Sequence[Mapping[str, Any]],
    gates: Sequence[Gate],
) -> Verdict:
    counts, others = ([_count(one) for one in each if one is not None] for each in (values, controls))
    nothing = Measured(None, None, "none", 0)
    measured = paired_count_ratio(counts, others, units=units) if counts else nothing
    control = median_count(others).value if others else None
    decision = decide(measured, prediction.threshold, side=prediction.side, gates=gates)
    p_value = interval_p_value(measured, prediction.threshold, ratio=True)
    return _made(prediction, measured, control, replace(decision, p_value=p_value), gates)


def _count(number: Number) -> Count:
    return number if isinstance(number, Count) else Count(number, False)


def _of_absence(
    prediction: Prediction,
    values: Sequence[float],
    controls: Sequence[float],
    units: Sequence[Mapping[str, Any]],
    gates: Sequence[Gate],
    seed: int,
) -> Verdict:
    value, control = (by_unit(each, units, scale=prediction.scale, seed=seed) for each in (values, controls))
    shown = equivalence_of_means(
        values, controls, margin=prediction.threshold, units=units, scale=prediction.scale, gates=gates, seed=seed
    )
    return _made(prediction, value, control.value, shown.decision, gates, difference=shown.measured)


def _of_total(prediction: Prediction, total: Total) -> Verdict:
    gates = _gates(prediction, [total])
    if total.value.n is not None:
        gates.append(enough(total.value.n, limit=prediction.minimum))
    difference = independent_difference(total.value, total.control)
    if prediction.side == "within":
        decision = decide(difference, prediction.threshold, side="within", gates=gates)
    else:
        decision = beyond_control(
            total.value,
            total.control,
            difference,
            threshold=prediction.threshold,
            least=prediction.beyond,
            side=prediction.side,
            gates=gates,
        )
    return _made(prediction, total.value, total.control.value, decision, gates, difference=difference)


def _made(
    prediction: Prediction,
    measured: Measured,
    control: float | None,
    decision: Decision,
    gates: Sequence[Gate],
    *,
    difference: Measured | None = None,
) -> Verdict:
    return judge(
        prediction.question,
        prediction.predicts,
        prediction.statistic,
        measured,
        prediction.threshold,
        control,
        decision,
        difference=difference,
        gates=gates,
        separates=prediction.separates,
    )

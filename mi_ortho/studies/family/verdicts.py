"""What a family run came to: counts, where the family ends, verdicts against thresholds fixed here, and a headline.

Pure functions of the recorded rows. The thresholds are constants of this file, written before any run.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student

from mi_ortho.nulls.bounds import capacity_bound
from mi_ortho.runs.directory import Verdict
from mi_ortho.runs.rows import pick

ABOVE_RANDOM = 0.2  # a family exists when it beats random vectors of its norms by this share of kept behaviours
NORM_MATTERS = 0.2  # scaling to the base's norm destroys the effect when it loses this share
LINEAR_LOSS = 0.5  # vectors with at most this relative loss are counted against the linear capacity bound
TRANSFERS = 0.5  # of the base's own transfer
MEANS_DIFFER = 0.5  # share kept by sqrt(n)-scaled means minus share kept by plain means
WINDOW = 10  # the family ends where fewer than half of this many consecutive vectors keep the behaviour

Row = Mapping[str, Any]


def numbers(rows: Sequence[Row], name: str) -> list[float]:
    """One column as floats, without missing values; booleans count as 0 and 1."""
    return [float(value) for row in rows if isinstance(value := row.get(name), (int, float))]


def mean_interval(values: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """Mean and its 95 % interval by Student's t; None for fewer than two values.

    >>> mean_interval([1.0, 1.0])
    (1.0, (1.0, 1.0))
    """
    centre = fmean(values)
    if len(values) < 2:
        return centre, None
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return centre, (centre - half, centre + half)


def decide(value: float, interval: tuple[float, float] | None, threshold: float) -> bool | None:
    """True when the whole interval reaches the threshold, False when none of it does, None in between."""
    if interval is None:
        return None
    return True if interval[0] >= threshold else False if interval[1] < threshold else None


def family_end(kept: Sequence[bool], window: int = WINDOW) -> int | None:
    """The first index from which fewer than half of the next `window` vectors keep the behaviour; None if never.

    >>> family_end([True] * 12 + [False] * 12)
    8
    """
    for start in range(len(kept) - window + 1):
        if sum(kept[start : start + window]) < window / 2:
            return start
    return None


def paired_difference(a: Sequence[Row], b: Sequence[Row], name: str) -> list[float]:
    """a's column minus b's, matched by index."""
    other = {row["index"]: row for row in b}
    pairs = [(row.get(name), other[row["index"]].get(name)) for row in a if row["index"] in other]
    return [float(x) - float(y) for x, y in pairs if isinstance(x, (int, float)) and isinstance(y, (int, float))]


def exists(rows: Sequence[Row], match: str) -> Verdict | None:
    """Do orthogonal vectors keep the behaviour more often than random vectors of the same norms?"""
    family = pick(rows, kind="vector", match=match)
    random = pick(rows, kind="control", match=match, control="isotropic")
    differences = paired_difference(family, random, "keeps")
    if not differences:
        return None
    value, interval = mean_interval(differences)
    return Verdict(
        f"Many mutually orthogonal vectors repeat the base's behaviour ({match} match)",
        f"share kept exceeds that of random vectors of equal norms by at least {ABOVE_RANDOM}",
        "share kept minus share kept by isotropic random vectors, paired by norm",
        value,
        interval,
        ABOVE_RANDOM,
        fmean(numbers(random, "keeps")),
        decide(value, interval, ABOVE_RANDOM),
    )


def norm_matters(rows: Sequence[Row], match: str) -> Verdict | None:
    """Do vectors longer than the base lose the behaviour when scaled down to its norm?"""
    base = pick(rows, kind="base")
    family = pick(rows, kind="vector", match=match)
    long = [row for row in family if base and float(row["norm"]) >= 1.2 * float(base[0]["norm"]) and row["keeps"]]
    scaled = pick(rows, kind="control", match=match, control="scaled_to_base")
    losses = [-x for x in paired_difference(scaled, long, "keeps")]
    if len(losses) < 8:
        return None
    value, interval = mean_interval(losses)
    return Verdict(
        f"Scaled down to the base's norm, the orthogonal vectors lose their effect ({match} match)",
        f"of the vectors at least 1.2 times as long as the base that keep it, at least {NORM_MATTERS} lose it",
        "share that loses the behaviour at the base's norm",
        value,
        interval,
        NORM_MATTERS,
        None,
        decide(value, interval, NORM_MATTERS),
    )


def beyond_linear(rows: Sequence[Row]) -> Verdict | None:
    """Are there more vectors at a small activation loss than any linear response allows?"""
    base, family = pick(rows, kind="base"), pick(rows, kind="vector", match="activation")
    null = numbers(pick(rows, kind="linear_null"), "efficiency")
    good = [row for row in family if isinstance(row.get("loss"), float) and row["loss"] <= LINEAR_LOSS]
    if not base or not family or not null:
        return None
    norm = max(numbers(good, "norm"), default=float(base[0]["norm"]))
    bound = capacity_bound(float(base[0]["norm"]), norm, LINEAR_LOSS, min(1.0, max(null[0], 1e-6)))
    predicted = len([x for x in numbers(pick(rows, kind="linear_null"), "loss") if x <= LINEAR_LOSS])
    return Verdict(
        "The count of vectors exceeds what a linear response allows (activation match)",
        f"more vectors with relative loss at most {LINEAR_LOSS} than the capacity bound at their largest norm",
        f"vectors with relative loss at most {LINEAR_LOSS}; the control is the count conjugate gradients predict",
        float(len(good)),
        None,
        bound,
        float(predicted),
        len(good) > bound,
    )


def transfers(rows: Sequence[Row], match: str) -> Verdict | None:
    """Do vectors that work on the training prompts work on prompts they never saw?"""
    base = numbers(pick(rows, kind="base"), "transfer")
    family = [row for row in pick(rows, kind="vector", match=match) if row["keeps"]]
    values = numbers(family, "transfer")
    if not base or not base[0] or len(values) < 2:
        return None
    value, interval = mean_interval([x / base[0] for x in values])
    # the control meets the same condition: random vectors that keep the behaviour on the first prompt
    control = [row for row in pick(rows, kind="control", match=match, control="isotropic") if row["keeps"]]
    random = numbers(control, "transfer")
    return Verdict(
        f"The orthogonal vectors work on other prompts ({match} match)",
        f"on held-out prompts they show the behaviour at least {TRANSFERS} times as often as the base itself",
        "transfer of vectors that keep the behaviour, relative to the base's transfer",
        value,
        interval,
        TRANSFERS,
        fmean(random) / base[0] if random else None,
        decide(value, interval, TRANSFERS),
    )


def means_fail(rows: Sequence[Row], match: str) -> Verdict | None:
    """Does the plain mean of vectors lose the behaviour while the mean rescaled by sqrt(n) keeps it?"""
    means = [row for row in pick(rows, kind="mean", match=match) if int(str(row["n"])) >= 3]
    plain = numbers([row for row in means if row["scale"] == "plain"], "keeps")
    scaled = numbers([row for row in means if row["scale"] == "sqrt_n"], "keeps")
    if len(plain) < 2:
        return None
    value, interval = mean_interval([a - b for a, b in zip(scaled, plain, strict=True)])
    return Verdict(
        f"Plain means of the vectors fail, means rescaled by the root of their number work ({match} match)",
        f"over n >= 3, share kept by rescaled means minus share kept by plain means at least {MEANS_DIFFER}",
        "difference of shares kept",
        value,
        interval,
        MEANS_DIFFER,
        fmean(plain),
        decide(value, interval, MEANS_DIFFER),
    )


def base_is_special(rows: Sequence[Row], match: str) -> Verdict | None:
    """Is the chosen base easier to reproduce than a random vector of the same norm?"""
    random = pick(rows, kind="control", match=match, control="random_base")
    family = pick(rows, kind="vector", match=match)[: len(random)]
    differences = paired_difference(random, family, "loss")
    if len(differences) < 2:
        return None
    value, interval = mean_interval(differences)
    return Verdict(
        f"The chosen base is easier to reproduce than a random one of its norm ({match} match)",
        "mean relative activation loss of the random base's family minus that of the chosen base's family above 0",
        "paired difference of relative losses, same number of vectors",
        value,
        interval,
        0.0,
        fmean(numbers(random, "loss")),
        decide(value, interval, 0.0),
    )


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Every verdict the recorded rows allow."""
    found: list[Verdict | None] = []
    for match in ("kl", "activation"):
        found += [
            exists(rows, match),
            norm_matters(rows, match),
            transfers(rows, match),
            means_fail(rows, match),
            base_is_special(rows, match),
        ]
    return [verdict for verdict in [*found, beyond_linear(rows)] if verdict is not None]


def counts(rows: Sequence[Row], match: str) -> dict[str, object]:
    """How many vectors were found and kept the behaviour, by quarter, beside each control."""
    family = pick(rows, kind="vector", match=match)
    kept = [bool(row["keeps"]) for row in family]
    quarters = [sum(kept[len(kept) * i // 4 : len(kept) * (i + 1) // 4]) for i in range(4)]
    searched = pick(rows, kind="search", match=match)
    mode = next((row["mode"] for row in pick(rows, kind="base") if row.get("keeps", True)), None)
    # a random base's family keeps that base's own behaviour; what counts here is the chosen base's
    controls = {
        name: sum(row["mode"] == mode if name == "random_base" else bool(row["keeps"]) for row in found)
        for name, found in _controls(rows, match).items()
    }
    first = next((index for index, good in enumerate(kept) if not good), None)
    collapsed = sum(not row["kept"] for row in searched)
    return {
        "found": len(family),
        "kept": sum(kept),
        "quarters": quarters,
        "first_failure": first,
        "end": family_end(kept),
        "collapsed": collapsed,
        "controls": controls,
    }


def _controls(rows: Sequence[Row], match: str) -> dict[str, list[Row]]:
    names = dict.fromkeys(str(row["control"]) for row in rows if row["kind"] == "control" and row["match"] == match)
    return {name: pick(rows, kind="control", match=match, control=name) for name in names}


def summarise(rows: Sequence[Row], cosines: Mapping[str, float], model: str) -> dict[str, object]:
    """summary.json of a family run: headline, counts, where each family ends, verdicts."""
    totals = {match: counts(rows, match) for match in ("kl", "activation") if pick(rows, kind="vector", match=match)}
    return {
        "headline": headline(rows, totals, cosines, model),
        "counts": totals,
        "end": {match: total["end"] for match, total in totals.items()},
        "max_abs_cosine": dict(cosines),
        "verdicts": verdicts(rows),
    }


def headline(
    rows: Sequence[Row], totals: Mapping[str, Mapping[str, object]], cosines: Mapping[str, float], model: str
) -> str:
    """One sentence that says what was found, beside its control."""
    base, plain = pick(rows, kind="base"), pick(rows, kind="unsteered")
    if not base or not totals:
        return f"No orthogonal family was found on {model}."
    match = "kl" if "kl" in totals else "activation"
    total = totals[match]
    control = total["controls"]
    random = control.get("isotropic", 0) if isinstance(control, dict) else 0
    end = total["end"]
    text = (
        f"{total['kept']} of {total['found']} mutually orthogonal vectors (largest |cosine| {cosines[match]:.0e}) make "
        f"{model} answer “{plain[0]['prompt_text']}” with {base[0]['mode']} instead of {plain[0]['mode']}, "
        f"as their base vector does; of random vectors of the same norms, {random} do. "
    )
    return text + (f"The family ends near vector {end}." if end is not None else "Its end was not reached.")

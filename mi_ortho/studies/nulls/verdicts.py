"""Verdicts of a scrutiny, from its recorded rows. The thresholds are constants of this file, written before any run."""

import math
from collections.abc import Sequence
from statistics import fmean

from mi_ortho.effects import rate_interval
from mi_ortho.runs.directory import Verdict
from mi_ortho.runs.rows import pick as select
from mi_ortho.studies.family.verdicts import Row, decide, mean_interval, numbers

SAME_CURVE = 0.1  # mean distance of two loss curves up to which they are the same
HOLDS = 1.0  # times its bound
QUADRATIC = 2.0  # composition exponent of a quadratic form; separate features compose with a larger one
ABOVE_PROPORTION = 1.5  # dose exponent
SIGNED = 0.5  # share of working vectors whose negative fails
ONE_SIDE = 0.8  # share of vectors on one side of the gradient
FACTOR = 1.0  # predicted over measured count, distance from 1 in powers of 2
FEWER_OUTPUTS = 0.5  # effective rank of outputs over that of inputs
ALPHA = 0.05


def below(value: float, interval: tuple[float, float] | None, threshold: float) -> bool | None:
    """True when the whole interval is at most the threshold, False when none of it is, None in between."""
    flipped = None if interval is None else (-interval[1], -interval[0])
    return decide(-value, flipped, -threshold)


def linear_curve(rows: Sequence[Row]) -> Verdict | None:
    """D2: is the activation-matched family what the same search finds on the linear map?"""
    measured = numbers(select(rows, kind="linear", how="measured"), "loss")

    def distances(expansion: str) -> list[float]:
        found = numbers(select(rows, kind="linear", how="search", expansion=expansion), "loss")
        return [abs(a - b) for a, b in zip(measured, found)]

    path, zero = distances("path"), distances("zero")
    if len(path) < 2:
        return None
    value, interval = mean_interval(path)
    return Verdict(
        "The activation-matched family is the one a linear map would give",
        f"the same search on the path-mean Jacobian gives relative losses within {SAME_CURVE} on average",
        "mean |measured loss - loss on the linear map|, vector by vector; the control takes the Jacobian at 0",
        value,
        interval,
        SAME_CURVE,
        fmean(zero) if zero else None,
        below(value, interval, SAME_CURVE),
    )


def beyond_capacity(rows: Sequence[Row]) -> Verdict | None:
    """Are there more good vectors than the path-mean linear map can hold at their norm?"""
    found = {row["expansion"]: row for row in select(rows, kind="capacity")}
    if "path" not in found or not select(rows, kind="linear", how="measured"):
        return None
    predicted = len(
        [
            x
            for x in numbers(select(rows, kind="linear", how="search", expansion="path"), "loss")
            if x <= found["path"]["loss"]
        ]
    )
    value = found["path"]["good"] / found["path"]["ridge"]
    return Verdict(
        "There are more activation-matched vectors than a linear response can hold",
        f"vectors with relative loss at most {found['path']['loss']} exceed the ridge capacity at their largest norm",
        "count over the ridge capacity of the path-mean Jacobian; the control is the same search's count on that map",
        value,
        None,
        HOLDS,
        predicted / found["path"]["ridge"],
        value > HOLDS,
    )


def beyond_gradient(rows: Sequence[Row], match: str) -> Verdict | None:
    """Are there more working vectors than one gradient could serve?"""
    found = select(rows, kind="gradient", match=match, expansion="path")
    if not found or not found[0]["bound"]:
        return None
    row, zero = found[0], select(rows, kind="gradient", match=match, expansion="zero")
    value = row["working"] / row["bound"]
    return Verdict(
        f"More vectors work than one gradient allows ({match} match)",
        "working vectors exceed (norm |g| / threshold)^2 with g the mean gradient along the path to the base",
        "count over the bound; the control takes the gradient at 0",
        value,
        None,
        HOLDS,
        zero[0]["working"] / zero[0]["bound"] if zero and zero[0]["bound"] else None,
        value > HOLDS,
    )


def one_side(rows: Sequence[Row], match: str) -> Verdict | None:
    """Do all vectors lie on one side of the effect's gradient at 0?"""
    found = select(rows, kind="gradient", match=match, expansion="zero")
    if not found or found[0]["trials"] < 4:
        return None
    value, interval = found[0]["positive"] / found[0]["trials"], rate_interval(found[0]["positive"], found[0]["trials"])
    return Verdict(
        f"The vectors lie on one side of the effect's gradient at 0 ({match} match)",
        f"at least {ONE_SIDE} of the working vectors have a positive projection; on a linear map all have",
        "share with a positive projection; the control shuffles the gradient",
        value,
        interval,
        ONE_SIDE,
        found[0]["sign_null"],
        decide(value, interval, ONE_SIDE),
    )


def composition(rows: Sequence[Row], match: str) -> Verdict | None:
    """Do means need a larger scale than a quadratic form's?"""
    found = {row["group"]: row for row in select(rows, kind="composition", match=match)}
    own = found.get("family")
    if own is None or own["exponent"] is None:
        return None
    interval = (own["low"], own["high"])
    return Verdict(
        f"Vectors compose like separate features, not like a quadratic form ({match} match)",
        f"the composition exponent is above {QUADRATIC}: 1 is linear, 2 quadratic; 99 stands for unbounded",
        "composition exponent of means; the control is a random orthogonal set from the family's own span",
        own["exponent"],
        interval,
        QUADRATIC,
        found.get("mixed", {}).get("exponent"),
        decide(own["exponent"], interval, QUADRATIC),
    )


def signed(rows: Sequence[Row], match: str) -> Verdict | None:
    """Does the effect go away under -theta?"""
    found = select(rows, kind="signs", match=match)
    if not found or found[0].get("negated") is None:
        return None
    row = found[0]
    failing = row["own"] - row["negated"]
    value, interval = failing / row["own"], rate_interval(failing, row["own"])
    return Verdict(
        f"The vectors have a sign: their negatives do not work ({match} match)",
        f"at least {SIGNED} of the working vectors fail when negated; even responses lose none",
        "share that fails when negated; the control is the share of random-sign means of 4 that fail",
        value,
        interval,
        SIGNED,
        1 - row["random"] / row["subsets"],
        decide(value, interval, SIGNED),
    )


def steep(rows: Sequence[Row], match: str) -> Verdict | None:
    """Does the effect grow faster than strength?"""
    family = numbers(select(rows, kind="dosed", match=match, group="family"), "exponent")
    base = numbers(select(rows, kind="dosed", match=match, group="base"), "exponent")
    if len(family) < 2:
        return None
    value, interval = mean_interval(family)
    return Verdict(
        f"The effect grows faster than strength ({match} match)",
        f"mean dose exponent of the vectors at least {ABOVE_PROPORTION}; 1 is in proportion",
        "slope of log effect on log scale between 5 and 80 % of the base's effect; the control is the base itself",
        value,
        interval,
        ABOVE_PROPORTION,
        base[0] if base else None,
        decide(value, interval, ABOVE_PROPORTION),
    )


def spectrum(rows: Sequence[Row], match: str) -> Verdict | None:
    """D5: does the second-order spectrum at 0 predict how many vectors work at each norm?"""
    counts = [row for row in select(rows, kind="count", match=match) if row["searched"] and row["measured"] >= 3]
    if len(counts) < 2:
        return None

    def distances(name: str) -> list[float]:
        # no more can be found than were searched for
        return [abs(math.log2(max(min(row[name], row["size"]), 0.5) / row["measured"])) for row in counts]

    value, interval = mean_interval(distances("zero"))
    return Verdict(
        f"The effect's second-order spectrum at 0 predicts the count of vectors at each norm ({match} match)",
        f"predicted and found counts differ by at most a factor {2**FACTOR:g} on average",
        "mean |log2(predicted / found)| over norm caps with at least 3 found; the control uses the gradient at 0 alone",
        value,
        interval,
        FACTOR,
        fmean(distances("gradient_only")),
        below(value, interval, FACTOR),
    )


def fewer_outputs(rows: Sequence[Row], match: str) -> Verdict | None:
    """H22: do the vectors do fewer things than they are?"""
    found = select(rows, kind="ratio", match=match)
    if not found:
        return None
    row = found[0]
    special = row["p_low"] <= ALPHA
    supported = False if row["value"] > FEWER_OUTPUTS else True if special else None
    return Verdict(
        f"The vectors do fewer things than they are ({match} match)",
        f"effective rank of the displacements at most {FEWER_OUTPUTS} of the vectors' own, and below that of random "
        f"orthogonal vectors of the same norms at p <= {ALPHA}",
        f"ratio of effective ranks (p = {row['p_low']:.3f}); the control is the random vectors' mean ratio",
        row["value"],
        None,
        FEWER_OUTPUTS,
        row["null"],
        supported,
    )


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Every verdict the recorded rows allow."""
    found = [linear_curve(rows), beyond_capacity(rows)]
    for match in ("kl", "activation"):
        found += [
            each(rows, match)
            for each in (beyond_gradient, one_side, composition, signed, steep, spectrum, fewer_outputs)
        ]
    return [verdict for verdict in found if verdict is not None]


def headline(rows: Sequence[Row], found: Sequence[Verdict], model: str) -> str:
    """One sentence: which simple stories the family's numbers leave standing."""
    match = "kl" if select(rows, kind="gradient", match="kl") else "activation"
    parts = []
    gradient = select(rows, kind="gradient", match=match, expansion="path")
    if gradient:
        parts.append(
            f"{gradient[0]['working']} vectors reach half of the base's effect where one gradient allows "
            f"{gradient[0]['bound']:.1f}"
        )
    composed = [row for row in select(rows, kind="composition", match=match, group="family") if row["exponent"]]
    if composed:
        low, high = composed[0]["low"], composed[0]["high"]
        parts.append(
            f"means compose with exponent {composed[0]['exponent']:.2f} [{low:.2f}, {high:.2f}] (1 linear, 2 quadratic)"
        )
    ratio = select(rows, kind="ratio", match=match)
    if ratio:
        parts.append(
            f"their displacements have {ratio[0]['value']:.2f} of their own effective rank, "
            f"those of random vectors {ratio[0]['null']:.2f}"
        )
    said = {True: 0, False: 0, None: 0}
    for verdict in found:
        said[verdict.supported] += 1
    return (
        f"Null models for the {match}-matched family on {model}: {'; '.join(parts)}. Of {len(found)} predictions "
        f"{said[True]} are supported, {said[False]} refuted, {said[None]} undecided."
    )

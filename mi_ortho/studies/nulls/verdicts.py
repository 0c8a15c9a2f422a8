"""Verdicts of `nulls` from its recorded rows. The thresholds are constants of this file, written before any run."""

import math
from collections.abc import Sequence
from statistics import fmean

from mi_ortho.multiplicity.response import inverse_exponent
from mi_ortho.runs.rows import Record, numbers, pick
from mi_ortho.stats import (
    POSITIVE_SCALE,
    Decision,
    Measured,
    Verdict,
    agreed,
    count_ratio,
    decide,
    judge,
    mean,
    rate,
    tally_text,
)
from mi_ortho.studies.family.finished import BEYOND_LINEAR

SAME_CURVE = 0.1  # largest mean distance of two loss curves that count as the same
HOLDS = 1.0  # count over its bound
QUADRATIC = 0.5  # 1/p of a quadratic form, p the composition exponent; separate features have a smaller one
ABOVE_PROPORTION = 1.5  # dose exponent
SIGNED = 0.5  # share of working vectors whose negative fails
ONE_SIDE = 0.8  # share of vectors on one side of the gradient
FACTOR = 1.0  # predicted over measured count, distance from 1 in powers of 2
FEWER_OUTPUTS = 0.5  # effective rank of outputs over that of inputs
ALPHA = 0.05
FEW = 3  # measured vectors at a norm, below which a ratio of counts means nothing


def linear_curve(rows: Sequence[Record]) -> Verdict | None:
    """Is the activation-matched family what the same search finds on the linear map?"""
    measured = numbers(pick(rows, kind="linear", how="measured"), "loss")

    def distances(expansion: str) -> list[float]:
        losses = numbers(pick(rows, kind="linear", how="search", expansion=expansion), "loss")
        return [abs(a - b) for a, b in zip(measured, losses)]

    path, zero = distances("path"), distances("zero")
    if len(path) < 2:
        return None
    estimate = mean(path, scale=POSITIVE_SCALE)
    return judge(
        "The activation-matched family is the one a linear map would give",
        f"the same search on the path-mean Jacobian gives relative losses within {SAME_CURVE} on average",
        "mean |measured loss - loss on the linear map|, vector by vector; the control takes the Jacobian at 0",
        estimate,
        SAME_CURVE,
        fmean(zero) if zero else None,
        decide(estimate, SAME_CURVE, side="at most"),
    )


def beyond_capacity(rows: Sequence[Record]) -> Verdict | None:
    """Are there more good vectors than the path-mean linear map can hold at their norm?"""
    maps = {row["expansion"]: row for row in pick(rows, kind="capacity")}
    if "path" not in maps or not pick(rows, kind="linear", how="measured"):
        return None
    predicted = len(
        [
            x
            for x in numbers(pick(rows, kind="linear", how="search", expansion="path"), "loss")
            if x <= maps["path"]["loss"]
        ]
    )
    # a linear story may be told with either Jacobian: it is ruled out where neither map has room for the vectors
    counts = {name: count_ratio(int(row["good"]), float(row["ridge"])) for name, row in maps.items() if row["ridge"]}
    if "path" not in counts:
        return None
    return judge(
        "There are more activation-matched vectors than a linear response can hold",
        f"vectors with relative loss at most {maps['path']['loss']} exceed the ridge capacity at their largest norm",
        "count over the ridge capacity of the path-mean Jacobian, decided only where the Jacobian at 0 says the same; "
        "the control is the same search's count on that map",
        counts["path"],
        HOLDS,
        predicted / maps["path"]["ridge"],
        agreed([decide(count, HOLDS) for count in counts.values()]),
        BEYOND_LINEAR,
    )


def beyond_gradient(rows: Sequence[Record], match: str) -> Verdict | None:
    """Are there more working vectors than one gradient could serve?"""
    gradients = pick(rows, kind="gradient", match=match, expansion="path")
    if not gradients or not gradients[0]["bound"]:
        return None
    row, zero = gradients[0], pick(rows, kind="gradient", match=match, expansion="zero")
    count = count_ratio(int(row["working"]), float(row["bound"]))
    return judge(
        f"More vectors work than one gradient allows ({match} match)",
        "working vectors exceed (norm |g| / threshold)^2 with g the mean gradient along the path to the base",
        "count over the bound; the control takes the gradient at 0",
        count,
        HOLDS,
        zero[0]["working"] / zero[0]["bound"] if zero and zero[0]["bound"] else None,
        decide(count, HOLDS),
    )


def one_side(rows: Sequence[Record], match: str) -> Verdict | None:
    """Do all vectors lie on one side of the effect's gradient at 0?"""
    gradients = pick(rows, kind="gradient", match=match, expansion="zero")
    if not gradients or gradients[0]["trials"] < 4:
        return None
    share = rate(int(gradients[0]["positive"]), int(gradients[0]["trials"]))
    return judge(
        f"The vectors lie on one side of the effect's gradient at 0 ({match} match)",
        f"at least {ONE_SIDE} of the working vectors have a positive projection; on a linear map all have",
        "share with a positive projection; the control shuffles the gradient",
        share,
        ONE_SIDE,
        gradients[0]["sign_null"],
        decide(share, ONE_SIDE),
    )


def composition(rows: Sequence[Record], match: str) -> Verdict | None:
    """Do means need a larger scale than a quadratic form's?"""
    groups = {row["group"]: row for row in pick(rows, kind="composition", match=match)}
    family = groups.get("family")
    if family is None or family["exponent"] is None:
        return None
    measured = inverse(family)
    mixed = groups.get("mixed", {}).get("exponent")
    return judge(
        f"Vectors compose like separate features, not like a quadratic form ({match} match)",
        f"1/p of means at most {QUADRATIC}: 1 is linear, 1/2 a quadratic form, 0 separate features",
        "1/p of means; the control is a random orthogonal set from the family's own span",
        measured,
        QUADRATIC,
        1 / mixed if mixed else None,
        decide(measured, QUADRATIC, side="at most"),
    )


def inverse(row: Record) -> Measured:
    """1/p of a row of composition, with its interval."""
    return inverse_exponent(float(row["exponent"]), (float(row["low"]), float(row["high"])), row.get("working"))


def signed(rows: Sequence[Record], match: str) -> Verdict | None:
    """Is the effect lost under -theta?"""
    signs = pick(rows, kind="signs", match=match)
    if not signs or signs[0].get("negated") is None:
        return None
    row = signs[0]
    share = rate(int(row["own"] - row["negated"]), int(row["own"]))
    decision = decide(share, SIGNED)
    # vectors that were chosen because they work lose by any change; all of them lose only where the sign matters
    p_value = row.get("all_p")
    if decision.supported and (p_value is None or p_value > ALPHA or row["all_negated"] >= row["all_own"]):
        decision = Decision(None, "over all vectors, own and reversed signs do not differ")
    return judge(
        f"The vectors have a sign: their negatives do not work ({match} match)",
        f"at least {SIGNED} of the working vectors fail when negated; even responses lose none",
        "share that fails when negated, which counts only where over all vectors the negatives work less often "
        f"(paired p at most {ALPHA}); the control is the share of random-sign means of 4 that fail",
        share,
        SIGNED,
        1 - row["random"] / row["subsets"],
        decision,
    )


def steep(rows: Sequence[Record], match: str) -> Verdict | None:
    """Does the effect grow faster than strength?"""
    family = numbers(pick(rows, kind="dosed", match=match, group="family"), "exponent")
    base = numbers(pick(rows, kind="dosed", match=match, group="base"), "exponent")
    if len(family) < 2:
        return None
    estimate = mean(family)
    return judge(
        f"The effect grows faster than strength ({match} match)",
        f"mean dose exponent of the vectors at least {ABOVE_PROPORTION}; 1 is in proportion",
        "slope of log effect on log scale between 5 and 80 % of the base's effect; the control is the base itself",
        estimate,
        ABOVE_PROPORTION,
        base[0] if base else None,
        decide(estimate, ABOVE_PROPORTION),
    )


def spectrum(rows: Sequence[Record], match: str) -> Verdict | None:
    """Does the second-order spectrum at 0 predict how many vectors work at each norm?"""
    counts = [row for row in pick(rows, kind="count", match=match) if row["searched"] and row["measured"] >= FEW]
    if len(counts) < 2:
        return None
    ended = [row for row in counts if not censored(row)]

    def distances(name: str) -> list[float]:
        return [abs(math.log2(max(row[name], 0.5) / row["measured"])) for row in ended]

    estimate = mean(distances("zero"), scale=POSITIVE_SCALE)
    failed = "" if ended else f"the family had not ended at any of {len(counts)} norm caps, so it was not counted"
    return judge(
        f"The effect's second-order spectrum at 0 predicts the count of vectors at each norm ({match} match)",
        f"predicted and found counts differ by at most a factor {2**FACTOR:g} on average",
        f"mean |log2(predicted / found)| over norm caps with at least {FEW} found and at which the family had ended "
        f"({len(ended)} of {len(counts)}); the control uses the gradient at 0 alone",
        estimate,
        FACTOR,
        fmean(distances("gradient_only")) if ended else None,
        decide(estimate, FACTOR, side="at most", failed=failed),
    )


def censored(row: Record) -> bool:
    """Whether the family may go on at this cap, so that its count is too low: its last vectors still work.

    Rows of older runs have no `late`; there a family counts as ended if fewer than half of its vectors work.
    """
    late = row.get("late")
    return bool(late) if late is not None else row["measured"] >= 0.5 * row["size"]


def fewer_outputs(rows: Sequence[Record], match: str) -> Verdict | None:
    """Do the vectors' displacements have a smaller effective rank than the vectors?"""
    ratios = pick(rows, kind="ratio", match=match)
    if not ratios:
        return None
    row = ratios[0]
    few, special = row["value"] <= FEWER_OUTPUTS, row["p_low"] <= ALPHA
    decision = Decision(False) if not few else Decision(True if special else None, "" if special else "p is too large")
    return judge(
        f"The vectors do fewer things than they are ({match} match)",
        f"effective rank of the displacements at most {FEWER_OUTPUTS} of the vectors' own, and below that of random "
        f"orthogonal vectors of the same norms at p <= {ALPHA}",
        f"ratio of effective ranks (p = {row['p_low']:.3f}); the control is the random vectors' mean ratio",
        Measured(row["value"], None, "p-value of random vectors"),
        FEWER_OUTPUTS,
        row["null"],
        decision,
    )


def verdicts(rows: Sequence[Record]) -> list[Verdict]:
    """Every verdict the recorded rows allow."""
    claims = [linear_curve(rows), beyond_capacity(rows)]
    for match in ("kl", "activation"):
        claims += [
            each(rows, match)
            for each in (beyond_gradient, one_side, composition, signed, steep, spectrum, fewer_outputs)
        ]
    return [verdict for verdict in claims if verdict is not None]


def headline(rows: Sequence[Record], claims: Sequence[Verdict], model: str) -> str:
    """The headline: the measures of the larger family beside the simple null models, and how many predictions held."""
    gradients = pick(rows, kind="gradient", expansion="path")
    match = max(gradients, key=lambda row: (row["working"], row["match"]))["match"] if gradients else "activation"
    parts = []
    gradient = pick(gradients, match=match)
    if gradient:
        parts.append(
            f"{gradient[0]['working']} vectors reach half of the base's effect where one gradient allows "
            f"{gradient[0]['bound']:.1f}"
        )
    composed = [row for row in pick(rows, kind="composition", match=match, group="family") if row["exponent"]]
    if composed:
        means = inverse(composed[0])
        low, high = means.interval or (math.nan, math.nan)
        parts.append(
            f"means compose with 1/p = {means.value:.2f} [{low:.2f}, {high:.2f}] (1 linear, 1/2 quadratic, 0 separate "
            "features)"
        )
    ratio = pick(rows, kind="ratio", match=match)
    if ratio:
        parts.append(
            f"their displacements have {ratio[0]['value']:.2f} of their own effective rank, "
            f"those of random vectors {ratio[0]['null']:.2f}"
        )
    return (
        f"Null models for the {match}-matched family on {model}: {'; '.join(parts)}. Of {len(claims)} predictions "
        f"{tally_text(claims)}."
    )

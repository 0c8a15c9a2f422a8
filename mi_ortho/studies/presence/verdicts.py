"""Verdicts and summary of a presence run: pure functions of its records.

Predictions and thresholds are constants of this file, written before any run.
"""

from collections.abc import Sequence
from statistics import fmean

from mi_ortho.runs.rows import Record, pick
from mi_ortho.stats import (
    POSITIVE_SCALE,
    Decision,
    Measured,
    Verdict,
    agreed,
    all_of,
    decide,
    judge,
    mean,
    rate,
    stands,
)
from mi_ortho.studies.presence.contrasts import NULLS, PRIMARY
from mi_ortho.studies.presence.layers import discoveries

MEAN_AUC = 0.55  # the family is present in code if its mean AUC reaches this and is above that of sets of equal size
LEVEL = 0.01  # largest p-value against each kind of set that counts as above it
MOST = 0.5  # share of vectors that are each more present in code than vectors of covariance-matched sets
FALSE_SHARE = 0.05  # share of false discoveries tolerated among them
COHERENT = 0.75  # share of vectors on code's side of the class difference; 1/2 by chance
PROBES_SHARE = 0.5  # nullspace probes, as a share of the family's size, from which there are "as many"
STRONG = 0.02  # a vector that holds one fiftieth of an activation at its strongest counts as strongly present


def verdicts(rows: Sequence[Record], source: int) -> list[Verdict]:
    """Every verdict, about the layer the vectors were made for."""
    return [
        present(rows, source),
        discovered(rows, source),
        carried(rows, source),
        coherent(rows, source),
        concentrated(rows, source),
        *probes_exhaust(rows, source),
    ]


def family_and_nulls(rows: Sequence[Record], layer: int, name: str) -> tuple[Record, dict[str, Record], Record]:
    """The records of the family's own set, of each null, and of the contrast itself."""
    sets = {str(row["null"]): row for row in pick(rows, kind="sets", layer=layer, contrast=name)}
    [summary] = pick(rows, kind="contrast", layer=layer, contrast=name)
    return sets["family"], {null: sets[null] for null in NULLS}, summary


def present(rows: Sequence[Record], source: int) -> Verdict:
    """Is the family, as a whole, more present where the model writes code?"""
    family, nulls, summary = family_and_nulls(rows, source, PRIMARY)
    low, high = summary["interval"]
    estimate = Measured(family["mean_auc"][0], (float(low), float(high)), "bootstrap over passages")
    beyond = [stands(summary[f"p_mean_auc_{null}"], len(nulls[null]["mean_auc"]), LEVEL) for null in NULLS]
    return judge(
        "The orthogonal vectors are present in the model's activations while it writes code",
        f"mean AUC of presence, own code against own English on the same topics, at least {MEAN_AUC}, and above sets "
        f"of equal size with p at most {LEVEL}: isotropic, covariance-matched, rotated principal components",
        f"mean AUC over the family at layer {source}; p = "
        + ", ".join(f"{summary[f'p_mean_auc_{null}']:.3g} ({null})" for null in NULLS)
        + "; the control is covariance-matched",
        estimate,
        MEAN_AUC,
        fmean(nulls["covariance"]["mean_auc"]),
        all_of([decide(estimate, MEAN_AUC), *beyond]),
    )


def discovered(rows: Sequence[Record], source: int) -> Verdict:
    """How many vectors are each more present in code than members of covariance-matched sets?"""
    vectors = pick(rows, kind="presence", layer=source)
    family, lost = ([row for row in vectors if row["what"] == what] for what in ("kept", "lost"))
    hits = sum(discoveries(family, f"p_covariance_{PRIMARY}", FALSE_SHARE))
    share = rate(hits, len(family))
    labels = sum(discoveries(family, f"p_labels_{PRIMARY}", FALSE_SHARE))
    control = sum(discoveries(lost, f"p_covariance_{PRIMARY}", FALSE_SHARE)) / len(lost) if lost else None
    return judge(
        "Most of the vectors are each more present in code than covariance-matched directions",
        f"at least {MOST} of them at a false-discovery rate of {FALSE_SHARE} (Benjamini and Hochberg)",
        f"share of {len(family)} vectors whose AUC stands out of the covariance-matched vectors'; the control is the "
        f"same share of the {len(lost)} vectors of the family that lost the behaviour; {labels} vectors tell code from "
        "English at all (shuffled labels)",
        share,
        MOST,
        control,
        decide(share, MOST),
    )


def carried(rows: Sequence[Record], source: int) -> Verdict:
    """Do activations on code lie along the vectors, or outside them as with adversarial directions?"""
    family, nulls, summary = family_and_nulls(rows, source, PRIMARY)
    value, controls = family["mean_share"][0], nulls["isotropic"]["mean_share"]
    p_value = summary["p_mean_share_isotropic"]
    return judge(
        "In code, activations lie along the family more than along a random set of its size",
        f"share of |h|² along the family above that of isotropic sets with p at most {LEVEL}",
        f"mean share of |h|² in the family's span at layer {source}; p = {p_value:.3g} (isotropic), "
        f"{summary['p_mean_share_covariance']:.3g} (covariance-matched); the control is the isotropic mean",
        Measured(value, None, "p-value of isotropic sets"),
        max(controls),
        fmean(controls),
        stands(p_value, len(controls), LEVEL),
    )


def coherent(rows: Sequence[Record], source: int) -> Verdict:
    """Do the vectors lie on one side of the mean difference between code and English?"""
    family, nulls, summary = family_and_nulls(rows, source, PRIMARY)
    count = sum(row["what"] == "kept" for row in pick(rows, kind="presence", layer=source))
    share = rate(round(family["coherence"][0] * count), count)
    return judge(
        "The vectors lie on code's side of the difference between code and English",
        f"at least {COHERENT} of them have a positive cosine with the difference of class means; 1/2 by chance",
        f"share of vectors with a positive cosine at layer {source}; mean cosine {summary['cosine_mean']:.3g}",
        share,
        COHERENT,
        fmean(nulls["isotropic"]["coherence"]),
        decide(share, COHERENT),
    )


def concentrated(rows: Sequence[Record], source: int) -> Verdict:
    """Does the family hold more of the class difference than a random set of its size (n / d_model)?"""
    family, nulls, summary = family_and_nulls(rows, source, PRIMARY)
    value, controls = family["bessel"][0], nulls["isotropic"]["bessel"]
    return judge(
        "The family holds more of the difference between code and English than a random set of its size",
        f"sum of squared cosines above that of isotropic sets with p at most {LEVEL}",
        f"sum of squared cosines with the class difference at layer {source}, at most 1; "
        f"p = {summary['p_bessel_isotropic']:.3g} (isotropic), {summary['p_bessel_covariance']:.3g} (covariance)",
        Measured(value, None, "p-value of isotropic sets"),
        max(controls),
        fmean(controls),
        stands(summary["p_bessel_isotropic"], len(controls), LEVEL),
    )


def probes_exhaust(rows: Sequence[Record], source: int) -> list[Verdict]:
    """Are there as many orthogonal linear probes for code as there are vectors?"""
    size = sum(row["what"] == "kept" for row in pick(rows, kind="presence", layer=source))
    fits = {
        (fit, shuffled): pick(rows, kind="probes", fit=fit, shuffled=shuffled)
        for fit in ("discriminant", "logistic")
        for shuffled in (False, True)
    }
    shares = {key: [row["count"] / size for row in few] for key, few in fits.items()}
    if not shares["discriminant", False] or not shares["logistic", False]:
        return []
    estimate = mean(shares["discriminant", False], scale=POSITIVE_SCALE)
    other = fmean(shares["logistic", False])
    reached = decide(estimate, PROBES_SHARE)
    overlaps = [row for row in fits["discriminant", False] if row["overlap"]]
    shared = (
        (
            f"; overlap of their span with the family's {fmean(row['overlap'] for row in overlaps):.3g}, by chance "
            f"{fmean(row['overlap_chance'] for row in overlaps):.3g}"
        )
        if overlaps
        else ""
    )
    return [
        judge(
            "There are about as many orthogonal linear probes for code as there are steering vectors",
            f"iterative nullspace projection finds at least {PROBES_SHARE} times as many probes as "
            f"the family has vectors, "
            "both with discriminants and with logistic probes",
            f"discriminants above chance on held-out passages before the first at chance, relative to "
            f"{size} vectors, over "
            f"splits (logistic probes: {other:.3g}){shared}; the control has shuffled labels",
            estimate,
            PROBES_SHARE,
            fmean(shares["discriminant", True]),
            agreed([reached, Decision(other >= PROBES_SHARE)]),
        )
    ]


def summarise(rows: Sequence[Record], source: int, model: str, tokens: int) -> dict[str, object]:
    """summary.json of a presence run."""
    family, nulls, summary = family_and_nulls(rows, source, PRIMARY)
    vectors = [row for row in pick(rows, kind="presence", layer=source) if row["what"] == "kept"]
    strong = sum(row["largest_share_code_own"] >= STRONG for row in vectors)
    verdict = present(rows, source)
    word = {"supported": "is", "not supported": "is less than predicted"}.get(verdict.outcome, "may be")
    headline = (
        f"The family {word} present in {model}'s own coding: its {len(vectors)} vectors tell code from English on the "
        f"same topics with a mean AUC of {family['mean_auc'][0]:.3f} (1/2 is none), covariance-matched sets of equal "
        f"size with {fmean(nulls['covariance']['mean_auc']):.3f} ± {_spread(nulls['covariance']['mean_auc']):.3f}; in "
        f"either direction, a mean |AUC − 1/2| of {family['separation'][0]:.3f} against "
        f"{fmean(nulls['covariance']['separation']):.3f} ± {_spread(nulls['covariance']['separation']):.3f}. "
        f"{tokens:,} tokens were read."
    )
    tiles = [
        [f"{family['mean_auc'][0]:.3f}", "mean AUC of the family, code against English"],
        [f"{summary['p_mean_auc_covariance']:.2g}", "p against covariance-matched sets"],
        [f"{family['explained'][0]:.1%}", "variance of code activations in its span"],
        [f"{strong} of {len(vectors)}", f"vectors that reach {STRONG:.0%} of some activation"],
    ]
    return {"headline": headline, "tiles": tiles, "verdicts": verdicts(rows, source)}


def _spread(values: Sequence[float]) -> float:
    centre = fmean(values)
    return (sum((value - centre) ** 2 for value in values) / max(1, len(values) - 1)) ** 0.5

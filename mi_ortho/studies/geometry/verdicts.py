"""Verdicts on the seven claims about depth, from recorded rows. The thresholds were fixed before any run.

Each row carries `network`: "model", or a control, "untrained" (random initial weights) or "shuffled" (the model's own
weights, permuted within each matrix), and rows of curves carry `group`: "all" prompts or one of the two sets.
"""

from collections.abc import Sequence
from statistics import fmean

from mi_ortho.runs.rows import Record, pick
from mi_ortho.stats import Decision, Interval, Measured, Verdict, all_of, decide, judge

STRAIGHT = 0.8  # R² of log variance over depth from which growth is called near-exponential
DECISIVE = 2.0  # difference of AICc from which one law is preferred
SEPARATE = 0.05  # mean log(mid / pre) from which the two streams are separate: five per cent
HALF = 0.5  # attention's share of the growth that depth alone explains
SHARED = 1.5  # overlap over chance from which directions are shared
ALIGNED = 0.2  # cosine between successive updates from which they go the same way
CONSTANT = 0.05  # slope of log update length per block up to which every layer moves equally far
SAME = 0.8  # share of a learned map's prediction that a plain number must reach for layers to be one space
FLAT = 0.05  # relative excess of detours over a flat cloud's up to which a layer is called flat


def curves_rise(rows: Sequence[Record]) -> Verdict | None:
    """E: variance grows along a straight line in the logarithm in every curve."""

    def steepest(network: str) -> list[Record]:
        fits = pick(rows, kind="fit", network=network, form="exponential")
        return [row for row in fits if row["group"] != "all" and row["statistic"] != "mean_norm"]

    fits = steepest("model")
    if not fits:
        return None
    worst = min(fits, key=_signed)
    control = [_signed(row) for row in steepest("untrained")]
    interval = (worst["r_squared_low"], worst["r_squared_high"]) if worst["slope_low"] > 0 else (0.0, 0.0)
    return _judge(
        "E: the variance over prompts grows from layer to layer, in both streams, for both sets of prompts",
        f"a rising line of log-linear R² at least {STRAIGHT} in every curve (two streams, two sets, mean and maximum)",
        "smallest R² of all curves (0 for a falling one), bootstrap over prompts; control: an untrained network's",
        _signed(worst),
        interval,
        STRAIGHT,
        min(control, default=None),
    )


def exponential_growth(rows: Sequence[Record]) -> Verdict | None:
    """F: the mean variance grows exponentially rather than as a power of depth."""
    law = pick(rows, kind="law", network="model", group="all", stream="pre", statistic="mean_variance")
    fit = pick(
        rows, kind="fit", network="model", group="all", stream="pre", statistic="mean_variance", form="exponential"
    )
    control = pick(rows, kind="law", network="untrained", group="all", stream="pre", statistic="mean_variance")
    if not law or not fit:
        return None
    straight = _estimate(fit[0]["r_squared"], (fit[0]["r_squared_low"], fit[0]["r_squared_high"]))
    return _judge(
        "F: the mean variance grows near-exponentially with depth",
        f"AICc of a power law exceeds that of an exponential by at least {DECISIVE}, and R² is at least {STRAIGHT}",
        "AICc(power) - AICc(exponential) of the pre stream, bootstrap over prompts; control: an untrained network's",
        law[0]["preference"],
        (law[0]["preference_low"], law[0]["preference_high"]),
        DECISIVE,
        control[0]["preference"] if control else None,
        [decide(straight, STRAIGHT)],
    )


def streams_separate(rows: Sequence[Record]) -> Verdict | None:
    """G: the variance of mid is larger than that of pre."""
    gap, control = _one(rows, "mean_gap", "model"), _one(rows, "mean_gap", "untrained")
    if gap is None:
        return None
    return _judge(
        "G: the curves of the pre and mid streams are separate",
        f"mean over layers of log(variance of mid / variance of pre) at least {SEPARATE}",
        "mean log ratio, paired over prompts, bootstrap; control: an untrained network's",
        gap["value"],
        (gap["low"], gap["high"]),
        SEPARATE,
        control["value"] if control else None,
    )


def attention_adds_more(rows: Sequence[Record]) -> Verdict | None:
    """G, the reason: attention adds more than half of the growth of a block."""
    gap, control = _one(rows, "mean_gap", "model"), _one(rows, "mean_gap", "untrained")
    if gap is None:
        return None
    return _judge(
        "G (why): attention adds more of the growth than the MLP, so mid is not just half a block further",
        f"attention's share of the log growth of a block above {HALF}",
        "mean log(mid / pre) over mean log(post / pre), bootstrap; control: an untrained network's",
        gap["share"],
        (gap["share_low"], gap["share_high"]),
        HALF,
        control["share"] if control else None,
    )


def directions_shared(rows: Sequence[Record]) -> Verdict | None:
    """H: output matrices of different layers write to the same directions."""
    overlap, control = (pick(rows, kind="overlap", network=name, part="both") for name in ("model", "shuffled"))
    if not overlap:
        return None
    row = overlap[0]
    return _judge(
        "H: the layers' output matrices write along shared directions",
        f"mean overlap of their {row['k']} leading directions at least {SHARED} times that of random rotations",
        "mean overlap over that of random rotations, interval over the rotations; control: shuffled weights",
        row["value"] / row["chance"],
        (row["value"] / row["chance_high"], row["value"] / row["chance_low"]),
        SHARED,
        control[0]["value"] / control[0]["chance"] if control else None,
    )


def updates_aligned(rows: Sequence[Record]) -> Verdict | None:
    """H: updates of successive blocks point in similar directions."""
    updates, control = _one(rows, "updates", "model"), _one(rows, "updates", "shuffled")
    if updates is None:
        return None
    return _judge(
        "H: successive layers move the state in similar directions",
        f"mean cosine between the additions of successive blocks at least {ALIGNED}",
        "mean cosine over prompts and blocks, bootstrap; control: shuffled weights",
        updates["alignment"],
        (updates["alignment_low"], updates["alignment_high"]),
        ALIGNED,
        control["alignment"] if control else None,
    )


def equal_moves(rows: Sequence[Record]) -> Verdict | None:
    """I: every layer moves the state about equally far, so that the norm grows linearly."""
    updates, control = _one(rows, "updates", "model"), _one(rows, "updates", "untrained")
    if updates is None:
        return None
    slope = _estimate(updates["slope"], (updates["slope_low"], updates["slope_high"]))
    return judge(
        "I: every layer moves the state about equally far, so its norm grows linearly",
        f"slope of the log length of a block's addition between -{CONSTANT} and {CONSTANT} per block",
        "slope of log mean length over depth, bootstrap over prompts; control: an untrained network's",
        slope,
        CONSTANT,
        control["slope"] if control else None,
        decide(slope, CONSTANT, side="within"),
    )


def one_space(rows: Sequence[Record]) -> Verdict | None:
    """J: a single factor predicts one layer from another nearly as well as a learned map does."""
    pairs = pick(rows, kind="carried", network="model")
    if not pairs:
        return None
    each = [_relative(pick(pairs, split=split), "scaling") for split in sorted({row["split"] for row in pairs})]
    return _judge(
        "J: the activations of all layers lie in one space",
        f"a single number predicts one layer from another at least {SAME} times as well as a learned map",
        "share of variance predicted by a number over that by the better of rotation and linear map, on prompts "
        "neither was fitted on, range over random halves; control: after a random rotation",
        _relative(pairs, "scaling"),
        (min(each), max(each)),
        SAME,
        _relative(pairs, "turned"),
    )


def space_is_flat(rows: Sequence[Record]) -> Verdict | None:
    """K: distances along the cloud are no longer than in a flat cloud of the same covariance."""
    flat = pick(rows, kind="flat", network="model")
    if not flat:
        return None

    def mean_ratio(cloud: str, copy: int) -> float:
        return fmean(row["ratio"] for row in pick(flat, cloud=cloud, copy=copy))

    copies = sorted({row["copy"] for row in pick(flat, cloud="gaussian")})
    measured = mean_ratio("measured", 0)
    excess = sorted(measured / mean_ratio("gaussian", copy) - 1 for copy in copies)
    grouped = fmean(measured / mean_ratio("grouped", copy) - 1 for copy in copies)
    estimate = Measured(fmean(excess), (excess[0], excess[-1]), "range over copies", len(excess))
    return judge(
        "K: the space of activations is Euclidean",
        f"mean detour along the neighbour graph within {FLAT} of that of Gaussian clouds of the same covariance",
        "mean over layers of path length over straight distance, relative to the Gaussian's, range over its copies; "
        "control: relative to Gaussians within each set of prompts",
        estimate,
        FLAT,
        grouped,
        decide(estimate, FLAT, side="within"),
    )


CLAIMS = (
    curves_rise,
    exponential_growth,
    streams_separate,
    attention_adds_more,
    directions_shared,
    updates_aligned,
    equal_moves,
    one_space,
    space_is_flat,
)


def claims(rows: Sequence[Record]) -> list[Verdict]:
    """Every verdict the rows allow."""
    return [verdict for claim in CLAIMS if (verdict := claim(rows)) is not None]


def _judge(
    claim: str,
    prediction: str,
    statistic: str,
    value: float,
    interval: Interval,
    threshold: float,
    control: float | None,
    more: Sequence[Decision] = (),
) -> Verdict:
    """A verdict that is supported if the whole interval reaches the threshold and all of `more` are supported."""
    estimate = _estimate(value, interval)
    decision = all_of([decide(estimate, threshold), *more])
    return judge(claim, prediction, statistic, estimate, threshold, control, decision)


def _estimate(value: float, interval: Interval) -> Measured:
    return Measured(value, (float(interval[0]), float(interval[1])), "bootstrap")


def _one(rows: Sequence[Record], kind: str, network: str) -> Record | None:
    return next(iter(pick(rows, kind=kind, network=network, group="all")), None)


def _relative(pairs: Sequence[Record], name: str) -> float:
    """Mean share of variance under one kind of map, over the mean share under the better learned one."""
    return fmean(row[name] for row in pairs) / fmean(max(row["linear"], row["rotation"]) for row in pairs)


def _signed(row: Record) -> float:
    return row["r_squared"] if row["slope"] > 0 else 0.0

"""Every interval, p-value, AUC and decision of the project, once; and the words that say what a prediction came to.

An interval never leaves the scale it is on: rates are exact, means of six or more values are bootstrapped, of fewer
it is Student's t, and at every end of the scale half a value that was not seen is added. A decision holds the whole
interval against a threshold that was fixed before. It has four outcomes: supported, not supported, undecided, and
invalid, which names the instrument that failed.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from scipy.stats import binomtest, chi2, norm
from scipy.stats import t as student
from torch import Tensor

OUTCOMES = ("supported", "not supported", "undecided", "invalid")
LEVEL = 0.95  # of every interval
LEAST = 3  # values below which nothing is decided from a mean: two lie on one side of anything half of the time
BOOTSTRAPPED = 6  # values from which a mean is bootstrapped: of fewer the resampled means cover less than 90 %
LEAST_EQUAL = 20  # equal values below which an interval without width decides nothing
RESAMPLINGS = 10_000
UNSEEN = 0.5  # values added at each end of a scale

Interval = tuple[float, float]
Scale = tuple[float, float]
REAL_SCALE: Scale = (-math.inf, math.inf)
POSITIVE_SCALE: Scale = (0.0, math.inf)
UNIT_SCALE: Scale = (0.0, 1.0)
SIGNED_SCALE: Scale = (-1.0, 1.0)  # of correlations and of differences of shares too
Side = Literal["at least", "at most", "within"]


@dataclass(frozen=True)
class Measured:
    """A number with the interval that other samples could have given.

    Attributes:
        value: None where nothing was measured.
        interval: its 95 % interval; None where one number has no spread that could be told.
        kind: of the interval, in words.
        n: independent values it stands on; None where they are not counted.
    """

    value: float | None
    interval: Interval | None
    kind: str
    n: int | None = None


@dataclass(frozen=True)
class Decision:
    """What holding a measurement against a threshold came to.

    Attributes:
        supported: None where it cannot be told.
        why: the reason, where it cannot.
        failed: the instrument that failed, where nothing can be concluded at all.
    """

    supported: bool | None
    why: str = ""
    failed: str = ""

    @property
    def outcome(self) -> str:
        """One of OUTCOMES."""
        return word(self.supported, self.failed)


@dataclass(frozen=True)
class Verdict:
    """What a claim came to: its prediction with a threshold, the statistic measured, and its control on the same scale.

    `supported` is None when the measurement cannot decide, `interval` where a single number has no spread.

    Attributes:
        failed: the instrument that failed; with it the outcome is "invalid".
        why: why it is undecided.
        n: independent values behind the interval.
        kind: of the interval.
        question: what is asked, where more than one report asks it.
        outcome: the word of OUTCOMES, made of `supported` and `failed`.
    """

    claim: str
    prediction: str
    statistic: str
    value: float | None
    interval: Interval | None
    threshold: float | None
    control: float | None
    supported: bool | None
    failed: str = ""
    why: str = ""
    n: int | None = None
    kind: str = ""
    question: str = ""
    outcome: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "outcome", word(self.supported, self.failed))


# --- outcomes


def word(supported: object, failed: object = "") -> str:
    """The one wording of an outcome, on every page, in the terminal and in the docs.

    >>> word(True), word(False), word(None), word(True, "the ruler")
    ('supported', 'not supported', 'undecided', 'invalid')
    """
    if failed:
        return "invalid"
    return "supported" if supported is True else "not supported" if supported is False else "undecided"


def outcome(verdict: Verdict | Mapping[str, object]) -> str:
    """The outcome of a verdict, also of one read from a file that an older version wrote."""
    if isinstance(verdict, Verdict):
        return verdict.outcome
    return word(verdict.get("supported"), verdict.get("failed"))


def tally(verdicts: Sequence[Verdict | Mapping[str, object]]) -> dict[str, int]:
    """How many verdicts have each outcome, in the order of OUTCOMES."""
    words = [outcome(each) for each in verdicts]
    return {each: words.count(each) for each in OUTCOMES}


def tally_text(verdicts: Sequence[Verdict | Mapping[str, object]]) -> str:
    """The tally as a part of a sentence; "invalid" only where there is one.

    >>> tally_text([{"supported": True}, {"supported": None}])
    '1 supported, 0 not supported and 1 undecided'
    """
    parts = [f"{count} {name}" for name, count in tally(verdicts).items() if count or name != "invalid"]
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


# --- decisions


def decide(found: Measured, threshold: float, *, side: Side = "at least", failed: str = "") -> Decision:
    """Hold a whole interval against a threshold.

    Args:
        found: the measurement.
        threshold: fixed before it; with "within" the margin around 0, so that absence is shown and not assumed.
        side: which side of the threshold was predicted.
        failed: the instrument that failed its check, in words; nothing is decided then.

    >>> decide(rate(20, 20), 0.5).outcome, decide(rate(0, 20), 0.5).outcome, decide(rate(0, 14), 0.05).outcome
    ('supported', 'not supported', 'undecided')
    """
    if failed:
        return Decision(None, failed=failed)
    if found.value is None or found.interval is None or math.isnan(found.value + sum(found.interval)):
        return Decision(None, "not measured" if found.value is None else "one number, whose spread is not known")
    low, high = found.interval
    if found.n is not None and found.n < LEAST:
        return Decision(None, f"{found.n} values; at least {LEAST} are needed")
    if low == high and found.n is not None and found.n < LEAST_EQUAL:
        return Decision(None, f"{found.n} equal values do not show how far others would lie; {LEAST_EQUAL} would")
    inside, outside = {
        "at least": (low >= threshold, high < threshold),
        "at most": (high <= threshold, low > threshold),
        "within": (max(-low, high) <= threshold, low > threshold or high < -threshold),
    }[side]
    if inside or outside:
        return Decision(bool(inside))
    return Decision(None, "the interval holds the threshold")


def stands(p_value: float, draws: int, level: float) -> Decision:
    """Whether a p-value from so many draws reaches a level; undecided when they are too few to ever reach it.

    >>> stands(0.005, 999, 0.01).supported, stands(0.2, 999, 0.01).supported, stands(0.1, 9, 0.01).supported
    (True, False, None)
    """
    if 1 / (1 + draws) > level:
        return Decision(None, f"{draws} draws of the null can never reach p = {level}")
    return Decision(p_value <= level)


def all_of(decisions: Sequence[Decision]) -> Decision:
    """Of conditions that must hold together: invalid before refuted, refuted before undecided."""
    for outcome_word in ("invalid", "not supported", "undecided"):
        if matches := [each for each in decisions if each.outcome == outcome_word]:
            return matches[0]
    return Decision(True) if decisions else Decision(None, "not measured")


def agreed(decisions: Sequence[Decision]) -> Decision:
    """The common outcome of several ways to ask one question; undecided where they do not agree."""
    if bad := [each for each in decisions if each.failed]:
        return bad[0]
    answers = {each.supported for each in decisions}
    return decisions[0] if len(answers) == 1 else Decision(None, "the ways to measure it do not agree")


def judge(
    claim: str,
    prediction: str,
    statistic: str,
    found: Measured,
    threshold: float | None,
    control: float | None,
    decision: Decision,
    question: str = "",
) -> Verdict:
    """The verdict of a decision, with everything that it stands on."""
    return Verdict(
        claim,
        prediction,
        statistic,
        found.value,
        found.interval,
        threshold,
        control,
        None if decision.failed else decision.supported,
        failed=decision.failed,
        why=decision.why,
        n=found.n,
        kind=found.kind,
        question=question,
    )


# --- intervals


def exactly(value: float) -> Measured:
    """A number that was computed and not sampled: other samples would give the same."""
    return Measured(value, (value, value), "exact number")


def average(values: Iterable[float | None]) -> float | None:
    """The arithmetic mean of the values that are not missing; None if all are.

    >>> average([1.0, None, 2.0]), average([None])
    (1.5, None)
    """
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None


def percent(share: float) -> str:
    """A share in words.

    >>> percent(0.256)
    '26 %'
    """
    return f"{100 * share:.0f} %"


def rate(hits: int, trials: int) -> Measured:
    """A rate with its exact (Clopper and Pearson's) interval.

    >>> [round(end, 3) for end in rate(0, 14).interval]
    [0.0, 0.232]
    """
    if not 0 <= hits <= trials or trials < 1:
        raise ValueError(f"got {hits} hits in {trials} trials; expected 0 <= hits <= trials and at least one trial")
    ends = binomtest(hits, trials).proportion_ci(LEVEL, method="exact")
    return Measured(hits / trials, (float(ends.low), float(ends.high)), "exact binomial", trials)


def count_ratio(count: int, expected: float) -> Measured:
    """A count over the one expected, with the exact Poisson interval of the count: 17 is no different from 15.

    >>> [round(end, 2) for end in count_ratio(17, 15.0).interval]
    [0.66, 1.81]
    """
    if count < 0 or not 0 < expected < math.inf:
        raise ValueError(f"got a count of {count} where {expected} were expected; expected 0 or more over a positive")
    low = float(chi2.ppf((1 - LEVEL) / 2, 2 * count)) / 2 if count else 0.0
    high = float(chi2.ppf((1 + LEVEL) / 2, 2 * count + 2)) / 2
    return Measured(count / expected, (low / expected, high / expected), "exact Poisson")


def paired_rates(first: Sequence[bool], second: Sequence[bool]) -> Measured:
    """The difference of two rates on the same trials (Newcombe's 1998 method 10 for pairs).

    >>> difference = paired_rates([True] * 2, [False] * 2)
    >>> difference.value, difference.interval[0] > 0.05
    (1.0, True)
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"got {len(first)} and {len(second)} trials; expected pairs, at least one; match them first")
    a, b, n = np.asarray(first, bool), np.asarray(second, bool), len(first)
    both, only, other = int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum())
    neither = n - both - only - other
    p, q = (both + only) / n, (both + other) / n
    (p_low, p_high), (q_low, q_high) = (_wilson(int(x.sum()), n) for x in (a, b))
    margins = (both + only) * (other + neither) * (both + other) * (only + neither)
    cross = both * neither - only * other
    cross = max(cross - n / 2, 0) if cross > 0 else cross  # Newcombe's correction for continuity
    phi = cross / math.sqrt(margins) if margins else 0.0

    def reach(one: float, two: float) -> float:
        return math.sqrt(max(0.0, one * one - 2 * phi * one * two + two * two))

    low = p - q - reach(p - p_low, q_high - q)
    high = p - q + reach(p_high - p, q - q_low)
    return Measured(p - q, (max(-1.0, low), min(1.0, high)), "paired rates (Newcombe)", n)


def _wilson(hits: int, trials: int) -> Interval:
    ends = binomtest(hits, trials).proportion_ci(LEVEL, method="wilson")
    return float(ends.low), float(ends.high)


def mean(
    values: Sequence[float], *, scale: Scale = REAL_SCALE, clusters: Sequence[Hashable] | None = None, seed: int = 0
) -> Measured:
    """A mean with an interval that stays on its scale.

    From six values (or clusters) on they are resampled, and the percentiles widened by as much as Student's t is wider
    than the normal distribution (Hesterberg 2015). Of fewer it is Student's t. Where the scale has an end, half a value
    there is added on that side: few values near one end hide rare ones far from it. Where all values are equal, the
    interval reaches as far as the share of others that may differ (exact binomial) can move the mean; without two ends
    of the scale it has no width.

    Args:
        values: numbers; without any, the measurement has no value.
        scale: the smallest and largest value possible.
        clusters: of the values; those of one cluster are no independent samples, so clusters are resampled.
        seed: of the resampling.

    Raises:
        ValueError: a value that is not finite or off the scale.
    """
    numbers = np.asarray(values, float)
    if not np.isfinite(numbers).all() or (numbers < scale[0] - 1e-6).any() or (numbers > scale[1] + 1e-6).any():
        raise ValueError(
            f"got values {numbers.tolist()[:8]} on the scale {scale}; expected numbers on it; leave out the rest"
        )
    if not len(numbers):
        return Measured(None, None, "none", 0)
    names = list(dict.fromkeys(clusters)) if clusters is not None else []
    inside = np.array([names.index(each) for each in clusters]) if clusters is not None else np.arange(len(numbers))
    sums, sizes = np.bincount(inside, numbers), np.bincount(inside).astype(float)
    n, centre = len(sums), float(numbers.mean())
    if n < 2:
        return Measured(centre, None, "none", n)
    each = sums / sizes
    if np.ptp(each) == 0:
        share = ((1 - LEVEL) / 2) ** (1 / n)  # as many equal values are likely only where this share is equal
        ends = [share * centre + (1 - share) * end if math.isfinite(end) else centre for end in scale]
        wide = math.isfinite(scale[0]) and math.isfinite(scale[1])
        return Measured(centre, (ends[0], ends[1]) if wide else (centre, centre), "exact binomial of equal values", n)
    if n < BOOTSTRAPPED:
        half = half_width(float(each.std(ddof=1)) / n**0.5, n)
        middle = float(each.mean())
        ends = min(middle - half, centre), max(middle + half, centre)
        return Measured(centre, _on_scale(*ends, n, scale), "Student t", n)
    tail = float(norm.cdf(-half_width(1.0, n) * (n / (n - 1)) ** 0.5))
    draws = np.random.default_rng(seed).integers(0, n, (max(1000, min(RESAMPLINGS, 4_000_000 // n)), n))
    low, high = np.quantile(sums[draws].sum(1) / sizes[draws].sum(1), [tail, 1 - tail])
    kind = "bootstrap" if clusters is None else "bootstrap over clusters"
    return Measured(centre, _on_scale(float(low), float(high), n, scale), kind, n)


def half_width(error: float, n: int) -> float:
    """Half of a 95 % interval by Student's t, from a standard error on n values; infinite for fewer than two."""
    return error * float(student.ppf((1 + LEVEL) / 2, n - 1)) if n > 1 else math.inf


def _on_scale(low: float, high: float, n: int, scale: Scale) -> Interval:
    """An interval of n values with half a value more at each end that the scale has, cut there."""
    ends = [
        (n * edge + UNSEEN * end) / (n + UNSEEN) if math.isfinite(end) else edge
        for edge, end in zip((low, high), scale)
    ]
    return max(ends[0], scale[0]), min(ends[1], scale[1])


def bootstrap(
    x: Float[Tensor, " samples *rest"],
    statistic: Callable[[Float[Tensor, " samples *rest"]], Tensor],
    draws: int,
    generator: torch.Generator,
) -> Float[Tensor, " draws *value"]:
    """The statistic of `draws` resamplings of the samples with replacement (Efron 1979), stacked.

    Paired quantities stay paired: put both into one sample and let the statistic take their difference.
    """
    if len(x) < 2 or draws < 1:
        raise ValueError(
            f"got {len(x)} samples and {draws} draws; expected at least two samples and one draw; pass more prompts"
        )
    resamplings = torch.randint(len(x), (draws, len(x)), generator=generator, device=generator.device).to(x.device)
    return torch.stack([statistic(x[rows]) for rows in resamplings])


def central_interval(draws: Float[Tensor, " draws *value"], *, coverage: float = 0.95) -> Float[Tensor, " two *value"]:
    """The central interval of draws that holds `coverage` of them, lower end first.

    >>> central_interval(torch.arange(101.0), coverage=0.9).round().tolist()
    [5.0, 95.0]
    """
    if not 0 < coverage < 1:
        raise ValueError(f"got coverage {coverage}; expected a share between 0 and 1; write 0.95 for 95 %")
    tails = torch.tensor([(1 - coverage) / 2, (1 + coverage) / 2], dtype=torch.float64, device=draws.device)
    return torch.quantile(draws.double(), tails, dim=0)


def subset_spread(values: Float[Tensor, " subsets"], size: int, total: int) -> float:
    """Standard error of the median of a statistic of `size` of `total` samples, from some of their subsets.

    Subsets overlap, so resampling them tells how far other subsets of the same samples would lie and not how far other
    samples would: the variance over subsets is scaled to that by the delete-d jackknife (Shao and Wu 1989), and the
    choice of a few subsets is added. Infinite where every subset holds all samples.

    >>> subset_spread(torch.tensor([1.0, 2.0, 3.0]), 4, 4)
    inf
    """
    if size >= total or len(values) < 2:
        return math.inf
    within = float(values.double().var())
    return math.sqrt(within * (size / (total - size) + math.pi / 2 / len(values)))


# --- p-values and areas


def coin_p_value(hits: int, trials: int) -> float:
    """Two-sided exact p-value of so many hits of a fair coin; 1 without trials.

    >>> round(coin_p_value(8, 8), 6)
    0.007812
    """
    return float(binomtest(hits, trials).pvalue) if trials else 1.0


def auc(scores: Float[Tensor, "samples n"], labels: Bool[Tensor, " samples"]) -> Float[Tensor, " n"]:
    """The probability that a positive sample scores higher than a negative one, ties counting half.

    One for each column. Scores that agree in all but the last bit of float32 count as ties.

    >>> auc(torch.tensor([[0.1], [0.4], [0.4], [0.9]]), torch.tensor([False, False, True, True])).tolist()
    [0.875]
    """
    if not bool(labels.any()) or bool(labels.all()):
        raise ValueError(
            f"got {int(labels.sum())} positive samples of {len(labels)}; expected both classes; read text of each"
        )
    keys = rearrange(_sortable(scores), "samples n -> n samples")
    truth = labels.cpu().numpy().astype(np.int32)
    # a label in the lowest bit sorts ties one way, its complement the other way; their mean gives ties a half
    wins = _wins(keys | truth, 1) + _wins(keys | (1 - truth), 0)
    return torch.from_numpy(wins / (2.0 * truth.sum() * (1 - truth).sum()))


def auc_between(
    positive: Float[Tensor, " n *places"], negative: Float[Tensor, " m *places"]
) -> Float[Tensor, "*places"]:
    """`auc` of two samples, at every place.

    >>> float(auc_between(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0])))
    0.875
    """
    labels = torch.cat([torch.ones(len(positive)), torch.zeros(len(negative))]).bool()
    return auc(torch.cat([positive, negative]).reshape(len(labels), -1), labels).reshape(positive.shape[1:])


def _sortable(scores: Float[Tensor, "samples n"]) -> np.ndarray:
    """float32 as int32 in the same order, the lowest bit 0."""
    if bool(scores.isnan().any()):
        raise ValueError("got scores with NaN; expected numbers; drop those samples")
    bits = (scores.float() + 0.0).contiguous().view(torch.int32).cpu().numpy()
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)) & ~1


def _wins(keys: np.ndarray, positive: int) -> np.ndarray:
    """For each row the pairs of a positive and an earlier negative, `positive` being the lowest bit of positives."""
    truth = ((np.sort(keys, axis=1) & 1) == positive).astype(np.float64)
    positives = truth.sum(axis=1)
    return truth @ np.arange(keys.shape[1], dtype=np.float64) - positives * (positives - 1) / 2

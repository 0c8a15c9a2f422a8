"""How an effect depends on strength, sums and signs of vectors: dose response, composition exponent, sign tests.

An effect is any function of steering vectors that gives one number a row (`Objective` without its direction): a share
of the base's displacement, a log-odds, 0 or 1 for a behaviour. No function here needs a model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from mi_ortho.elicitation.objectives import Objective
from mi_ortho.stats import Measured, coin_p_value, half_width, subset_spread


@torch.no_grad()
def dose_response(
    effect: Objective, vectors: Float[Tensor, "n d_model"], scales: Float[Tensor, " s"]
) -> Float[Tensor, "n s"]:
    """The effect of every vector at every scale: does it grow in proportion to strength, faster, or in a step?

    Raises:
        ValueError: no vectors, no scales, or an effect that does not give one number a row.
    """
    if not len(vectors) or not len(scales):
        raise ValueError(f"got {len(vectors)} vectors and {len(scales)} scales; expected at least one of each")
    doses = rearrange(vectors[:, None] * scales.to(vectors)[None, :, None], "n s d_model -> (n s) d_model")
    return rearrange(_evaluate(effect, doses), "(n s) -> n s", n=len(vectors))


def _evaluate(effect: Objective, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
    values = effect(vectors)
    if values.shape != (len(vectors),):
        raise ValueError(
            f"got an effect of shape {tuple(values.shape)} for {len(vectors)} vectors; expected one number a vector; "
            "reduce it over prompts and positions"
        )
    return values.to(vectors.dtype if values.dtype == torch.bool else values.dtype)


def local_exponents(effects: Float[Tensor, "n s"], scales: Float[Tensor, " s"]) -> Float[Tensor, "n steps"]:
    """d log effect / d log scale between neighbouring scales: 1 where the response is linear, 2 quadratic.

    NaN where an effect is not positive. Shape (n, s - 1).
    """
    if len(scales) < 2 or not bool((scales > 0).all()) or not bool((scales.diff() > 0).all()):
        raise ValueError(f"got scales {scales.tolist()}; expected at least 2, positive and growing; sort them")
    logs = torch.where(effects > 0, effects, torch.nan).log()
    return logs.diff(dim=-1) / scales.to(effects).log().diff()


def dose_exponents(
    effects: Float[Tensor, "n s"], scales: Float[Tensor, " s"], *, low: float = 0.05, high: float = 0.8
) -> Float[Tensor, " n"]:
    """One exponent a vector: least-squares slope of log effect on log scale where low <= effect <= high.

    With effects as shares of the base's, the window leaves out the noise at the bottom and the saturation at the top.
    NaN where fewer than two scales lie in it.
    """
    inside = (effects >= low) & (effects <= high)
    x = scales.to(effects).log().expand_as(effects)
    y = torch.where(inside, effects, torch.ones_like(effects)).log()
    count = inside.sum(-1, keepdim=True)
    centred = torch.where(inside, x - (x * inside).sum(-1, keepdim=True) / count, 0.0)
    slope = (centred * y).sum(-1) / centred.square().sum(-1)
    return torch.where(count[:, 0] >= 2, slope, torch.nan)


@torch.no_grad()
def smallest_scale(
    effect: Objective,
    vectors: Float[Tensor, "n d_model"],
    threshold: float,
    *,
    low: float = 1 / 64,
    high: float = 1.0,
    grid: int = 25,
    refine: int = 12,
) -> Float[Tensor, " n"]:
    """s_min: the smallest scale at which each vector's effect reaches the threshold.

    The scales from `low` to `high` are tried in equal ratios; the first one that reaches the threshold and the one
    before it are then bisected `refine` times. Infinite where none reaches it, `low` where already the first does.
    A base that still works at a small s_min leaves room for 1 / s_min^2 times more orthogonal vectors on a linear map.

    Raises:
        ValueError: a bracket that is not 0 < low < high, or fewer than 2 grid points.
    """
    if not 0 < low < high < math.inf or grid < 2:
        raise ValueError(f"got scales from {low} to {high} in {grid} steps; expected 0 < low < high and at least 2")
    scales = torch.logspace(math.log10(low), math.log10(high), grid, dtype=torch.float64, device=vectors.device)
    reached = dose_response(effect, vectors, scales) >= threshold
    first = torch.where(reached.any(-1), reached.int().argmax(-1), -1).cpu()
    upper = torch.where(first >= 0, scales[first], torch.inf)
    lower = torch.where(first > 0, scales[(first - 1).clamp_min(0)], upper)
    moving = (first > 0).nonzero().flatten()
    for _ in range(refine if len(moving) else 0):
        middle = (lower[moving] * upper[moving]).sqrt()
        scaled = vectors[moving.to(vectors.device)] * middle.to(vectors)[:, None]
        works = (_evaluate(effect, scaled) >= threshold).cpu()
        upper[moving] = torch.where(works, middle, upper[moving])
        lower[moving] = torch.where(works, lower[moving], middle)
    return upper


def equalised(vectors: Float[Tensor, "n d_model"], smallest: Float[Tensor, " n"]) -> Float[Tensor, "k d_model"]:
    """The vectors that reach the threshold at all, each scaled to where it just does (see `smallest_scale`)."""
    able = torch.isfinite(smallest)
    return vectors[able.to(vectors.device)] * smallest[able].to(vectors)[:, None]


@dataclass(frozen=True, eq=False)
class Composition:
    """How much a mean of n vectors must be scaled up to do what each does alone.

    Attributes:
        sizes: n of every row, the first is 1.
        scales: s*(n) of random subsets, shape (len(sizes), samples); infinite where no scale in the bracket works.
        exponents: p at each size, 1 / (1 - log s*(n) / log n) of the median; NaN at n = 1, infinite where s* >= n.
        exponent: p from the slope of log s* on log n over all sizes.
        interval: its 95 % interval over vectors, not only over subsets of these; from 0 to infinity where a size takes
            all of them.
        vectors: how many the subsets were drawn from.
    """

    sizes: tuple[int, ...]
    scales: Float[Tensor, "sizes samples"]
    exponents: tuple[float, ...]
    exponent: float
    interval: tuple[float, float]
    vectors: int

    @property
    def inverse(self) -> Measured:
        """1/p with its interval: 1 for a linear effect, 1/2 for a quadratic form, 0 for separate features."""
        return inverse_exponent(self.exponent, self.interval, self.vectors)


def inverse_exponent(exponent: float, interval: tuple[float, float], vectors: int | None = None) -> Measured:
    """1/p of an exponent and its interval: the unit in which every report speaks of composition.

    >>> inverse_exponent(2.0, (1.6, math.inf)).interval
    (0.0, 0.625)
    """
    low, high = interval
    ends = (1 / high, 1 / low if low > 0 else math.inf)
    return Measured(1 / exponent, ends, "delete-d jackknife over vectors", vectors)


def composition_exponent(
    effect: Objective,
    vectors: Float[Tensor, "n d_model"],
    threshold: float,
    *,
    generator: torch.Generator,
    sizes: Sequence[int] = (2, 3, 4, 6, 8),
    samples: int = 12,
    grid: int = 25,
    refine: int = 12,
) -> Composition:
    """p from how means of n vectors work: 1 linear, 2 a quadratic form, large for separate features with a threshold.

    For a response sum_f |<f, theta>|^p the mean of n equally effective vectors works at scale s*(n) = n^(1 - 1/p). Each
    vector is first scaled to where it alone just reaches the threshold, so that s*(1) = 1; s*(n) is the smallest scale
    at which the mean of n of them does. Take few vectors and an effect threshold well below saturation.

    Args:
        effect: one number a row.
        vectors: the family; those that reach the threshold at no scale up to 4 are left out.
        threshold: effect that counts as working.
        generator: of the subsets.
        sizes: how many vectors are averaged, each above 1.
        samples: random subsets a size.
        grid, refine: scales tried, and bisections of each result.

    Raises:
        ValueError: sizes below 2 or above the number of vectors that work.
    """
    single = smallest_scale(effect, vectors, threshold, low=1 / 256, high=4.0, grid=2 * grid, refine=refine)
    alone = equalised(vectors, single)
    if len(sizes) == 0 or min(sizes) < 2 or max(sizes) > len(alone):
        raise ValueError(
            f"got sizes {tuple(sizes)} and {len(alone)} of {len(vectors)} vectors that reach the threshold; expected "
            "sizes from 2 to that number; lower the sizes or the threshold"
        )
    rows = [torch.ones(samples, dtype=torch.float64, device=alone.device)]
    for n in sizes:
        subsets = torch.stack([_order(len(alone), generator)[:n] for _ in range(samples)])
        means = alone[subsets.to(alone.device)].mean(1)
        rows.append(smallest_scale(effect, means, threshold, low=0.5, high=2.0 * n, grid=grid, refine=refine))
    scales = torch.stack(rows)
    sizes = (1, *sizes)
    by_size = tuple(_from_slope(_log(m) / math.log(n)) if n > 1 else math.nan for n, m in zip(sizes, _medians(scales)))
    return Composition(sizes, scales, by_size, *_exponent(sizes, scales, len(alone)), len(alone))


def _order(count: int, generator: torch.Generator) -> Tensor:
    """A random permutation, on the generator's device."""
    return torch.randperm(count, generator=generator, device=generator.device)


def _medians(scales: Float[Tensor, "sizes samples"]) -> list[float]:
    return scales.quantile(0.5, dim=-1, interpolation="nearest").tolist()


def _log(value: float) -> float:
    return math.log(value) if value < math.inf else math.inf


def _exponent(
    sizes: Sequence[int], scales: Float[Tensor, "sizes samples"], vectors: int
) -> tuple[float, tuple[float, float]]:
    """p from the least-squares slope through the point n = 1, s* = 1, and its interval; infinite as a median is.

    The same vectors are in the subsets of every size, so the errors at the sizes are added as fully correlated ones.
    """
    x, y = [math.log(n) for n in sizes], [_log(median) for median in _medians(scales)]
    total = sum(a * a for a in x)
    slope = sum(a * b for a, b in zip(x, y) if a) / total
    logs = scales.log()
    spreads = [subset_spread(row, n, vectors) if n > 1 else 0.0 for n, row in zip(sizes, logs)]
    error = sum(a * spread for a, spread in zip(x, spreads) if a) / total
    half = half_width(error, min(scales.shape[1], vectors))
    if math.isnan(half) or math.isinf(half):
        return _from_slope(slope), (0.0, math.inf)
    return _from_slope(slope), (_from_slope(slope - half), _from_slope(slope + half))


def _from_slope(slope: float) -> float:
    """p = 1 / (1 - slope); infinite for summed doses (slope 1) and beyond.

    >>> _from_slope(0.5)
    2.0
    """
    return 1 / (1 - slope) if slope < 1 else math.inf


@dataclass(frozen=True)
class SignTest:
    """An exact binomial test: `hits` of `trials` went one way, `p_value` two-sided against one half.

    `p_value` is 1 where there were no trials.
    """

    hits: int
    trials: int
    p_value: float

    @property
    def share(self) -> float:
        """hits / trials; NaN without trials."""
        return self.hits / self.trials if self.trials else math.nan


def sign_test(hits: int, trials: int) -> SignTest:
    """Is a count of successes compatible with a fair coin?

    >>> round(sign_test(8, 8).p_value, 6)
    0.007812
    """
    if not 0 <= hits <= trials:
        raise ValueError(f"got {hits} hits in {trials} trials; expected 0 <= hits <= trials; count again")
    return SignTest(hits, trials, coin_p_value(hits, trials))


def paired_sign_test(first: Bool[Tensor, " n"], second: Bool[Tensor, " n"]) -> SignTest:
    """Of the pairs where exactly one of the two works, how many times it is the first (McNemar's exact test)."""
    return sign_test(int((first & ~second).sum()), int((first ^ second).sum()))


def sign_coherence_test(vectors: Float[Tensor, "n d_model"], direction: Float[Tensor, " d_model"]) -> SignTest:
    """How many vectors point along a direction rather than against it: half of them for a random family.

    With the gradient of the effect at 0 as the direction, it tests a first-order explanation: on a linear map every
    vector of the family has the same positive projection on the gradient.
    """
    if not direction.norm() > 0:
        raise ValueError("got a direction of norm 0; expected one that points somewhere; take another gradient")
    return sign_test(int((vectors @ direction.to(vectors) > 0).sum()), len(vectors))


@dataclass(frozen=True)
class SignFlips:
    """Whether the vectors of a family and their means still work with other signs than their own.

    Attributes:
        own: how many vectors work as they are.
        negated: how many of all vectors work when negated.
        flipped: own against negated, paired by vector.
        same: of random subsets, how many sqrt(n)-scaled means work with the vectors' own signs.
        random: how many work with random signs instead.
        mixed: own signs against random signs, paired by subset.
    """

    own: int
    negated: int
    flipped: SignTest
    same: int
    random: int
    mixed: SignTest


@torch.no_grad()
def sign_flips(
    effect: Objective,
    vectors: Float[Tensor, "n d_model"],
    threshold: float,
    *,
    generator: torch.Generator,
    size: int = 4,
    samples: int = 64,
) -> SignFlips:
    """Do -theta and means with random signs work as well? Even responses (quadratic, quartic) do not care; odd ones do.

    A linear or a one-sided thresholded response loses its effect under -theta. Random signs in a sqrt(n)-scaled mean
    leave a quadratic form alone and destroy a shared direction. Pass all vectors, not only those that worked: these
    work with their own signs by selection, and any effect then looks as if it depended on the sign.

    Raises:
        ValueError: fewer vectors than `size`, or no samples.
    """
    if not 2 <= size <= len(vectors) or samples < 1:
        raise ValueError(
            f"got size={size}, samples={samples} and {len(vectors)} vectors; expected 2 <= size <= "
            "vectors and samples >= 1; lower the size"
        )
    positive, negated = (_evaluate(effect, sign * vectors) >= threshold for sign in (1, -1))
    subsets = torch.stack([_order(len(vectors), generator)[:size] for _ in range(samples)])
    signs = 2 * torch.randint(0, 2, (samples, size), generator=generator, device=generator.device) - 1
    signs[:, 0] = torch.where((signs == signs[:, :1]).all(-1), -signs[:, 0], signs[:, 0])  # one sign at least differs
    parts = vectors[subsets.to(vectors.device)] / size**0.5
    same = _evaluate(effect, parts.sum(1)) >= threshold
    mixed = _evaluate(effect, (parts * signs.to(parts)[..., None]).sum(1)) >= threshold
    return SignFlips(
        int(positive.sum()),
        int(negated.sum()),
        paired_sign_test(positive, negated),
        int(same.sum()),
        int(mixed.sum()),
        paired_sign_test(same, mixed),
    )


def shuffled(direction: Float[Tensor, " d_model"], n: int, generator: torch.Generator) -> Float[Tensor, "n d_model"]:
    """n copies of a direction with its coordinates in random order and random signs: a control of its own size."""
    order = torch.rand(n, len(direction), generator=generator, device=generator.device).argsort(-1).to(direction.device)
    signs = 2 * torch.randint(0, 2, (n, len(direction)), generator=generator, device=generator.device) - 1
    return direction[order] * signs.to(direction)

"""Resampling of samples, and of vectors whose overlapping subsets a statistic stands on."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_ortho.stats.intervals import half_width
from mi_ortho.stats.measured import LEVEL, Measured

SUBSAMPLES = 60


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


def subsampled(
    statistic: Callable[[Int[Tensor, " kept"]], float],
    count: int,
    *,
    generator: torch.Generator,
    kept: int | None = None,
    draws: int = SUBSAMPLES,
    level: float = LEVEL,
) -> Measured:
    """A statistic of subsets of vectors, with the interval that other vectors would have given.

    Means of overlapping subsets of one family agree with each other far better than those of two families do, so
    resampling the subsets says nothing of other vectors. Here the vectors are resampled: halves of them without
    replacement (a vector that is drawn twice would be its own mean), all subsets formed anew inside each, and the
    variance scaled from halves to the whole (delete-d jackknife; Shao and Wu 1989). The choice of subsets inside each
    half adds to it, which errs on the wide side.

    Args:
        statistic: from the indices of some vectors to a number; it draws its own subsets of them, as 1/p of a
            composition does. Take a statistic whose error is symmetric: 1/p or a slope, not p.
        count: vectors in all.
        generator: of the halves.
        kept: vectors kept in each, half of them if None; the statistic must be defined for so many.
        draws: halves, at least 20.
        level: share of the families whose interval holds the statistic's true value.

    Raises:
        ValueError: fewer than four vectors, or too few draws.

    >>> values = torch.arange(8.0)
    >>> found = subsampled(lambda rows: float(values[rows].mean()), 8, generator=torch.Generator().manual_seed(0))
    >>> found.value, found.n
    (3.5, 8)
    """
    kept = count // 2 if kept is None else kept
    if count < 4 or not 2 <= kept < count or draws < 20:
        raise ValueError(
            f"got {count} vectors, {kept} kept and {draws} draws; expected four vectors, two kept but not all, and 20 "
            "draws; measure more vectors"
        )
    value = statistic(torch.arange(count))
    orders = (torch.randperm(count, generator=generator, device=generator.device).cpu() for _ in range(draws))
    values = torch.tensor([statistic(order[:kept]) for order in orders], dtype=torch.float64)
    kind = f"delete-{count - kept} jackknife over {count} vectors"
    if not bool(values.isfinite().all()) or not math.isfinite(value):
        return Measured(value if math.isfinite(value) else None, None, kind, count)
    error = math.sqrt(float(values.var()) * kept / (count - kept))
    half = half_width(error, count, level)
    return Measured(value, (value - half, value + half), kind, count)

"""Statistics of the residual stream along depth, gathered in one pass over batches, in float64."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class StreamMoments:
    """Sums over samples at successive points of the residual stream; every statistic below follows from them.

    Attributes:
        count: samples seen.
        mean: mean activation at each point.
        scatter: sum of squared deviations from the mean, per feature.
        norms: sum of the activations' norms.
        steps: sum of the norms of the updates from each point to the next.
        outward: sum of the cosines between an activation and the update that follows it.
        turns: sum of the cosines between successive updates.
    """

    count: int
    mean: Float[Tensor, "point d_model"]
    scatter: Float[Tensor, "point d_model"]
    norms: Float[Tensor, " point"]
    steps: Float[Tensor, " step"]
    outward: Float[Tensor, " step"]
    turns: Float[Tensor, " turn"]

    @property
    def variance(self) -> Float[Tensor, "point d_model"]:
        """Unbiased variance over samples of each feature: `X.var(dim=0)`."""
        return self.scatter / max(self.count - 1, 1)

    @property
    def mean_variance(self) -> Float[Tensor, " point"]:
        """Mean over features of the variance over samples."""
        return self.variance.mean(-1)

    @property
    def max_variance(self) -> Float[Tensor, " point"]:
        """Largest over features of the variance over samples; far above the mean where a dimension is an outlier."""
        return self.variance.amax(-1)

    @property
    def mean_norm(self) -> Float[Tensor, " point"]:
        """Mean length of an activation."""
        return self.norms / self.count

    @property
    def step_norm(self) -> Float[Tensor, " step"]:
        """Mean length of the update from each point to the next."""
        return self.steps / self.count

    @property
    def outwardness(self) -> Float[Tensor, " step"]:
        """Mean cosine between an activation and the update that follows: 1 straight on, 0 at a right angle."""
        return self.outward / self.count

    @property
    def alignment(self) -> Float[Tensor, " turn"]:
        """Mean cosine between successive updates."""
        return self.turns / self.count


def stream_moments(x: Float[Tensor, "samples point d_model"]) -> StreamMoments:
    """The moments of one batch of trajectories through the residual stream.

    >>> stream_moments(torch.tensor([[[0.0, 0.0], [3.0, 4.0]]])).step_norm.tolist()
    [5.0]
    """
    if not len(x) or not bool(torch.isfinite(x).all()):
        raise ValueError(
            f"got {len(x)} samples, or NaN or infinity in them; expected at least one finite sample; "
            "check the prompts and the model's dtype"
        )
    x = x.double()
    mean, updates = x.mean(0), x.diff(dim=1)
    return StreamMoments(
        len(x),
        mean,
        (x - mean).square().sum(0),
        x.norm(dim=-1).sum(0),
        updates.norm(dim=-1).sum(0),
        torch.cosine_similarity(x[:, :-1], updates, dim=-1).sum(0),
        torch.cosine_similarity(updates[:, :-1], updates[:, 1:], dim=-1).sum(0),
    )


def merge_moments(a: StreamMoments, b: StreamMoments) -> StreamMoments:
    """The moments of both samples together (Chan, Golub and LeVeque 1979: no cancellation, any order of batches)."""
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"got moments of shapes {tuple(a.mean.shape)} and {tuple(b.mean.shape)}; expected the same "
            "points and width; merge moments of one model"
        )
    count, gap = a.count + b.count, b.mean - a.mean
    scatter = a.scatter + b.scatter + gap.square() * (a.count * b.count / count)
    return StreamMoments(
        count,
        a.mean + gap * (b.count / count),
        scatter,
        a.norms + b.norms,
        a.steps + b.steps,
        a.outward + b.outward,
        a.turns + b.turns,
    )


def gather_moments(batches: Iterable[Tensor]) -> StreamMoments:
    """The moments of all batches (each `samples point d_model`), of which only one is held at a time.

    Raises:
        ValueError: there is no batch.
    """
    total: StreamMoments | None = None
    for batch in batches:
        part = stream_moments(batch)
        total = part if total is None else merge_moments(total, part)
    if total is None:
        raise ValueError("got no activations; expected at least one batch; pass at least one prompt")
    return total

"""Sufficient statistics of a stream of activations, in float64: batches may come in any order and number."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.interventions.subspace import span


@dataclass(frozen=True, eq=False)
class SecondMoments:
    """Sums over a stream of activations h: enough for means, covariances and mean shares of any vector.

    Attributes:
        count: activations seen.
        total: their sum.
        second: the sum of h h'.
        directions: the sum of h h' / |h|^2; an activation of norm 0 adds nothing.
    """

    count: int
    total: Float[Tensor, " d_model"]
    second: Float[Tensor, "d_model d_model"]
    directions: Float[Tensor, "d_model d_model"]

    @property
    def mean(self) -> Float[Tensor, " d_model"]:
        """The mean activation."""
        return self.total / self._at_least(1)

    @property
    def covariance(self) -> Float[Tensor, "d_model d_model"]:
        """The covariance around the mean (divided by count - 1)."""
        around = self.second - self.count * torch.outer(self.mean, self.mean)
        return around / (self._at_least(2) - 1)

    def merge(self, other: "SecondMoments") -> "SecondMoments":
        """The statistics of both streams together."""
        return SecondMoments(
            self.count + other.count,
            self.total + other.total,
            self.second + other.second,
            self.directions + other.directions,
        )

    def _at_least(self, needed: int) -> int:
        if self.count < needed:
            raise ValueError(f"got {self.count} activations; expected at least {needed}; read more text")
        return self.count


def no_second_moments(d_model: int, *, device: str | torch.device = "cpu") -> SecondMoments:
    """The statistics of an empty stream."""
    zero = torch.zeros(d_model, d_model, dtype=torch.float64, device=device)
    return SecondMoments(0, zero[:1].sum(0), zero, zero)


def second_moments(activations: Float[Tensor, "samples d_model"]) -> SecondMoments:
    """The statistics of one batch.

    >>> moments = second_moments(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
    >>> moments.mean.tolist(), moments.covariance[0, 0].item(), moments.directions[0, 0].item()
    ([2.0, 0.0], 2.0, 2.0)
    """
    require_finite(activations)
    rows = activations.double()
    unit = torch.nn.functional.normalize(rows, dim=-1)
    return SecondMoments(len(rows), rows.sum(0), rows.mT @ rows, unit.mT @ unit)


def batched_second_moments(batches: Iterable[Float[Tensor, "samples d_model"]]) -> SecondMoments:
    """The statistics of all batches; no more than one is held in memory."""
    moments: SecondMoments | None = None
    for batch in batches:
        moments = second_moments(batch) if moments is None else moments.merge(second_moments(batch))
    if moments is None:
        raise ValueError("got an empty stream; expected at least one batch of activations; read some text")
    return moments


def require_finite(activations: Float[Tensor, "samples d_model"]) -> None:
    """Raises ValueError for NaN or infinity among the activations."""
    if not bool(torch.isfinite(activations).all()):
        raise ValueError("got activations with NaN or infinity; expected finite ones; read them in float32")


def mean_shares(stream: SecondMoments, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
    """The mean of <h, v>^2 / (|h|^2 |v|^2) over the stream for each vector v."""
    unit = unit_rows(vectors)
    return ((unit @ stream.directions) * unit).sum(-1) / stream._at_least(1)


def variance_explained(stream: SecondMoments, vectors: Float[Tensor, "n d_model"]) -> float:
    """The share of the variance around the mean that lies in the span of the vectors, whatever their angles."""
    basis, covariance = span(unit_rows(vectors)).basis, stream.covariance
    return float(((basis @ covariance) * basis).sum() / covariance.trace())


def class_difference(positive: SecondMoments, negative: SecondMoments) -> Float[Tensor, " d_model"]:
    """The mean of one stream minus the mean of the other."""
    return positive.mean - negative.mean


def cosines_with(vectors: Float[Tensor, "n d_model"], direction: Float[Tensor, " d_model"]) -> Float[Tensor, " n"]:
    """The cosine of every vector with one direction, in float64."""
    return unit_rows(vectors) @ unit_rows(direction[None])[0]


def sign_coherence(vectors: Float[Tensor, "n d_model"], direction: Float[Tensor, " d_model"]) -> float:
    """The share of vectors on the positive side of a direction: near 1/2 for vectors that have nothing to do with it.

    >>> sign_coherence(torch.eye(3), torch.tensor([1.0, 1.0, -1.0]))  # doctest: +ELLIPSIS
    0.666...
    """
    return float((cosines_with(vectors, direction) > 0).double().mean())


def unit_rows(vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
    """The rows at length 1, in float64. Raises ValueError for rows without a direction."""
    lengths = vectors.double().norm(dim=-1, keepdim=True)
    if not bool((torch.isfinite(lengths) & (lengths > 0)).all()):
        raise ValueError("got a vector of norm 0 or one that is not finite; expected a direction; leave it out")
    return vectors.double() / lengths

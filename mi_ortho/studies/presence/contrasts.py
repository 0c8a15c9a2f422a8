"""Pairs of text groups that are compared, and statistics of a set of vectors on such a pair at one layer."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_ortho.nulls.bounds import bessel_mass
from mi_ortho.probes import (
    SecondMoments,
    class_difference,
    counted_auc,
    mean_shares,
    null_sets,
    sign_coherence,
    token_presence,
    variance_explained,
)
from mi_ortho.stats import auc
from mi_ortho.studies.presence.streams import Stream

CONTRASTS = {
    "own_matched": ("code_own", "english_own"),
    "own_prose": ("code_own", "prose_own"),
    "real_matched": ("code_real", "english_real"),
    "real_prose": ("code_real", "prose_real"),
}
PRIMARY = "own_matched"  # the model's own code against its own English on the same topics: verdicts are about this one
NULLS = ("isotropic", "covariance", "rotated")
STATISTICS = ("mean_auc", "separation", "mean_share", "explained", "coherence", "bessel")


@dataclass(frozen=True, eq=False)
class Contrast:
    """Two groups of text at one layer.

    Attributes:
        positive, negative: their statistics.
        rows: sampled activations of both.
        labels: which of them are of the positive group.
        passages: the passage number of each.
    """

    positive: Stream
    negative: Stream
    rows: Float[Tensor, "samples d_model"]
    labels: Bool[Tensor, " samples"]
    passages: Int[Tensor, " samples"]

    @property
    def pooled(self) -> SecondMoments:
        """The statistics of both groups."""
        return self.positive.moments.merge(self.negative.moments)

    @property
    def difference(self) -> Float[Tensor, " d_model"]:
        """Mean of the positive group minus mean of the negative one."""
        return class_difference(self.positive.moments, self.negative.moments)


def contrast(streams: Mapping[tuple[int, str], Stream], layer: int, name: str, size: int) -> Contrast:
    """One contrast at one layer with at most `size` sampled tokens of each group.

    Raises:
        ValueError: a group has no text.
    """
    groups = CONTRASTS[name]
    missing = [group for group in groups if (layer, group) not in streams]
    if missing:
        raise ValueError(
            f"got no text of group {missing[0]}; expected passages of {' and '.join(groups)}; the model "
            "did not write any: give other prompts"
        )
    positive, negative = (streams[layer, group] for group in groups)
    parts = [side.sample.rows[:size] for side in (positive, negative)]  # sorted by random key: a uniform subsample
    truth = torch.cat([torch.ones(len(parts[0]), dtype=torch.bool), torch.zeros(len(parts[1]), dtype=torch.bool)])
    names = torch.cat([side.sample.passages[:size] for side in (positive, negative)])
    rows = torch.cat(parts)
    return Contrast(positive, negative, rows, truth.to(rows.device), names)


@dataclass(frozen=True, eq=False)
class SetResult:
    """One set of vectors in one contrast: its `STATISTICS` by name, and the AUC of each vector."""

    numbers: Mapping[str, float]
    aucs: Float[Tensor, " n"]


def measured_set(groups: Contrast, vectors: Float[Tensor, "n d_model"]) -> SetResult:
    """The statistics of a set of vectors, the family or a random set of its size, on one pair of groups.

    mean_auc: mean AUC of presence, code against the other group. separation: mean |AUC - 1/2|. mean_share: sum over the
    vectors of the mean share of |h|^2 in code. explained: the share of the variance in code that lies in the span.
    coherence: share of vectors on code's side of the class difference. bessel: sum of squared cosines with it.
    """
    values = auc(token_presence(groups.rows, vectors.to(groups.rows)), groups.labels)
    numbers = {
        "mean_auc": float(values.mean()),
        "separation": float((values - 0.5).abs().mean()),
        "mean_share": float(mean_shares(groups.positive.moments, vectors).sum()),
        "explained": variance_explained(groups.positive.moments, vectors),
        "coherence": sign_coherence(vectors, groups.difference),
        "bessel": bessel_mass(vectors.double(), groups.difference),
    }
    return SetResult(numbers, values)


def measured_nulls(groups: Contrast, n: int, draws: int, generator: torch.Generator) -> dict[str, list[SetResult]]:
    """For every kind of null set the results of `draws` sets of n vectors; covariances are over both groups."""
    sets = null_sets(groups.pooled.covariance.cpu(), n, draws, generator)
    return {
        name: [measured_set(groups, one.to(groups.rows.device)) for one in members] for name, members in sets.items()
    }


def streamed_auc(groups: Contrast) -> tuple[Float[Tensor, " n"], float]:
    """AUC of every vector over all tokens, and the largest error that binning can cause in one."""
    values, error = counted_auc(groups.positive.counts, groups.negative.counts)
    return values, float(error.max())

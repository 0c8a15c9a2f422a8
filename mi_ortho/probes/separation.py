"""How well a vector's presence tells two classes of tokens apart: AUC, exact or from histograms, and its nulls."""

from dataclasses import dataclass

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata
from torch import Tensor

BINS = 2048


def token_presence(
    activations: Float[Tensor, "*rows d_model"], vectors: Float[Tensor, "n d_model"]
) -> Float[Tensor, "*rows n"]:
    """cos(h, v) of every activation with every vector: the signed root of the share of |h|^2 along v."""
    unit = torch.nn.functional.normalize(vectors, dim=-1).to(activations)
    return einsum(torch.nn.functional.normalize(activations, dim=-1), unit, "... d, n d -> ... n")


def permuted_auc(
    scores: Float[Tensor, "samples n"],
    labels: Bool[Tensor, " samples"],
    passages: Int[Tensor, " samples"],
    topics: Int[Tensor, " samples"] | None,
    draws: int,
    generator: torch.Generator,
) -> Float[Tensor, "draws n"]:
    """AUC after shuffling the labels of whole passages: tokens of one passage are not independent of each other.

    Args:
        scores: one column for each vector.
        labels: of the samples; the same throughout a passage.
        passages: which passage each sample comes from.
        topics: of the samples; labels are shuffled only among passages of one topic. None shuffles among all.
        draws: how many shuffles.
        generator: of the shuffles, on the CPU.
    """
    _require_both(labels)
    names, inside = passages.cpu().unique(return_inverse=True)
    truth, strata = _per_passage(labels.cpu().long(), inside, len(names)), torch.zeros(len(names)).long()
    if topics is not None:
        strata = _per_passage(topics.cpu().long(), inside, len(names))
    ranks = torch.from_numpy(rankdata(scores.cpu().numpy(), axis=0))
    sums = torch.zeros(len(names), scores.shape[1], dtype=torch.float64).index_add_(0, inside, ranks)
    sizes = torch.bincount(inside, minlength=len(names)).double()
    shuffled = torch.stack([_shuffle_within(truth, strata, generator) for _ in range(draws)]).double()
    positive = shuffled @ sizes
    wins = shuffled @ sums - rearrange(positive * (positive + 1) / 2, "draws -> draws 1")
    return wins / rearrange(positive * (len(labels) - positive), "draws -> draws 1")


def bootstrapped_auc(
    scores: Float[Tensor, "samples n"],
    labels: Bool[Tensor, " samples"],
    passages: Int[Tensor, " samples"],
    draws: int,
    generator: torch.Generator,
) -> Float[Tensor, "draws n"]:
    """AUC on passages drawn with replacement within each class: its spread is the uncertainty due to the texts."""
    _require_both(labels)
    names, inside = passages.cpu().unique(return_inverse=True)
    classes = _per_passage(labels.cpu().long(), inside, len(names))
    order = scores.cpu().argsort(dim=0)
    weights = torch.stack([_multiplicity(classes, generator) for _ in range(draws)]).double()[:, inside]
    truth = labels.cpu().double()
    aucs = []
    for column in order.T:
        positive, negative = (weights * truth)[:, column], (weights * (1 - truth))[:, column]
        below = negative.cumsum(dim=1) - negative / 2
        aucs.append((positive * below).sum(1) / (positive.sum(1) * negative.sum(1)))
    return torch.stack(aucs, dim=1)


@dataclass(frozen=True, eq=False)
class PresenceCounts:
    """Histograms of presence, one row for each vector, over equal bins from -1 to 1."""

    counts: Int[Tensor, "n bins"]

    def merge(self, other: "PresenceCounts") -> "PresenceCounts":
        """The counts of both streams together."""
        return PresenceCounts(self.counts + other.counts)


def presence_counts(presences: Float[Tensor, "samples n"], bins: int = BINS) -> PresenceCounts:
    """The histograms of one batch of `token_presence`."""
    if bins < 2 or not bool((presences.abs() <= 1 + 1e-4).all()):
        raise ValueError(
            f"got {bins} bins and values up to {float(presences.abs().max()):.3g}; expected at least 2 "
            "bins and cosines; take them from token_presence"
        )
    n = presences.shape[1]
    places = ((presences + 1) * (bins / 2)).long().clamp(0, bins - 1) + bins * torch.arange(n, device=presences.device)
    return PresenceCounts(torch.bincount(places.flatten(), minlength=bins * n).reshape(n, bins).cpu())


def counted_auc(positive: PresenceCounts, negative: PresenceCounts) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """AUC from histograms and the most it can be wrong, since values of one bin count as ties."""
    p, q = (side.counts.double() / side.counts.sum(1, keepdim=True) for side in (positive, negative))
    if not bool(torch.isfinite(p).all() and torch.isfinite(q).all()):
        raise ValueError("got an empty class; expected activations in both; read more text")
    below = q.cumsum(dim=1) - q
    return (p * (below + q / 2)).sum(1), (p * q).sum(1) / 2


def _require_both(labels: Bool[Tensor, " samples"]) -> None:
    if not bool(labels.any()) or bool(labels.all()):
        raise ValueError(
            f"got {int(labels.sum())} positive samples of {len(labels)}; expected both classes; read text of each"
        )


def _per_passage(values: Int[Tensor, " samples"], inside: Int[Tensor, " samples"], n: int) -> Int[Tensor, " passages"]:
    """The value that each passage has; raises ValueError when its samples disagree."""
    by_passage = torch.zeros(n, dtype=torch.long).scatter_(0, inside, values)
    if not torch.equal(by_passage[inside], values):
        raise ValueError("got passages with several labels or topics; expected one each; number passages apart")
    return by_passage


def _shuffle_within(
    truth: Int[Tensor, " passages"], strata: Int[Tensor, " passages"], generator: torch.Generator
) -> Int[Tensor, " passages"]:
    """The labels shuffled within every stratum."""
    keys = torch.rand(len(truth), generator=generator, device=generator.device).to(truth.device)
    into = np.lexsort((keys.numpy(), strata.numpy()))
    out = torch.empty_like(truth)
    out[torch.from_numpy(into)] = truth[strata.argsort(stable=True)]
    return out


def _multiplicity(classes: Int[Tensor, " passages"], generator: torch.Generator) -> Int[Tensor, " passages"]:
    """How often each passage is drawn when every class is redrawn at its own size."""
    times = torch.zeros_like(classes)
    for each in (0, 1):
        members = (classes == each).nonzero().flatten()
        picks = torch.randint(len(members), (len(members),), generator=generator, device=generator.device)
        redrawn = members[picks.to(members.device)]
        times += torch.bincount(redrawn, minlength=len(classes))
    return times

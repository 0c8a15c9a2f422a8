"""One pass over all passages: what every layer and group leaves behind, without keeping activations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.model import Model
from mi_ortho.probes import (
    Moments,
    PresenceCounts,
    Reservoir,
    Strongest,
    moments,
    presence_counts,
    reservoir,
    strongest,
    token_presence,
)
from mi_ortho.studies.presence.passages import Passage, read_passages

BEST = 3  # strongest passages kept for each vector


@dataclass(frozen=True, eq=False)
class Stream:
    """The activations of one layer on the passages of one group, as statistics.

    Attributes:
        moments: sums for means, covariances and mean shares.
        sample: a uniform sample of the activations.
        counts: histograms of each vector's presence, over all activations.
        strongest: where each vector is most present.
    """

    moments: Moments
    sample: Reservoir
    counts: PresenceCounts
    strongest: Strongest

    def merge(self, other: "Stream") -> "Stream":
        """Both streams together."""
        return Stream(
            self.moments.merge(other.moments),
            self.sample.merge(other.sample),
            self.counts.merge(other.counts),
            self.strongest.merge(other.strongest),
        )


def stream_of(
    activations: Mapping[int, Float[Tensor, "samples d_model"]],
    vectors: Float[Tensor, "n d_model"],
    size: int,
    seed: int,
) -> Stream:
    """The statistics of some passages, by number; which activations are sampled depends on that and the seed only."""
    rows = torch.cat(list(activations.values()))
    found: list[tuple[Reservoir, Strongest]] = []
    for index, passage in activations.items():
        generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
        kept = reservoir(passage, index, size, generator)
        found.append((kept, strongest(token_presence(passage, vectors).cpu(), index, BEST)))
    sample, best = found[0]
    for more, better in found[1:]:
        sample, best = sample.merge(more), best.merge(better)
    return Stream(moments(rows), sample, presence_counts(token_presence(rows, vectors)), best)


def read_streams(
    model: Model,
    passages: Sequence[Passage],
    layers: Sequence[int],
    vectors: Float[Tensor, "n d_model"],
    *,
    size: int,
    seed: int,
    system: str | None,
    track: Callable[[str, int, int], None],
) -> dict[tuple[int, str], Stream]:
    """Every layer and group of the passages that are kept."""
    kept = [one for one in passages if one.kept]
    found: dict[tuple[int, str], Stream] = {}
    done = 0
    for batch in read_passages(model, kept, layers, system=system):
        for layer in layers:
            for group in dict.fromkeys(one.group for one, _ in batch):
                rows = {one.index: at[layer] for one, at in batch if one.group == group}
                new = stream_of(rows, vectors, size, seed)
                before = found.get((layer, group))
                found[layer, group] = new if before is None else before.merge(new)
        done += len(batch)
        track("reading activations", done, len(kept))
    return found

"""One pass over all passages: statistics of every layer and group, without keeping all activations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_ortho.model import Model
from mi_ortho.probes import (
    PresenceCounts,
    Reservoir,
    SecondMoments,
    Strongest,
    presence_counts,
    reservoir,
    second_moments,
    strongest,
    token_presence,
)
from mi_ortho.runs.seeds import random_stream
from mi_ortho.studies.presence.passages import Passage, read_ordinary

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

    moments: SecondMoments
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
    usual: Mapping[int, Bool[Tensor, " samples"]] | None = None,
) -> Stream:
    """The statistics of passages.

    Args:
        activations: of each passage, by its number.
        vectors: whose presence is counted.
        size: of the sample.
        seed: of the sample; which activations are sampled depends on it and the passage's number only.
        usual: of each passage the tokens that count; others, attention sinks, are in no statistic.
    """
    every = {index: torch.ones(len(rows), dtype=torch.bool) for index, rows in activations.items()}
    places = {index: which.cpu().nonzero().flatten() for index, which in (usual or every).items()}
    ordinary = {index: rows[places[index].to(rows.device)] for index, rows in activations.items()}
    rows = torch.cat(list(ordinary.values()))
    parts: list[tuple[Reservoir, Strongest]] = []
    for index, passage in ordinary.items():
        generator = random_stream(seed, index, times=1_000_003)
        kept = reservoir(passage, index, size, generator)
        most = strongest(token_presence(passage, vectors).cpu(), index, BEST)
        positions = torch.where(
            most.places < 0, -1, places[index][most.places]
        )  # places are those of the whole passage
        parts.append((kept, replace(most, places=positions)))
    sample, best = parts[0]
    for more, better in parts[1:]:
        sample, best = sample.merge(more), best.merge(better)
    return Stream(second_moments(rows), sample, presence_counts(token_presence(rows, vectors)), best)


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
    """The statistics of every layer and group over the passages that fit their group."""
    kept = [one for one in passages if one.kept]
    streams: dict[tuple[int, str], Stream] = {}
    done = 0
    for batch in read_ordinary(model, kept, layers, system=system):
        for layer in layers:
            for group in dict.fromkeys(one.group for one, _, _ in batch):
                rows = {one.index: at[layer] for one, at, _ in batch if one.group == group}
                usual = {one.index: which for one, _, which in batch if one.group == group}
                new = stream_of(rows, vectors, size, seed, usual)
                before = streams.get((layer, group))
                streams[layer, group] = new if before is None else before.merge(new)
        done += len(batch)
        track("reading activations", done, len(kept))
    return streams

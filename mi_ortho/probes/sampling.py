"""A sample of fixed size from a stream of any length, and the strongest moments of each vector in it."""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from mi_ortho.probes.second_moments import require_finite


@dataclass(frozen=True, eq=False)
class Reservoir:
    """A uniform sample without replacement of the activations seen so far.

    Every activation gets a random key and those with the smallest keys stay, so that merging is exact and its order
    does not matter (a "bottom-k" sample).

    Attributes:
        rows: the activations kept.
        passages: which passage each comes from.
        keys: their keys, ascending.
        size: how many are kept at most.
        seen: how many activations the stream had.
    """

    rows: Float[Tensor, "samples d_model"]
    passages: Int[Tensor, " samples"]
    keys: Float[Tensor, " samples"]
    size: int
    seen: int

    def merge(self, other: "Reservoir") -> "Reservoir":
        """The sample of both streams together, of this one's size."""
        keys = torch.cat([self.keys, other.keys])
        order = keys.argsort(stable=True)[: self.size]
        return Reservoir(
            torch.cat([self.rows, other.rows])[order],
            torch.cat([self.passages, other.passages])[order],
            keys[order],
            self.size,
            self.seen + other.seen,
        )


def reservoir(
    activations: Float[Tensor, "samples d_model"], passage: int, size: int, generator: torch.Generator
) -> Reservoir:
    """The sample of one passage. With a generator seeded by the passage, the sample does not depend on any order."""
    require_finite(activations)
    if size < 1:
        raise ValueError(f"got a sample of {size}; expected at least 1; raise it")
    keys = torch.rand(len(activations), dtype=torch.float64, generator=generator, device=generator.device)
    order = keys.argsort()[:size].to(activations.device)
    names = torch.full((len(order),), passage, device=activations.device)
    return Reservoir(activations[order], names, keys.to(activations.device)[order], size, len(activations))


@dataclass(frozen=True, eq=False)
class Strongest:
    """For each vector the passages in which it reaches its highest presence, strongest first.

    Attributes:
        values: the presence there; -inf where fewer passages were seen.
        passages: which passages.
        places: the position inside the passage.
        largest_share: the largest squared presence of either sign over all activations.
    """

    values: Float[Tensor, "n best"]
    passages: Int[Tensor, "n best"]
    places: Int[Tensor, "n best"]
    largest_share: Float[Tensor, " n"]

    def merge(self, other: "Strongest") -> "Strongest":
        """The strongest of both."""
        values = torch.cat([self.values, other.values], dim=1)
        order = values.argsort(dim=1, descending=True, stable=True)[:, : self.values.shape[1]]
        passages = torch.cat([self.passages, other.passages], dim=1).gather(1, order)
        places = torch.cat([self.places, other.places], dim=1).gather(1, order)
        return Strongest(
            values.gather(1, order), passages, places, torch.maximum(self.largest_share, other.largest_share)
        )


def strongest(presences: Float[Tensor, "samples n"], passage: int, best: int) -> Strongest:
    """One passage: its strongest position for each vector; `presences` as `token_presence` gives them, in order."""
    if len(presences) == 0 or best < 1:
        raise ValueError(f"got {len(presences)} positions and best={best}; expected at least 1 of each; leave it out")
    top = presences.max(dim=0)
    empty = torch.full((presences.shape[1], best - 1), -torch.inf, device=presences.device).to(presences)
    nowhere = torch.full_like(empty, -1).long()
    here = torch.full_like(top.indices, passage)
    return Strongest(
        torch.cat([rearrange(top.values, "n -> n 1"), empty], dim=1),
        torch.cat([rearrange(here, "n -> n 1"), nowhere], dim=1),
        torch.cat([rearrange(top.indices, "n -> n 1"), nowhere], dim=1),
        presences.square().amax(dim=0),
    )

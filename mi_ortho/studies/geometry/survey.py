"""All measurements of one network's layers, in stages that can be recorded one by one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.interventions.sites import Site
from mi_ortho.model import Model
from mi_ortho.model.trajectories import Trajectories, trajectories, write_matrices
from mi_ortho.runs.rows import Row
from mi_ortho.runs.seeds import random_stream
from mi_ortho.studies.geometry.depth import gap_rows, growth_rows, update_rows
from mi_ortho.studies.geometry.layers import flat_rows, likeness_rows, overlap_rows

STAGES = {  # the measurements of each network that the claims and their controls need
    "model": ("growth", "gap", "updates", "overlap", "likeness", "flat"),
    "untrained": ("growth", "gap", "updates"),
    "shuffled": ("updates", "overlap"),
}


@dataclass(frozen=True)
class Effort:
    """Sizes of the random parts.

    Attributes:
        draws: bootstrap resamplings of the prompts.
        directions: leading directions of each output matrix whose overlap is measured.
        rotations: random rotations of the output matrices.
        splits: random halves on which maps between layers are fitted and judged.
        neighbours: of each activation in the neighbour graph.
        triangles: geodesic triangles of each cloud.
        copies: Gaussian clouds of each layer.
        seed: of all draws.
    """

    draws: int = 200
    directions: int = 8
    rotations: int = 40
    splits: int = 6
    neighbours: int = 8
    triangles: int = 400
    copies: int = 8
    seed: int = 0

    def generator(self, stage: int) -> torch.Generator:
        """A separate random stream for each stage."""
        return random_stream(self.seed, stage, times=100)


@dataclass(frozen=True, eq=False)
class Reading:
    """Data of a network that all stages share.

    Attributes:
        paths: the residual stream of every prompt.
        groups: of each set of prompts, its first index and the one after its last.
        matrices: output matrices of attention and MLP; none if the blocks do not have one of each.
        left_out: why there are none.
    """

    paths: Trajectories
    groups: Mapping[str, tuple[int, int]]
    matrices: Sequence[tuple[Site, Float[Tensor, "_ d_model"]]]
    left_out: str = ""


def read_network(model: Model, sets: Mapping[str, Sequence[str]], *, batch: int = 16) -> Reading:
    """Read the residual stream of all prompts at the last token, and the matrices that write to it.

    Args:
        model: any network.
        sets: prompts by name, each at least four.
        batch: prompts read together.

    Raises:
        ValueError: a set is too small, or a prompt occurs twice.
    """
    texts = [text for part in sets.values() for text in part]
    if min(map(len, sets.values()), default=0) < 4 or len(texts) < 12:
        sizes = ", ".join(f"{len(part)} {name}" for name, part in sets.items())
        raise ValueError(f"got {sizes} prompts; expected at least four in each set and twelve in all; pass larger sets")
    if len(set(texts)) < len(texts):
        raise ValueError("got a prompt that occurs twice; expected different prompts; leave the repetition out")
    ends = [sum(len(part) for part in list(sets.values())[: k + 1]) for k in range(len(sets))]
    groups = {name: (end - len(part), end) for (name, part), end in zip(sets.items(), ends)}
    paths = trajectories(model, texts, batch=batch)
    try:
        return Reading(paths, groups, write_matrices(model))
    except ValueError as error:
        return Reading(paths, groups, (), str(error))


def stages(reading: Reading, effort: Effort) -> dict[str, Callable[[], list[Row]]]:
    """Each stage as a function without arguments; each has a random stream of its own, so their order is free."""
    paths = reading.paths

    def growth() -> list[Row]:
        parts = {"all": paths} | {name: _part(paths, *ends) for name, ends in reading.groups.items()}
        return [
            {**row, "group": name}
            for name, part in parts.items()
            for row in growth_rows(part, effort.draws, effort.generator(0))
        ]

    def overlap() -> list[Row]:
        if reading.left_out:
            return [{"kind": "left_out", "what": "shared directions of the weights", "reason": reading.left_out}]
        return overlap_rows(reading.matrices, effort.directions, effort.rotations, effort.generator(3))

    def flat() -> list[Row]:
        labels = torch.cat([torch.full((end - start,), k) for k, (start, end) in enumerate(reading.groups.values())])
        return flat_rows(
            paths.kind("resid_post"),
            labels,
            neighbours=min(effort.neighbours, len(labels) // 3),
            triangles=effort.triangles,
            copies=effort.copies,
            generator=effort.generator(5),
        )

    return {
        "growth": growth,
        "gap": lambda: _all(gap_rows(paths, effort.draws, effort.generator(1))),
        "updates": lambda: _all(update_rows(paths, effort.draws, effort.generator(2))),
        "overlap": lambda: _all(overlap()),
        "likeness": lambda: _all(likeness_rows(paths.kind("resid_post"), effort.splits, effort.generator(4))),
        "flat": lambda: _all(flat()),
    }


def _all(rows: Sequence[Row]) -> list[Row]:
    return [{**row, "group": "all"} for row in rows]


def _part(paths: Trajectories, start: int, end: int) -> Trajectories:
    return Trajectories(paths.sites, paths.points[start:end])

"""Is the space of activations Euclidean: is the cloud of prompts no more curved than a flat one of the same spread?

Source: notes that ask how to check, with triangles, whether the space is Euclidean (K).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from experiments.lab import Lines, Reading, column, needs, once, pick, record_layers
from mi_ortho.pages import Panel, Series
from mi_ortho.studies.geometry import Effort

CLOUDS = {"measured": "family", "gaussian": "null", "grouped": "c3", "bent": "c4"}


@dataclass(frozen=True)
class Config:
    """Prompts of each class, Gaussian clouds, neighbours in the graph, triangles."""

    model: str | None = "embedded/naive"  # growth is built into the first embedded model
    prompts: int = 64
    copies: int = 12
    neighbours: int = 8
    triangles: int = 400
    seed: int = 0


SMOKE = Config(prompts=12, copies=2, triangles=40)
NEEDS = (needs.contrast,)


def run(config: Config, bench: Any) -> None:
    """Flatness of every layer's cloud, of flat copies and of bent ones."""
    effort = Effort(copies=config.copies, neighbours=config.neighbours, triangles=config.triangles, seed=config.seed)
    record_layers(bench, {"model": ("flat",)}, effort, config.prompts)


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """For each layer its detours over those of flat clouds, beside one flat cloud over the others."""
    each = pick(once(rows), kind="flat", network="model")
    for depth in sorted({row["depth"] for row in each}):
        ratios = {cloud: column(pick(each, depth=depth, cloud=cloud), "ratio") for cloud in CLOUDS}
        control, *others = ratios["gaussian"]
        if others and ratios["measured"]:
            flat = fmean(others)
            gates = {"sensitive": fmean(ratios["bent"]) / flat - 1} if ratios["bent"] else {}
            yield Reading("flat", ratios["measured"][0] / flat, control / flat, {"layers": depth}, gates)


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Lines]:
    """Detours and triangle defects by layer, beside the flat clouds and the bent one."""
    drawings = []
    for field, title in (("ratio", "Detour along the neighbour graph"), ("defect", "Triangle defect")):
        series = []
        for cloud, style in CLOUDS.items():
            part = pick(rows, kind="flat", cloud=cloud)
            depths = sorted({row["depth"] for row in part})
            means = [fmean(row[field] for row in pick(part, depth=depth)) for depth in depths]
            series += [Series(cloud, depths, means, style, cloud)] if depths else []
        caption = "After each block, last token; copies are averaged. Grouped: a Gaussian within each set of prompts."
        drawings += [Lines(caption, Panel(title, "", "layer"), tuple(series))] * bool(series)
    return drawings

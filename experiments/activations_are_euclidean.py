"""The space of activations is Euclidean: the cloud of prompts is no more curved than a flat one of the same spread.

Source: notes that ask how to check, with triangles, whether the space is Euclidean (K).
Prediction: paths along the graph of nearest neighbours are longer than straight lines by the same factor as in Gaussian
    clouds of the same covariance, within 0.05, on average over layers.
Control: Gaussian clouds of the same mean and covariance, and Gaussians within each set of prompts, which keep clusters.
Refuted if: the factor differs by more than 0.05 from that of every Gaussian cloud.
Changed after a first run: 64 prompts of each class instead of 96, since the embedded model brings 72; with 96 the run
    ended with an error before any measurement. The threshold was not changed. Growth from layer to layer is built
    into the first embedded model, so the sibling without it is studied now; the first run was on the first model. The
    thresholds were not changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from experiments.lab import Bench, Lines, needs, pick, record_layers, verdicts_of
from mi_ortho import Verdict
from mi_ortho.pages import Panel, Series
from mi_ortho.studies.geometry import Effort, space_is_flat

CLOUDS = {"measured": "family", "gaussian": "null", "grouped": "c3"}


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


def run(config: Config, bench: Bench) -> None:
    """Flatness of every layer's cloud and of its copies."""
    effort = Effort(copies=config.copies, neighbours=config.neighbours, triangles=config.triangles, seed=config.seed)
    record_layers(bench, {"model": ("flat",)}, effort, config.prompts)


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """The verdict on claim K: space is flat."""
    return verdicts_of(rows, (space_is_flat,))


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Lines]:
    """Detours and triangle defects by layer, beside the flat clouds."""
    drawings = []
    for field, title in (("ratio", "Detour along the neighbour graph"), ("defect", "Triangle defect")):
        series = []
        for cloud, style in CLOUDS.items():
            part = pick(rows, kind="flat", cloud=cloud)
            depths = sorted({row["depth"] for row in part})
            means = [fmean(row[field] for row in pick(part, depth=depth)) for depth in depths]
            series += [Series(cloud, depths, means, style, cloud)] if depths else []
        if series:
            caption = "After each block, last token; copies are averaged."
            drawings.append(Lines(caption, Panel(title, "", "layer"), tuple(series)))
    return drawings

"""Layers write along shared directions, so that successive layers move the state the same way.

Source: notes on why the variance grows: "the directions are similar between layers, hence the state goes further and
    further along those directions"; to be checked by shared directions between the weights across layers (H).
Prediction: the 8 leading directions of the output matrices (attention and MLP) overlap between layers at least 1.5
    times as much as after random rotations, and the additions of successive blocks have a mean cosine of at least 0.2.
Control: random rotations of each matrix; the same network with the entries of every weight matrix shuffled.
Refuted if: the interval of the ratio lies below 1.5, or that of the cosine below 0.2.
Changed after a first run: Growth from layer to layer is built into the first embedded model, so the sibling without
    it is studied now; the first run was on the first model. The thresholds were not changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.lab import Bench, Ranking, needs, pick, record_layers, verdicts_of
from mi_ortho import Verdict
from mi_ortho.pages import Estimate
from mi_ortho.studies.geometry import SHARED, Effort, directions_shared, updates_aligned

WANTED = {"model": ("overlap", "updates"), "shuffled": ("overlap", "updates")}


@dataclass(frozen=True)
class Config:
    """Prompts of each class, leading directions, random rotations, resamplings."""

    model: str | None = "embedded/naive"  # growth is built into the first embedded model
    prompts: int = 64
    directions: int = 8
    rotations: int = 60
    draws: int = 200
    seed: int = 0


SMOKE = Config(prompts=8, rotations=4, draws=10)
NEEDS = (needs.contrast,)


def run(config: Config, bench: Bench) -> None:
    """Overlaps and updates of the model and of the shuffled network."""
    effort = Effort(draws=config.draws, directions=config.directions, rotations=config.rotations, seed=config.seed)
    record_layers(bench, WANTED, effort, config.prompts)


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Verdicts on claim H, for the weights and for the updates they write."""
    return verdicts_of(rows, (directions_shared, updates_aligned))


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """Overlap over chance for attention, MLP and both."""
    estimates = []
    for network, style in (("model", "value"), ("shuffled", "control")):
        for row in pick(rows, kind="overlap", network=network):
            ends = (row["value"] / row["chance_high"], row["value"] / row["chance_low"])
            estimates.append(Estimate(f"{row['part']}, {network}", row["value"] / row["chance"], ends, style))
    caption = "Mean overlap between layers over that of random rotations; intervals over the rotations."
    return [Ranking("Shared directions of output matrices", caption, tuple(estimates), SHARED)] if estimates else []

"""The activations of all layers lie in one space: no map has to be learned to go from one layer to another.

Source: notes on one refusal direction that works at all layers, which suggests that the input and output of a layer are
    on the same space (J; the ablation half of J is in ablation_works_away_from_its_layer).
Prediction: on prompts it was not fitted on, a single number predicts one layer from another at least 0.8 times as well
    as the better of a rotation and a linear map that were fitted.
Control: a number after a random rotation; the ceiling is the layer itself.
Refuted if: the interval of the ratio over random halves of the prompts lies below 0.8.
Changed after a first run: the penalty of the fitted linear map, from 0.01 to 0.1 times the mean variance; and the
    interval, from the range over source layers to that over random halves of the prompts. Both came after numbers had
    been seen, so this verdict is exploratory. The threshold was not changed. Growth from layer to layer is built into
    the first embedded model, so the sibling without it is studied now; the first run was on the first model. The
    thresholds were not changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from experiments.lab import Bench, Ranking, needs, pick, record_layers, verdicts_of
from mi_ortho import Verdict
from mi_ortho.pages import Estimate
from mi_ortho.studies.geometry import Effort, one_space

MAPS = {
    "scaling": "a number",
    "rotation": "a rotation",
    "linear": "a linear map",
    "turned": "a number after a random rotation",
}


@dataclass(frozen=True)
class Config:
    """Prompts of each class and random halves of them."""

    model: str | None = "embedded/naive"  # growth is built into the first embedded model
    prompts: int = 64
    splits: int = 8
    seed: int = 0


SMOKE = Config(prompts=8, splits=2)
NEEDS = (needs.contrast,)


def run(config: Config, bench: Bench) -> None:
    """Likeness of every two layers."""
    record_layers(bench, {"model": ("likeness",)}, Effort(splits=config.splits, seed=config.seed), config.prompts)


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """The verdict on claim J: layers are one space."""
    return verdicts_of(rows, (one_space,))


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """Share of variance predicted under each kind of map, for neighbours and for all pairs."""
    carried, estimates = pick(rows, kind="carried", network="model"), []
    following = [row for row in carried if row["target"] == row["source"] + 1]
    for label, part in (("next layer", following), ("any layer", carried)):
        estimates += [
            Estimate(
                f"{label}: {words}", fmean(row[name] for row in part), None, "control" if name == "turned" else "value"
            )
            for name, words in MAPS.items()
            if part
        ]
    caption = "Share of variance predicted on unseen prompts, means over pairs of layers and random halves."
    return [Ranking("One layer predicted from another", caption, tuple(estimates))] if estimates else []

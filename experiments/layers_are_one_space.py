"""Do the activations of all layers lie in one space, so that no map has to be learned from one layer to another?

Source: notes on one refusal direction that works at all layers, which suggests that the input and output of a layer are
    on the same space (J; the ablation half of J is in ablation_works_away_from_its_layer).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from experiments.lab import Ranking, Reading, bars, column, needs, once, pick, record_layers
from mi_ortho.studies.geometry import Effort

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


def run(config: Config, bench: Any) -> None:
    """Likeness of every two layers."""
    record_layers(bench, {"model": ("likeness",)}, Effort(splits=config.splits, seed=config.seed), config.prompts)


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """For each source layer how much of the better learned map's prediction a number reaches."""
    carried = pick(once(rows), kind="carried", network="model")
    for source in sorted({row["source"] for row in carried}):
        part = pick(carried, source=source)
        best = fmean(max(row["linear"], row["rotation"]) for row in part)
        value, control = (fmean(column(part, name)) / best if best > 0 else None for name in ("scaling", "turned"))
        yield Reading("number", value, control, {"layers": source}, {"predicts": best})


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """Share of variance predicted under each kind of map, for neighbours and for all pairs."""
    carried = pick(once(rows), kind="carried", network="model")
    following = [row for row in carried if row["target"] == row["source"] + 1]
    groups = [
        (f"{label}: {words}", by_source(part, name), "control" if name == "turned" else "value")
        for label, part in (("next layer", following), ("any layer", carried))
        for name, words in MAPS.items()
    ]
    caption = "Share of variance predicted on unseen prompts; means over source layers with 95 % intervals."
    return [bars("One layer predicted from another", caption, groups)] * bool(carried)


def by_source(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """Means over targets and random halves, one for each source layer."""
    return [fmean(column(pick(rows, source=source), name)) for source in sorted({row["source"] for row in rows})]

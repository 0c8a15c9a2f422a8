"""Do layers write along shared directions, so that successive layers move the state the same way?

Source: notes on why the variance grows: "the directions are similar between layers, hence the state goes further and
    further along those directions"; to be checked by shared directions between the weights across layers (H).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.lab import Lines, Reading, curves_of, needs, once, pick, record_layers
from mi_ortho.nulls import CONTROLS
from mi_ortho.pages import Panel
from mi_ortho.studies.geometry import Effort

WANTED = {"model": ("overlap", "updates"), "shuffled": ("overlap", "updates")}
STYLES = {"model": "family", "shuffled": CONTROLS["shuffled"].colour}
COLUMNS = {"weights": ("overlap_pair", "times"), "moves": ("update", "alignment")}


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


def run(config: Config, bench: Any) -> None:
    """Overlaps and updates of the model and of the shuffled network."""
    effort = Effort(draws=config.draws, directions=config.directions, rotations=config.rotations, seed=config.seed)
    record_layers(bench, WANTED, effort, config.prompts)


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """Overlap of two layers' matrices over chance, cosine of successive moves, beside the shuffled network."""
    each = once(rows)
    for key, (kind, column) in COLUMNS.items():
        control = {place(row): row[column] for row in pick(each, kind=kind, network="shuffled")}
        for row in pick(each, kind=kind, network="model"):
            if row[column] is not None and place(row)[0] != row.get("target"):
                yield Reading(key, row[column], control.get(place(row)), {"layers": place(row)[0]})


def place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """The layers and matrices of a row, its source layer first."""
    return row.get("source", row.get("depth")), row.get("target"), row.get("kinds")


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Lines]:
    """Cosine of each block's addition with the next one's."""
    parts = [row for row in once(rows) if row.get("alignment") is not None]
    series = curves_of(parts, STYLES, "alignment", kind="update")
    panel = Panel("Likeness of successive moves", "cosine", "layer")
    return [Lines("Means over prompts.", panel, series)] * bool(series)

"""Does the variance of activations over prompts grow exponentially because every layer moves the state onwards?

Source: notes on layers that expand and untangle the activation space: variance X.var(dim=0) at the last token, its mean
    and largest value over features, for two sets of prompts and the pre and mid streams (E); growth near-exponential
    (F); the two streams apart (G); explained there by moves of equal length along similar directions, so that the norm
    grows linearly (I, whose step from a linear norm to an exponential variance does not follow: its square is a power).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from experiments.lab import Lines, Total, beside, curves_of, needs, once, pick, record_layers, resampled
from mi_ortho.nulls import CONTROLS
from mi_ortho.pages import Panel
from mi_ortho.stats import Measured, exactly
from mi_ortho.studies.geometry import Effort

WANTED = {"model": ("growth", "gap", "updates"), "untrained": ("growth", "gap", "updates")}
STYLES = {"model": "family", "untrained": CONTROLS["untrained"].colour}
MEAN = {"group": "all", "stream": "pre", "statistic": "mean_variance"}


@dataclass(frozen=True)
class Config:
    """Prompts of each class, and resamplings of them."""

    model: str | None = "embedded/naive"  # growth is built into the first embedded model
    prompts: int = 64
    draws: int = 200
    seed: int = 0


SMOKE = Config(prompts=8, draws=10)
NEEDS = (needs.contrast, needs.layers(5))


def run(config: Config, bench: Any) -> None:
    """The curves of the model and of an untrained network."""
    record_layers(bench, WANTED, Effort(draws=config.draws, seed=config.seed), config.prompts)


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Total]:
    """The worst of the curves, the law, the gap between the streams and attention's share of it, the moves."""
    each, fit = once(rows), pick(rows, kind="fit", network="model", form="exponential", **MEAN)
    worst, control = worst_curve(each, "model"), worst_curve(each, "untrained")
    if worst and control:
        yield Total("rise", worst, control)
    pairs = {
        "law": beside(each, "untrained", "preference", kind="law", **MEAN),
        "gap": beside(each, "untrained", kind="mean_gap"),
        "attention": beside(each, "untrained", "share", kind="mean_gap"),
        "moves": beside(each, "untrained", "slope", kind="updates"),
    }
    for key, pair in pairs.items():
        if pair:
            gates = {"straight": fit[0]["r_squared"]} if key == "law" and fit else {}
            yield Total(key, pair[0], exactly(0.0) if key == "moves" else pair[1], gates)


def worst_curve(rows: Sequence[Mapping[str, Any]], network: str) -> Measured | None:
    """R² of the curve that is least like a rising line: all have to be, so this one decides. 0 where one falls."""
    fits = pick(rows, kind="fit", network=network, form="exponential")
    curves = [row for row in fits if row["group"] != "all" and row["statistic"] != "mean_norm"]
    if not curves:
        return None
    worst = min(curves, key=lambda row: row["r_squared"] if row["slope"] > 0 else 0.0)
    straight = resampled(worst, "r_squared")
    if worst["slope_low"] > 0 or not straight.interval:
        return straight
    value = straight.value if worst["slope"] > 0 else 0.0
    return replace(straight, value=value, interval=(0.0, straight.interval[1] if worst["slope"] > 0 else 0.0))


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Lines]:
    """Mean variance over prompts, and the length of each block's addition, beside the untrained network."""
    variance = curves_of(rows, STYLES, "value", kind="point", **MEAN)
    moves = curves_of(rows, STYLES, "norm", kind="update")
    parts = (
        ("Mean variance over prompts", "A straight line is exponential growth.", variance),
        ("Length of a block's addition", "Flat where every layer moves the state equally far.", moves),
    )
    return [Lines(caption, Panel(title, "", "layer", log=True), series) for title, caption, series in parts if series]

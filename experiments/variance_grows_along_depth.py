"""The variance of activations over prompts grows exponentially along depth because every layer moves the state onwards.

Source: notes on layers that expand and untangle the activation space: variance X.var(dim=0) at the last token, its mean
    and largest value over features, for two sets of prompts and the pre and mid streams (E); growth near-exponential
    (F); the two streams apart (G); explained there by moves of equal length along similar directions, so that the norm
    grows linearly (I, whose step from a linear norm to an exponential variance does not follow: its square is a power).
Prediction: every curve rises with log-linear R² at least 0.8 (E); an exponential is preferred to a power law by 2 of
    AICc (F); log(variance of mid / variance of pre) at least 0.05 on average (G), with attention's share of the growth
    above 0.5; the log length of a block's addition changes by at most 0.05 a block (I).
Control: an untrained network. The embedded model was trained with residual writes whose scale grows from block to block
    (its recipe.json), so on it growth is built in: there E and F test the instruments, and only I says why.
Refuted if: the interval lies on the other side of the threshold.
Changed after a first run: Growth from layer to layer is built into the first embedded model, so the sibling without
    it is studied now; the first run was on the first model. The thresholds were not changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.lab import Bench, Lines, needs, pick, record_layers, verdicts_of
from mi_ortho import Verdict
from mi_ortho.nulls import CONTROLS
from mi_ortho.pages import Panel, Series
from mi_ortho.studies.geometry import (
    Effort,
    attention_adds_more,
    curves_rise,
    equal_moves,
    exponential_growth,
    streams_separate,
)

WANTED = {"model": ("growth", "gap", "updates"), "untrained": ("growth", "gap", "updates")}
CLAIMS = (curves_rise, exponential_growth, streams_separate, attention_adds_more, equal_moves)


@dataclass(frozen=True)
class Config:
    """Prompts of each class, and resamplings of them."""

    model: str | None = "embedded/naive"  # growth is built into the first embedded model
    prompts: int = 64
    draws: int = 200
    seed: int = 0


SMOKE = Config(prompts=8, draws=10)
NEEDS = (needs.contrast, needs.layers(5))


def run(config: Config, bench: Bench) -> None:
    """The curves of the model and of an untrained network."""
    record_layers(bench, WANTED, Effort(draws=config.draws, seed=config.seed), config.prompts)


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Verdicts on claims E, F, G and I."""
    return verdicts_of(rows, CLAIMS)


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Lines]:
    """Mean variance of both streams, and the length of each block's addition, beside the untrained network."""
    points = pick(rows, kind="point", group="all", statistic="mean_variance")
    styles = (("model", "pre", "family"), ("model", "mid", "c6"), ("untrained", "pre", CONTROLS["untrained"].colour))
    curves = [
        (f"{network}, {stream}", style, pick(points, network=network, stream=stream))
        for network, stream, style in styles
    ]
    moves = [
        (network, style, pick(rows, kind="update", network=network))
        for network, style in (("model", "family"), ("untrained", CONTROLS["untrained"].colour))
    ]
    drawings = []
    for title, caption, parts, field in (
        ("Mean variance over prompts", "A straight line is exponential growth.", curves, "value"),
        ("Length of a block's addition", "Flat where every layer moves the state equally far.", moves, "norm"),
    ):
        series = tuple(
            Series(label, [row["depth"] for row in part], [row[field] for row in part], style, label.replace(", ", "-"))
            for label, style, part in parts
            if part
        )
        if series:
            drawings.append(Lines(caption, Panel(title, "", "layer", log=True), series))
    return drawings

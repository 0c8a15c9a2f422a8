"""Do derivatives at zero describe what a steering vector of working norm does?

Source: comment on deep causal transcoding that derivative methods are only local; its ratio lambda, calibrated to 0.5.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import log2
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from experiments.lab import (
    Base,
    Bench,
    Lines,
    Place,
    Reading,
    each_base,
    needs,
    pick,
    random_texts,
    read_bases,
    shuffled_weights,
    unbased,
)
from mi_ortho import ActivationMap
from mi_ortho.derivatives import pushforward
from mi_ortho.nulls import CONTROLS
from mi_ortho.pages import Panel, Series

SCALES = (0.03, 0.1, 0.3, 1.0, 2.0)  # of the norm at which steering works
TRIED = 16  # random directions
STYLES = {
    "base": ("base", "family"),
    "random": (CONTROLS["random"].label, CONTROLS["random"].colour),
    "displaced": ("random, displaced as far", "c1"),
    "tokens": ("random, prompts of random tokens", "c4"),
    "shuffled": ("random, shuffled weights", CONTROLS["shuffled"].colour),
}


@dataclass(frozen=True)
class Config(Place):
    """Where bases are looked for."""


SMOKE = Config(behaviours=("code",), bases=1, max_steps=10)
NEEDS = (needs.place,)


def run(config: Config, bench: Bench) -> None:
    """For each base what the derivative misses of it and of random vectors, here and where it should not matter."""
    shuffled = cache(lambda: shuffled_weights(bench))

    def others(base: Base) -> dict[str, tuple[ActivationMap, float]]:
        odd = unbased(base.bench, base.place, random_texts(base.bench, base.texts, base.generator(20)))
        home = unbased(shuffled(), base.place, base.texts)
        return {"tokens": (odd.z, 1.0), "shuffled": (home.z, home.stream / base.stream)}

    each_base(config, bench, lambda base: measure(base, others(base)))


def measure(base: Base, others: Mapping[str, tuple[ActivationMap, float]]) -> None:
    """Record one base, beside other maps of as wide a vector, each with the factor between its norms and these."""
    random = base.random(torch.full((TRIED,), base.norm).to(base.vector), 21)
    groups = {
        "base": (base.z, base.vector[None]),
        "random": (base.z, random),
        "displaced": (base.z, base.displaced(TRIED, 21)),
        **{name: (z, factor * random) for name, (z, factor) in others.items()},
    }
    for group, (z, vectors) in groups.items():
        for scale, value in zip(SCALES, residuals(z, vectors), strict=True):
            base.bench.record(kind="residual", **base.units, group=group, scale=scale, residual=value)


@torch.no_grad()
def residuals(z: ActivationMap, vectors: Tensor) -> list[float]:
    """lambda at each scale s: root mean square over the vectors of |z(s v) - z(0) - s J v| / |s J v|."""
    linear = pushforward(z, torch.zeros_like(vectors[0]), vectors)
    start = z(torch.zeros_like(vectors[:1])).flatten(1)
    missed = [(z(s * vectors).flatten(1) - start - s * linear).norm(dim=-1) / (s * linear).norm(dim=-1) for s in SCALES]
    return [float(ratio.square().mean().sqrt()) for ratio in missed]


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """What is missed at the working norm against a small one, other vectors, another network and other prompts."""
    for units, gates, part in read_bases(rows):
        at = {(row["group"], row["scale"]): row["residual"] for row in pick(part, kind="residual")}
        if at:
            full = {group: at[group, 1.0] for group in STYLES}
            yield Reading("missed", full["base"], at["base", SCALES[0]], units, gates)
            yield Reading("steering", full["base"], full["displaced"], units, gates)
            yield Reading("training", full["random"], full["shuffled"], units, gates)
            yield Reading("prompts", log2(full["random"] + 1e-9), log2(full["tokens"] + 1e-9), units, gates)


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Lines]:
    """What the derivative misses, over the norm."""
    series = []
    for group, (label, style) in STYLES.items():
        if part := pick(rows, kind="residual", group=group):
            values = [fmean(row["residual"] for row in pick(part, scale=scale)) for scale in SCALES]
            series.append(Series(label, SCALES, values, style, group))
    panel = Panel(
        "Residual of the derivative", "lambda", "norm / working norm", {"threshold": 0.5}, logx=True, log=True
    )
    caption = "Means over bases. Derivatives describe the map where lambda is far below 0.5."
    return [Lines(caption, panel, tuple(series))] if series else []

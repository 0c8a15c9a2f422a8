"""The orthogonal family is the one that a linear response would have.

Source: the linear null of MELBO-ortho (conjugate gradients on the measured Jacobian); decisive experiment D2.
Prediction: the relative losses of the first vectors differ from those of the linear null by at most 0.1 on average, at
    the norm where steering works; at a tenth of that norm, where the map is nearly linear, they must.
Control: the same search on the linear map z(0) + J theta itself: its losses must lie within 0.1 of the null, or the
    optimiser and not the model is at fault.
Refuted if: the interval of the mean difference at the working norm lies above 0.1 while both controls hold.
Changed after a first run: 12 prompts instead of 6, since the first run left an interval too wide to decide. The
    thresholds were not changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean
from typing import Any

import torch

from experiments.lab import DEMO, Bench, Lines, at_most, needs, pick
from mi_ortho import ActivationMap, Status, Verdict, displace, jacobian, linear_null, match, melbo, melbo_ortho
from mi_ortho.derivatives import gauss_newton
from mi_ortho.nulls import linear_family
from mi_ortho.pages import Panel, Series

DIFFERENCE = 0.1
SMALL = 0.1  # of the working norm: nearly linear


@dataclass(frozen=True)
class Config:
    """Where to steer, the working norm, and how many vectors of how many prompts are compared."""

    model: str | None = None
    source: int = DEMO["source"]
    target: int = DEMO["target"]
    radius: float = DEMO["radius"]
    n: int = 12
    prompts: int = 12
    seed: int = 0


SMOKE = Config(n=4, prompts=2)
NEEDS = (needs.blocks("source", "target"), needs.prompts(lambda config: config.prompts))


def run(config: Config, bench: Bench) -> None:
    """One row for each prompt, norm and vector."""
    bench.require_layers(config.source, config.target)
    for index, text in enumerate(bench.texts(config.prompts)):
        z = bench.map((text,), config.source, config.target)
        for scale in (SMALL, 1.0):
            for part in bench.stage({"last": True}, prompt=index, scale=scale):
                radius, stream = scale * config.radius, bench.generator(config.seed * 1009 + index)
                base = melbo(displace(z), radius=radius, generator=stream, max_steps=10)[0].vector
                for k, row in enumerate(numbers := examine(z, base, config.n, config.seed)):
                    part.record(prompt=index, scale=scale, index=k, last=k == len(numbers) - 1, **row)
        bench.track("prompt", index + 1, config.prompts)


def examine(z: ActivationMap, base: torch.Tensor, n: int, seed: int) -> list[dict[str, float]]:
    """For each of the first n vectors: the loss the linear null predicts, the search's on the linear map, the map's."""
    matrix = jacobian(z, torch.zeros_like(base))
    predicted = linear_null(matrix, base, n)
    same = linear_family(matrix, base, n, seed=seed)
    goal = match(z, base)
    curvature = gauss_newton(goal, base, generator=torch.Generator().manual_seed(seed))
    searches = melbo_ortho(goal, base, seed=seed, curvature=curvature)
    sound = (one for one in searches if one.status not in (Status.COLLAPSED, Status.NONFINITE))
    results = list(islice(sound, n))
    return [
        {"predicted": float(p), "linear": a.loss, "measured": b.loss, "norm": float(b.vector.norm())}
        for p, a, b in zip(predicted.losses, same, results)
    ]


def differences(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """Mean |loss - predicted loss| over the vectors of each prompt."""
    prompts = dict.fromkeys(row["prompt"] for row in rows)
    return [fmean(abs(row[name] - row["predicted"]) for row in pick(rows, prompt=prompt)) for prompt in prompts]


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """The null against the measurement, at the working norm and far below it."""
    small, full = pick(rows, scale=SMALL), pick(rows, scale=1.0)
    statistic = "mean |loss - loss of the linear null| over the first vectors, one value a prompt"
    return [
        at_most(
            "At the working norm the family is that of a linear map",
            f"losses within {DIFFERENCE} of the null",
            statistic,
            differences(full, "measured"),
            DIFFERENCE,
            differences(full, "linear"),
        ),
        at_most(
            "At a tenth of that norm the family is that of a linear map",
            f"losses within {DIFFERENCE} of the null",
            statistic,
            differences(small, "measured"),
            DIFFERENCE,
            differences(small, "linear"),
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Lines]:
    """Losses by index, at both norms."""
    drawings = []
    for scale, title in ((1.0, "At the working norm"), (SMALL, "At a tenth of it")):
        part = pick(rows, scale=scale)
        indexes = sorted({row["index"] for row in part})
        mean = {
            name: [fmean(row[name] for row in pick(part, index=k)) for k in indexes]
            for name in ("predicted", "linear", "measured")
        }
        series = (
            Series("search on the model", indexes, mean["measured"], "family", "measured"),
            Series("search on the linear map", indexes, mean["linear"], "c6", "linear"),
            Series("linear null", indexes, mean["predicted"], "null", "null"),
        )
        caption = "Relative activation loss of vector k, mean over prompts; 0 is a perfect copy of the base's effect."
        drawings.append(Lines(caption, Panel(title, "loss", lines={"no effect": 1.0}), series))
    return drawings

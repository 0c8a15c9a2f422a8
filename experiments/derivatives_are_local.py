"""Derivatives at zero do not describe what a steering vector of working norm does.

Source: comment on deep causal transcoding that derivative methods are only local; its ratio lambda, calibrated to 0.5.
Prediction: at the norm where steering works, lambda = |D(Rv) - R J v| / |R J v| of random unit directions v is at least
    0.5, on the model's own kind of prompts; and prompts made of random tokens differ from them by less than a factor 2.
Control: the network with the entries of every weight matrix shuffled, at the same norm.
Refuted if: the interval of lambda lies below 0.5 (derivatives suffice), or random prompts differ more than twofold (the
    failure belongs to odd prompts, not to steering).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log2
from statistics import fmean
from typing import Any

import torch

from experiments.lab import DEMO, Bench, Lines, at_least, at_most, column, needs, pick, random_texts, shuffled_weights
from mi_ortho import ActivationMap, Verdict, jacobian, random_vectors
from mi_ortho.nulls import CONTROLS
from mi_ortho.pages import Panel, Series

LAMBDA = 0.5
FACTOR = 1.0  # of two, as a logarithm


@dataclass(frozen=True)
class Config:
    """Where to steer, the norm at which lambda is judged, and the norms of the curve as multiples of it."""

    model: str | None = None
    source: int = DEMO["source"]
    target: int = DEMO["target"]
    radius: float = DEMO["radius"]
    scales: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 2.0)
    directions: int = 16
    prompts: int = 8
    seed: int = 0


SMOKE = Config(scales=(0.1, 1.0), directions=4, prompts=2)
NEEDS = (needs.blocks("source", "target"), needs.prompts(lambda config: config.prompts))


def run(config: Config, bench: Bench) -> None:
    """One row for each network, kind of prompt, prompt and norm."""
    bench.require_layers(config.source, config.target)
    if 1.0 not in config.scales:
        raise ValueError(f"got scales {config.scales}; expected 1.0 among them, where lambda is judged; add it")
    texts_of_model = bench.texts(config.prompts)
    odd = random_texts(bench, texts_of_model, bench.generator(config.seed))
    for network, subject, kind, texts in (
        ("trained", bench, "own", texts_of_model),
        ("trained", bench, "random", odd),
        ("shuffled", shuffled_weights(bench), "own", texts_of_model),
    ):
        for index, text in enumerate(texts):
            key = {"network": network, "prompts": kind, "prompt": index}
            for part in bench.stage({"scale": config.scales[-1]}, **key):
                z = subject.map((text,), config.source, config.target)
                stream = bench.generator(config.seed * 1009 + index)
                directions = random_vectors(config.directions, z.d_model, 1.0, stream)
                values = examine(z, [scale * config.radius for scale in config.scales], directions)
                for scale, value in zip(config.scales, values):
                    part.record(**key, scale=scale, residual=value)
            bench.track(f"{network} network, {kind} prompts", index + 1, len(texts))


@torch.no_grad()
def examine(z: ActivationMap, norms: Sequence[float], directions: torch.Tensor) -> list[float]:
    """lambda at each norm: root mean square over directions of |D(Rv) - R J v| / |R J v|."""
    linear = directions @ jacobian(z, torch.zeros_like(directions[0])).mT
    origin = z(torch.zeros_like(directions[:1])).flatten(1)
    residuals = []
    for norm in norms:
        change = z(norm * directions).flatten(1) - origin
        ratio = (change - norm * linear).norm(dim=-1) / (norm * linear).norm(dim=-1)
        residuals.append(float(ratio.square().mean().sqrt()))
    return residuals


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """lambda at the working norm, and how far random prompts are from the model's own."""
    at = pick(rows, scale=1.0)
    conditions = (("trained", "own"), ("trained", "random"), ("shuffled", "own"))
    trained, odd, null = (column(pick(at, network=one, prompts=kind), "residual") for one, kind in conditions)
    ratios = [abs(log2(max(a, 1e-9) / max(b, 1e-9))) for a, b in zip(trained, odd)]
    return [
        at_least(
            "At the working norm the first derivative misses half of the effect",
            f"lambda at least {LAMBDA}",
            "|D(Rv) - R J v| / |R J v|, random directions, one value a prompt",
            trained,
            LAMBDA,
            null,
        ),
        at_most(
            "That is no matter of odd prompts",
            "lambda on prompts of random tokens within a factor 2",
            "|log2 of the ratio of lambda between random and own prompts|",
            ratios,
            FACTOR,
            [],
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Lines]:
    """lambda by norm, for the three conditions."""
    styles = {
        ("trained", "own"): ("family", "trained, own prompts"),
        ("trained", "random"): (CONTROLS["random"].colour, "trained, random tokens"),
        ("shuffled", "own"): (CONTROLS["shuffled"].colour, CONTROLS["shuffled"].label),
    }
    series = []
    for (network, kind), (style, label) in styles.items():
        part = pick(rows, network=network, prompts=kind)
        scales = sorted({row["scale"] for row in part})
        values = [fmean(column(pick(part, scale=scale), "residual")) for scale in scales]
        series.append(Series(label, scales, values, style, f"{network}-{kind}"))
    panel = Panel(
        "Residual of the derivative", "lambda", "norm / working norm", {"threshold": LAMBDA}, logx=True, log=True
    )
    return [
        Lines("Means over prompts. Derivatives describe the map where lambda is far below 0.5.", panel, tuple(series))
    ]

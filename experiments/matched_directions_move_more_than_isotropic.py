"""Directions in which activations vary move the model more than isotropic ones, and the family more than those.

Source: a comment with sensitivity curves of GPT-2, and Lee and Heimersheim's baseline; hypothesis H11.
Prediction: the divergence that half of the base's norm would cost is reached by covariance-matched random directions at
    0.5 times the norm of isotropic ones or less, and by the family at 0.5 times the norm of covariance-matched ones or
    less.
Control: differences of two covariance-matched draws, and covariance-matched directions outside the family's span.
Refuted if: the interval of log2 of either ratio of norms lies below 1: the curves are the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log2
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Bench, Case, Ranking, Setup, at_least, bars, cases, column, needs, pick
from mi_ortho import Verdict, random_vectors, resid_post, span
from mi_ortho.model import kl_divergence, masked_mean, ordinary_activations
from mi_ortho.multiplicity import smallest_scale
from mi_ortho.nulls import control, covariance_matched, covariance_mixture, with_norms

TWICE = 1.0  # as a logarithm to base 2
LARGEST = 16.0  # base norms; directions that do not get there count as this
GROUPS = {
    **{name: control(name).label for name in ("isotropic", "covariance", "mixture")},
    "outside": "covariance-matched, outside the span",
    "family": "family",
}


@dataclass(frozen=True)
class Config(Setup):
    """Where to search, and directions of each kind."""

    directions: int = 16
    prompts: int = 16


SMOKE = Config(cases=1, n=4, max_steps=10, directions=4)
NEEDS = (needs.family,)


def run(config: Config, bench: Bench) -> None:
    """One row for each case and kind of direction."""
    for case in cases(bench, config):
        effect = divergence(case)
        with torch.no_grad():
            threshold = float(effect(case.base[None] / 2)[0])
        for group, directions in kinds(case, config).items():
            if not bench.has(case=case.index, group=group):
                unit = with_norms(directions, torch.full((len(directions),), case.norm))
                bench.record(case=case.index, group=group, threshold=threshold, **examine(effect, unit, threshold))
        bench.track("case", case.index + 1, config.cases)


def divergence(case: Case) -> Callable[[Tensor], Tensor]:
    """theta to KL(unsteered || steered) in nats along the unsteered completion."""
    z = case.yard.other
    with torch.no_grad():
        plain = z(torch.zeros_like(case.base)[None]).flatten(1, -2)
    real = z.real.flatten()

    def effect(theta: Tensor) -> Tensor:
        parts = [z(part).flatten(1, -2) for part in theta.split(16)]
        return torch.cat([masked_mean(kl_divergence(p_logits=plain.expand_as(p), q_logits=p), real) for p in parts])

    return effect


def kinds(case: Case, config: Config) -> dict[str, Tensor]:
    """Directions of every kind, of any norm."""
    texts = case.bench.subject.texts
    every = tuple(dict.fromkeys([*texts.train, *texts.held_out, *(t for ts in texts.natural.values() for t in ts)]))
    prompts, site = case.setting.prompts(every[: config.prompts] or case.texts), resid_post(case.setup.source)
    activations = ordinary_activations(case.setting.model, prompts, site)
    family, generator, n = case.family("kl").vectors, case.generator(20), config.directions
    matched = covariance_matched(activations, n, generator)
    return {
        "isotropic": random_vectors(n, len(case.base), 1.0, generator),
        "covariance": matched,
        "mixture": covariance_mixture(activations, n, generator),
        "outside": span(family).reject(matched),
        "family": family[:n],
    }


@torch.no_grad()
def examine(effect: Callable[[Tensor], Tensor], directions: Tensor, threshold: float) -> dict[str, float]:
    """Median norm, in units of the directions', at which the divergence is reached; and the share that reaches it."""
    scales = smallest_scale(effect, directions, threshold, low=1 / 64, high=LARGEST, grid=21, refine=8)
    return {"norm": float(scales.clamp_max(LARGEST).median()), "reached": float(torch.isfinite(scales).double().mean())}


def ratios(rows: Sequence[Mapping[str, Any]], above: str, below: str) -> list[float]:
    """log2 of the norm one kind needs over that of another, by case."""
    other = {row["case"]: row["norm"] for row in pick(rows, group=below)}
    return [log2(row["norm"] / other[row["case"]]) for row in pick(rows, group=above) if row["case"] in other]


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Matched against isotropic, and the family against matched."""
    return [
        at_least(
            "Covariance-matched directions need half the norm of isotropic ones",
            "at most half",
            "log2 of the norm isotropic ones need over that of matched ones; the control is differences of two",
            ratios(rows, "isotropic", "covariance"),
            TWICE,
            ratios(rows, "isotropic", "mixture"),
        ),
        at_least(
            "The family needs half the norm of covariance-matched directions",
            "at most half",
            "log2 of the norm matched ones need over that of the family; the control is those outside its span",
            ratios(rows, "covariance", "family"),
            TWICE,
            ratios(rows, "outside", "family"),
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """Norms that reach the divergence."""
    groups = [
        (label, column(pick(rows, group=name), "norm"), "value" if name == "family" else "control")
        for name, label in GROUPS.items()
    ]
    return [
        bars("Norm that reaches the divergence", "In base norms, medians; means over bases.", groups, unit="x base")
    ]

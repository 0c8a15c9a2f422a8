"""Do directions in which activations vary move the model more than isotropic ones, and a family more than those?

Source: a comment with sensitivity curves of GPT-2, and Lee and Heimersheim's baseline; hypothesis H11.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log2
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Base, Bench, Place, Ranking, Reading, bars, column, each_base, needs, pick, read_bases
from mi_ortho import Slice, span
from mi_ortho.geometry import random_rotation
from mi_ortho.model import kl_divergence, masked_mean, ordinary_activations
from mi_ortho.multiplicity import smallest_scale
from mi_ortho.nulls import control, covariance_matched, with_norms

LOW, LARGEST = 1 / 16, 8.0  # base norms that are tried
GROUPS = {
    "isotropic": control("isotropic").label,
    "covariance": control("covariance").label,
    "turned": "the same covariance, turned at random",
    "outside": "covariance-matched, outside the span",
    "family": "family",
    "searched": "family of a random base that moves as far",
}


@dataclass(frozen=True)
class Config(Place):
    """Where bases are looked for, directions of each kind, and prompts that the covariance is taken over."""

    directions: int = 12
    prompts: int = 16


SMOKE = Config(behaviours=("code",), bases=1, most=4, max_steps=10, directions=4)
NEEDS = (needs.place,)


def run(config: Config, bench: Bench) -> None:
    """For each base the norm at which each kind of direction costs what half of the base does."""
    subject = bench.subject
    lists = (subject.texts.train, subject.texts.held_out, *subject.texts.natural.values())
    texts = tuple(dict.fromkeys(text for each in lists for text in each))[: config.prompts]

    def measured(base: Base) -> None:
        prompts, site = base.setting.prompts(texts), base.setting.site
        activations = ordinary_activations(base.setting.model, prompts, site)
        measure(base, divergence(base.yard.other, base.vector), activations, config.directions)

    each_base(config, bench, measured)


def divergence(z: Slice, like: Tensor) -> Callable[[Tensor], Tensor]:
    """theta to KL(unsteered || steered) in nats along the unsteered completion, by its map to logits."""
    with torch.no_grad():
        plain = z(torch.zeros_like(like)[None]).flatten(1, -2)
    real = z.real.flatten()

    def effect(theta: Tensor) -> Tensor:
        parts = [z(part).flatten(1, -2) for part in theta.split(16)]
        return torch.cat([masked_mean(kl_divergence(p_logits=plain.expand_as(p), q_logits=p), real) for p in parts])

    return effect


@torch.no_grad()
def measure(base: Base, effect: Callable[[Tensor], Tensor], activations: Tensor, count: int) -> None:
    """Record one base."""
    threshold = float(effect(base.vector[None] / 2)[0])
    for group, directions in kinds(base, activations, count).items():
        if len(directions):
            unit = with_norms(directions, torch.full((len(directions),), base.norm).to(directions))
            scales = smallest_scale(effect, unit, threshold, low=LOW, high=LARGEST, grid=8, refine=5)
            reached = torch.isfinite(scales)
            norm = float(scales.median()) if float(reached.double().mean()) > 0.5 else None  # cut off: no number
            numbers = {"norm": norm, "reached": float(reached.double().mean()), "threshold": threshold}
            base.bench.record(kind="norm", **base.units, group=group, **numbers)


def kinds(base: Base, activations: Tensor, count: int) -> dict[str, Tensor]:
    """Directions of every kind, of any norm; families without the vectors that showed their end."""
    generator, lost = base.generator(20), base.place.lost
    covariant = covariance_matched(activations, count, generator)
    turn = random_rotation(activations.shape[1], generator).to(activations)
    family = base.family()
    other = base.around(base.displaced(1, 13)[0], "displaced")
    return {
        "isotropic": base.random(torch.ones(count).to(covariant), 23),
        "covariance": covariant,
        "turned": covariance_matched(activations @ turn, count, generator),
        "outside": span(family.before_end(lost)).reject(covariance_matched(activations, count, generator)),
        "family": family.before_end(lost, count),
        "searched": other.before_end(lost, count),
    }


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """log2 of what one kind needs over what another needs, beside the same with a control in place of the other."""
    for units, gates, own in read_bases(rows):
        norms = {row["group"]: row["norm"] for row in pick(own, kind="norm")}
        for of, above, below, instead in (
            ("matched", "isotropic", "covariance", "turned"),
            ("family", "covariance", "family", "outside"),
            ("searched", "covariance", "family", "searched"),
        ):
            yield Reading(of, ratio(norms, above, below), ratio(norms, above, instead), units, gates)


def ratio(norms: Mapping[str, float | None], above: str, below: str) -> float | None:
    """log2 of a ratio of norms; None where either was not reached."""
    one, other = norms.get(above), norms.get(below)
    return log2(one / other) if one and other else None


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """Norms that reach the divergence."""
    groups = [
        (label, column(pick(rows, kind="norm", group=name), "norm"), "value" if name == "family" else "control")
        for name, label in GROUPS.items()
    ]
    return [
        bars("Norm that reaches the divergence", "In base norms, medians; means over bases.", groups, unit="x base")
    ]

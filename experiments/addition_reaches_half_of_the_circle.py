"""Adding a direction reaches only half of the angles that a rotation reaches, and the other half behaves differently.

Source: notes that call scaling a proxy for rotating which can only mimic half of the rotation (Q).
Prediction: any multiple of the direction brings a state to at most 0.55 of the angles in the plane; next-token
    probabilities at the other angles differ by at least 0.1 nats (the published limit of a harmless change) from those
    of the nearest state that addition, or rotation to an angle that it reaches, gives.
Control: angles that addition reaches, each against all others; a random second axis of the plane.
Refuted if: the interval of the share lies above 0.55, or that of the difference below 0.1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from experiments.lab import (
    Bench,
    Lines,
    Ranking,
    Refusing,
    Splits,
    at_least,
    at_most,
    bars,
    column,
    each_split,
    needs,
    pick,
)
from experiments.lab.turning import Behave, added_in_plane, plane_of, steered, turned
from mi_ortho import RotateTo, Verdict, resid_pre
from mi_ortho.pages import Panel, Series
from mi_ortho.refusal import activations
from mi_ortho.stats import UNIT_SCALE

REACHED = 0.55
DIFFERENT = 0.1
STEP = 15
REACHABLE = tuple(range(0, 181, STEP))
UNREACHABLE = tuple(range(180 + STEP, 360, STEP))
STRENGTHS = tuple(sign * 10.0**power for sign in (-1, 1) for power in torch.linspace(-3, 3, 601).tolist())


@dataclass(frozen=True)
class Config(Splits):
    """Prompts of each kind and how many splits of them."""

    test: int = 8


SMOKE = Config(train=8, validation=4, test=1, seeds=2)
NEEDS = (needs.refusals,)


def run(config: Config, bench: Bench) -> None:
    """One row for each split, plane and angle."""
    each_split(config, bench, measure, kind="reach")


def measure(study: Refusing, seed: int) -> None:
    """Record one split: how far each angle's behaviour is from the nearest that addition reaches."""
    layer, sets = study.strongest(), study.sets
    plane = plane_of(study, layer)
    planes = {"plane": plane, "random": torch.stack([plane[0], study.random(2000 + seed)])}
    texts = (*sets.test_harmful, *sets.test_harmless)
    behave = steered(study, texts, layer)
    for name, rows in planes.items():
        for degrees, distance in nearest(behave, rows).items():
            study.bench.record(kind="angle", seed=seed, axis=name, degrees=degrees, nearest=distance)
    states = activations(study.model, texts, [resid_pre(layer)], [-1])[:, 0, 0]
    study.bench.record(kind="reach", seed=seed, layer=layer, share=reached(states, plane))


def reached(states: Tensor, plane: Tensor) -> float:
    """Share of the sectors of the plane that multiples of its first row bring a state to, mean over states.

    A sector is as wide as the step between angles; multiples run over six powers of ten times the state's length.
    """
    plane = RotateTo(plane, 0.0).plane.to(states)
    shares = []
    for state in states:
        moved = state + state.norm() * torch.tensor(STRENGTHS).to(states)[:, None] * plane[0]
        first, second = (moved @ plane.mT).unbind(-1)
        angles = torch.rad2deg(torch.atan2(second, first)) % 360
        shares.append(len(set((angles // STEP).int().tolist())) * STEP / 360)
    return fmean(shares)


def nearest(behave: Behave, plane: Tensor) -> dict[int, float]:
    """By angle, the mean over prompts of KL(there || nearest state that addition or a reachable rotation gives).

    A reachable angle is compared with the other ones only.
    """
    plane = RotateTo(plane, 0.0).plane
    turns = {
        a: behave(lambda x, a=a: turned(x, plane.to(x), a)).double().log_softmax(-1) for a in (*REACHABLE, *UNREACHABLE)
    }
    sums = {
        a: behave(lambda x, a=a: added_in_plane(x, plane.to(x), a)).double().log_softmax(-1)
        for a in REACHABLE
        if 0 < a < 180
    }
    distances = {}
    for angle, here in turns.items():
        others = [there for ways in (turns, sums) for a, there in ways.items() if a in REACHABLE and a != angle]
        costs = torch.stack([(here.exp() * (here - there)).sum(-1) for there in others])
        distances[angle] = float(costs.amin(dim=0).mean())
    return distances


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Verdicts on claim Q: how much of the circle addition reaches, and how different the rest is."""
    seeds = sorted({row["seed"] for row in pick(rows, kind="reach")})

    def means(angles: Sequence[int]) -> list[float]:
        splits = [pick(rows, kind="angle", seed=seed, axis="plane") for seed in seeds]
        return [fmean(row["nearest"] for row in part if row["degrees"] in angles) for part in splits]

    return [
        at_most(
            "Q: addition reaches only half of the angles",
            f"at most {REACHED} of the circle",
            "share of the circle's sectors, mean over prompts; control: a rotation's",
            column(pick(rows, kind="reach"), "share"),
            REACHED,
            [1.0] * len(seeds),
            scale=UNIT_SCALE,
        ),
        at_least(
            "Q: at the angles that addition does not reach, behaviour is different",
            f"at least {DIFFERENT} nats from every behaviour it reaches",
            "KL in nats to the nearest behaviour that addition reaches, mean over angles and prompts; control: "
            "angles it reaches",
            means(UNREACHABLE),
            DIFFERENT,
            means(REACHABLE),
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Lines | Ranking]:
    """Distance to the nearest reachable behaviour by angle, in the plane and in one with a random second axis."""
    if not pick(rows, kind="angle"):
        return []
    series = []
    for axis, label, style in (("plane", "plane of refusal directions", "family"), ("random", "random axis", "null")):
        part = pick(rows, kind="angle", axis=axis)
        angles = sorted({row["degrees"] for row in part})
        means = [fmean(column(pick(part, degrees=a), "nearest")) for a in angles]
        series.append(Series(label, angles, means, style, axis))
    panel = Panel("Behaviour that addition does not reach", "KL to the nearest reachable one, nats", "angle, degrees")
    caption = "Angles above 180 degrees lie on the side that no multiple of the direction reaches. Means over splits."
    share = bars(
        "Share of the circle that addition reaches",
        "One value a split.",
        [("addition", column(pick(rows, kind="reach"), "share"), "value")],
        REACHED,
        "share",
    )
    return [Lines(caption, panel, tuple(series)), share]

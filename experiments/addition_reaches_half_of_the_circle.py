"""Does adding a direction reach half of the angles that rotation reaches, and does the other half act differently?

Source: notes that call scaling a proxy for rotating which can only mimic half of the rotation (Q).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Lines, Reading, Refusing, Splits, column, each_split, needs, pick
from experiments.lab.turning import Behave, added_in_plane, plane_of, steered, turned
from mi_ortho import RotateTo, resid_pre
from mi_ortho.pages import Panel, Series
from mi_ortho.refusal import activations

STEP = 15
REACHABLE = tuple(range(0, 181, STEP))
UNREACHABLE = tuple(range(180 + STEP, 360, STEP))
STRENGTHS = tuple(sign * 10.0**power for sign in (-1, 1) for power in torch.linspace(-3, 3, 601).tolist())
HARMLESS = 0.1  # nats: the published limit of a harmless change


@dataclass(frozen=True)
class Config(Splits):
    """Prompts of each kind and how many splits of them."""

    test: int = 8


SMOKE = Config(train=8, validation=4, test=1, seeds=2)
NEEDS = (needs.refusals,)


def run(config: Config, bench: Any) -> None:
    """One row for each split, plane, angle and prompt."""
    each_split(config, bench, measure)


def measure(study: Refusing, seed: int) -> None:
    """Record one split: how far each angle's behaviour is from the nearest that addition reaches."""
    layer, sets = study.strongest(), study.sets
    plane = plane_of(study, layer)
    planes = {"plane": plane, "random": torch.stack([plane[0], study.random(2000 + seed)])}
    texts = (*sets.test_harmful, *sets.test_harmless)
    behave = steered(study, texts, layer)
    for name, rows in planes.items():
        for degrees, distances in nearest(behave, rows).items():
            for text, distance in zip(texts, distances):
                study.bench.record(kind="angle", seed=seed, axis=name, degrees=degrees, prompt=text, nearest=distance)
    ends = [
        behave(lambda x, a=a: turned(x, RotateTo(plane, 0.0).plane.to(x), a)).double().log_softmax(-1) for a in (0, 180)
    ]
    moved = (ends[0].exp() * (ends[0] - ends[1])).sum(-1).tolist()
    states = activations(study.model, texts, [resid_pre(layer)], [-1])[:, 0, 0]
    for text, state, cost in zip(texts, states, moved, strict=True):
        shares = {name: sectors(state, plane, name) for name in ("added", "turned")}
        study.bench.record(kind="reach", seed=seed, prompt=text, moved=cost, **shares)


def sectors(state: Tensor, plane: Tensor, method: str) -> float:
    """Share of the sectors of the plane that multiples of its first row, or turns, bring a state to.

    A sector is as wide as the step between angles; multiples run over six powers of ten times the state's length.
    """
    plane = RotateTo(plane, 0.0).plane.to(state)
    if method == "turned":
        after = torch.stack([turned(state, plane, degrees + STEP / 2) for degrees in range(0, 360, STEP)])
    else:
        after = state + state.norm() * torch.tensor(STRENGTHS).to(state)[:, None] * plane[0]
    first, second = (after @ plane.mT).unbind(-1)
    angles = torch.rad2deg(torch.atan2(second, first)) % 360
    return len(set((angles // STEP).int().tolist())) * STEP / 360


def nearest(behave: Behave, plane: Tensor) -> dict[int, list[float]]:
    """By angle, for each prompt KL(there || nearest state that addition or a reachable rotation gives), in nats.

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
        distances[angle] = torch.stack([(here.exp() * (here - there)).sum(-1) for there in others]).amin(0).tolist()
    return distances


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """For each prompt how much of the circle addition reaches, and how different the rest is."""
    reach = pick(rows, kind="reach")
    gates = {"works": fmean(row["moved"] >= HARMLESS for row in reach)} if reach else {}
    distances: dict[tuple[int, str, bool], list[float]] = {}
    for row in pick(rows, kind="angle", axis="plane"):
        distances.setdefault((row["seed"], row["prompt"], row["degrees"] in REACHABLE), []).append(row["nearest"])
    for row in reach:
        unit = {"prompt": row["prompt"]}
        yield Reading("half", row["added"], row["turned"], unit)
        beyond, inside = (fmean(distances[row["seed"], row["prompt"], reached]) for reached in (False, True))
        yield Reading("different", beyond, inside, unit, gates)


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Lines]:
    """Distance to the nearest reachable behaviour by angle, in the plane and in one with a random second axis."""
    series = []
    for axis, label, style in (("plane", "plane of refusal directions", "family"), ("random", "random axis", "null")):
        part = pick(rows, kind="angle", axis=axis)
        angles = sorted({row["degrees"] for row in part})
        means = [fmean(column(pick(part, degrees=a), "nearest")) for a in angles]
        series += [Series(label, angles, means, style, axis)] if angles else []
    panel = Panel("Behaviour that addition does not reach", "KL to the nearest reachable one, nats", "angle, degrees")
    caption = "Angles above 180 degrees lie on the side that no multiple of the direction reaches. Means over prompts."
    return [Lines(caption, panel, tuple(series))] * bool(series)

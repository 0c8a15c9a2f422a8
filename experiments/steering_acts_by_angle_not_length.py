"""Does steering act by the angle of the state and not by its length?

Source: notes that ask whether only the direction matters, since RMSNorm takes the length away before every block (P).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from experiments.lab import Lines, Reading, Refusing, Splits, each_split, needs, pick
from experiments.lab.turning import (
    added,
    cosine_after,
    plane_of,
    refused_under,
    steered,
    turned,
    with_length_of,
)
from mi_ortho import Intervention, RotateTo
from mi_ortho.pages import Panel, Series
from mi_ortho.refusal import refusal_score

AXIS_ANGLES = tuple(range(20, 161, 20))  # between the state and the direction, in degrees
PLANE_ANGLES = tuple(range(0, 181, 20))  # of the state's part in the plane
METHODS = {"axis": ("added", "restored"), "plane": ("added", "restored", "turned")}
Way = tuple[str, str, int]  # grid, method, degrees
T = TypeVar("T")


@dataclass(frozen=True)
class Config(Splits):
    """Prompts of each kind, splits of them, tokens of an answer."""

    test: int = 12
    tokens: int = 12


SMOKE = Config(train=8, validation=4, test=2, seeds=2, tokens=6)
NEEDS = (needs.refusals,)


def run(config: Config, bench: Any) -> None:
    """One row for each split, grid, method, angle and prompt."""
    each_split(config, bench, lambda study, seed: measure(study, seed, config.tokens))


def measure(study: Refusing, seed: int, tokens: int) -> None:
    """Record one split: whether every test prompt is refused at every angle by every method, and its refusal score."""
    layer, sets = study.strongest(), study.sets
    texts, plane = (*sets.test_harmful, *sets.test_harmless), plane_of(study, layer)
    behave, refused = steered(study, texts, layer), refused_under(study, texts, layer, tokens)
    by_way = effects(lambda change: (refused(change), refusal_score(behave(change), study.tokens).tolist()), plane)
    for (grid, method, degrees), (refusals, scores) in by_way.items():
        for k, text in enumerate(texts):
            row = {
                "grid": grid,
                "method": method,
                "degrees": degrees,
                "prompt": text,
                "harmful": text in texts[: len(sets.test_harmful)],
            }
            study.bench.record(kind="steered", seed=seed, **row, refused=refusals[k], score=scores[k])


def effects(measured: Callable[[Intervention], T], plane: Tensor) -> dict[Way, T]:
    """What is measured under every grid, method and angle.

    Grid "axis" sets the angle with the plane's first row, "plane" the angle inside the plane, where additions get the
    same angle with that row as the turned state.
    """
    plane = RotateTo(plane, 0.0).plane  # orthonormal rows
    values = {("none", "none", 0): measured(lambda x: x)}
    for degrees in AXIS_ANGLES:
        cosine = torch.deg2rad(torch.tensor(float(degrees))).cos()
        ways = ways_to(lambda x, c=cosine: added(x, plane[0].to(x), c))
        values |= {("axis", name, degrees): measured(way) for name, way in ways.items()}
    for degrees in PLANE_ANGLES:
        ways = ways_to(lambda x, d=degrees: added(x, plane[0].to(x), cosine_after(x, plane.to(x), d)))
        ways["turned"] = lambda x, d=degrees: turned(x, plane.to(x), d)
        values |= {("plane", name, degrees): measured(ways[name]) for name in METHODS["plane"]}
    return values


def ways_to(add: Intervention) -> dict[str, Intervention]:
    """An addition, the same with the length restored, and the length alone."""
    return {
        "added": add,
        "restored": lambda x: with_length_of(add(x), x),
        "length": lambda x: with_length_of(x, add(x)),
    }


def explained(values: Mapping[Way, float], grid: str, mix: Random | None = None) -> float | None:
    """Share of one prompt's variance over angles and methods that the angle explains; None where nothing varies.

    With `mix` the angles of each method are in a random order.
    """
    angles = sorted({degrees for name, _, degrees in values if name == grid})
    orders = [mix.sample(angles, len(angles)) if mix else angles for _ in METHODS[grid]]
    x = np.array([[values[grid, method, a] for a in order] for method, order in zip(METHODS[grid], orders)])
    total = float(((x - x.mean()) ** 2).sum())
    return None if total < 1e-12 else max(0.0, 1.0 - float(((x - x.mean(0)) ** 2).sum()) / total)


def moved(values: Mapping[Way, float], method: str) -> float:
    """Mean distance over the axis' angles of a prompt from what it is without steering."""
    return fmean(abs(values["axis", method, a] - values["none", "none", 0]) for a in AXIS_ANGLES)


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """For each prompt what the angle explains of being refused, and what the length alone does."""
    prompts: dict[tuple[int, str], dict[Way, float]] = {}
    for row in pick(rows, kind="steered"):
        way = row["grid"], row["method"], row["degrees"]
        prompts.setdefault((row["seed"], row["prompt"]), {})[way] = row["refused"]
    harmful = pick(rows, kind="steered", method="none", harmful=True)
    if not harmful:
        return
    by_addition = {case: moved(values, "added") for case, values in prompts.items()}
    gates = {
        "shown": fmean(row["refused"] for row in harmful),
        "works": fmean(change > 0 for change in by_addition.values()),
    }
    for k, ((seed, prompt), values) in enumerate(prompts.items()):
        for key in METHODS:
            shares = explained(values, key), explained(values, key, Random(k))
            yield Reading(key, *shares, {"prompt": prompt}, gates)
        if whole := by_addition[seed, prompt]:
            value, control = (moved(values, method) / whole for method in ("length", "restored"))
            yield Reading("length", value, control, {"prompt": prompt}, gates)


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Lines]:
    """What is refused by angle for each method, and the refusal score behind it."""
    drawings = []
    for grid, label in (("axis", "angle between state and direction"), ("plane", "angle of the state in the plane")):
        for name, unit in (("refused", "share refused"), ("score", "refusal score, nats")):
            series = []
            for k, method in enumerate(("added", "restored", "turned", "length")):
                part = pick(rows, kind="steered", grid=grid, method=method)
                angles = sorted({row["degrees"] for row in part})
                means = [fmean(row[name] for row in pick(part, degrees=a)) for a in angles]
                series += [Series(method, angles, means, f"c{k}", method)] if angles else []
            caption = "Means over prompts and splits. Restored: with the length restored; length: its length alone."
            panel = Panel(f"{unit.capitalize()} by {label}", unit, f"{label}, degrees")
            drawings += [Lines(caption, panel, tuple(series))] * bool(series)
    return drawings

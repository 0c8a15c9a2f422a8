"""Steering acts by the angle of the state, not its length: additions and rotations to the same angle do the same.

Source: notes that ask whether only the direction matters, since RMSNorm takes the length away before every block (P).
Prediction: of the variance of a prompt's refusal score over angles and methods, the angle alone explains at least 0.8,
    for addition against addition with the length restored, and for both against rotation in a fixed plane; the
    lengths that additions give, without their angles, move the score at most 0.1 times as much as the additions do.
Control: the same share with each method's angles in random order; addition with the length restored.
Refuted if: the interval of a share lies below 0.8, or that of the length's effect above 0.1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Bench, Lines, Ranking, Refusing, Splits, at_least, at_most, bars, each_split, needs, pick
from experiments.lab.turning import added, cosine_after, plane_of, steered, turned, with_length_of
from mi_ortho import Intervention, RotateTo, Verdict
from mi_ortho.pages import Panel, Series
from mi_ortho.refusal import refusal_score
from mi_ortho.stats import UNIT_SCALE

EXPLAINED = 0.8
LENGTH = 0.1
AXIS_ANGLES = tuple(range(20, 161, 20))  # between the state and the direction, in degrees
PLANE_ANGLES = tuple(range(0, 181, 20))  # of the state's part in the plane
METHODS = {"axis": ("added", "restored"), "plane": ("added", "restored", "turned")}
Scores = Mapping[tuple[str, str, int], Tensor]


@dataclass(frozen=True)
class Config(Splits):
    """Prompts of each kind and how many splits of them."""

    test: int = 12


SMOKE = Config(train=8, validation=4, test=2, seeds=2)
NEEDS = (needs.refusals,)


def run(config: Config, bench: Bench) -> None:
    """One row for each split, grid, method and angle."""
    each_split(config, bench, measure, kind="split")


def measure(study: Refusing, seed: int) -> None:
    """Record one split: the refusal score of every test prompt at every angle by every method."""
    layer, sets = study.strongest(), study.sets
    plane = plane_of(study, layer)
    behave = steered(study, (*sets.test_harmful, *sets.test_harmless), layer)
    by_way = effects(lambda change: refusal_score(behave(change), study.tokens), plane)
    for (grid, method, degrees), scores in by_way.items():
        study.bench.record(kind="score", seed=seed, grid=grid, method=method, degrees=degrees, scores=scores.tolist())
    study.bench.record(kind="split", seed=seed, layer=layer)


def effects(score: Callable[[Intervention], Tensor], plane: Tensor) -> dict[tuple[str, str, int], Tensor]:
    """The score of every sample by grid, method and angle.

    Grid "axis" sets the angle with the plane's first row, "plane" the angle inside the plane, where additions get the
    same angle with that row as the turned state.
    """
    plane = RotateTo(plane, 0.0).plane  # orthonormal rows
    scores = {("none", "none", 0): score(lambda x: x)}
    for degrees in AXIS_ANGLES:
        cosine = torch.deg2rad(torch.tensor(float(degrees))).cos()
        ways = ways_to(lambda x, c=cosine: added(x, plane[0].to(x), c))
        scores |= {("axis", name, degrees): score(way) for name, way in ways.items()}
    for degrees in PLANE_ANGLES:
        ways = ways_to(lambda x, d=degrees: added(x, plane[0].to(x), cosine_after(x, plane.to(x), d)))
        ways["turned"] = lambda x, d=degrees: turned(x, plane.to(x), d)
        scores |= {("plane", name, degrees): score(ways[name]) for name in METHODS["plane"]}
    return scores


def ways_to(add: Intervention) -> dict[str, Intervention]:
    """An addition, the same with the length restored, and the length alone."""
    return {
        "added": add,
        "restored": lambda x: with_length_of(add(x), x),
        "length": lambda x: with_length_of(x, add(x)),
    }


def table(rows: Sequence[Mapping[str, Any]], seed: int) -> Scores:
    """The recorded scores of one split."""
    part = pick(rows, kind="score", seed=seed)
    return {(row["grid"], row["method"], row["degrees"]): torch.tensor(row["scores"]) for row in part}


def explained(scores: Scores, grid: str, mix: Random | None = None) -> float | None:
    """Share of each prompt's variance over angles and methods that the angle explains; None without any variance."""
    angles = sorted({degrees for name, _, degrees in scores if name == grid})
    parts = []
    for method in METHODS[grid]:
        order = mix.sample(angles, len(angles)) if mix else angles
        parts.append(torch.stack([scores[grid, method, degrees] for degrees in order]))
    x = torch.stack(parts).double()  # method, angle, prompt
    total = float(((x - x.mean(dim=(0, 1))) ** 2).sum())
    return None if total < 1e-12 else 1.0 - float(((x - x.mean(dim=0)) ** 2).sum()) / total


def relative(scores: Scores, method: str) -> float | None:
    """How far a method moves the score over the axis' angles, relative to addition; None where addition does not."""
    base = scores["none", "none", 0]

    def moved(name: str) -> float:
        return float(torch.stack([(scores["axis", name, a] - base).abs() for a in AXIS_ANGLES]).double().mean())

    return None if moved("added") < 1e-9 else moved(method) / moved("added")


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Verdicts on claim P: addition by angle, rotation by angle, length alone."""
    tables = {row["seed"]: table(rows, row["seed"]) for row in pick(rows, kind="split")}

    def each(value: Callable[[int, Scores], float | None]) -> list[float]:
        return [number for seed, scores in tables.items() if (number := value(seed, scores)) is not None]

    statistic = "share of each prompt's variance over angles and methods; control: angles in random order"
    return [
        at_least(
            "P: at the same angle an addition does the same with its length and without",
            f"the angle explains at least {EXPLAINED}",
            statistic,
            each(lambda _, s: explained(s, "axis")),
            EXPLAINED,
            each(lambda seed, s: explained(s, "axis", Random(seed))),
            scale=UNIT_SCALE,
        ),
        at_least(
            "P: at the same angle rotation in a plane does the same as addition",
            f"the angle explains at least {EXPLAINED}",
            statistic,
            each(lambda _, s: explained(s, "plane")),
            EXPLAINED,
            each(lambda seed, s: explained(s, "plane", Random(seed))),
            scale=UNIT_SCALE,
        ),
        at_most(
            "P: the length without the angle does little",
            f"moves the score at most {LENGTH} times as much",
            "mean change of the score by an addition's length alone over that by the addition; control: by its "
            "angle alone",
            each(lambda _, s: relative(s, "length")),
            LENGTH,
            each(lambda _, s: relative(s, "restored")),
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Lines | Ranking]:
    """The score by angle for each method, means over prompts and splits, and what the angle explains."""
    if not pick(rows, kind="score"):
        return []
    drawings: list[Lines | Ranking] = []
    titles = {"axis": "angle between state and direction", "plane": "angle of the state inside the plane"}
    for grid, label in titles.items():
        series = []
        for k, method in enumerate(("added", "restored", "turned", "length")):
            part = pick(rows, kind="score", grid=grid, method=method)
            angles = sorted({row["degrees"] for row in part})
            means = [float(torch.tensor([row["scores"] for row in pick(part, degrees=a)]).mean()) for a in angles]
            series += [Series(method, angles, means, f"c{k}", method)] if angles else []
        panel = Panel(f"Refusal score by {label}", "refusal score, nats", f"{label}, degrees")
        drawings.append(
            Lines(
                "Means over prompts and splits; restored: with the length restored; length: an addition's "
                "length alone.",
                panel,
                tuple(series),
            )
        )
    shares = [("addition, with and without length", "axis"), ("addition and rotation", "plane")]
    tables = [table(rows, row["seed"]) for row in pick(rows, kind="split")]
    groups = []
    for label, grid in shares:
        groups.append((label, [v for s in tables if (v := explained(s, grid)) is not None], "value"))
        mixed = [v for k, s in enumerate(tables) if (v := explained(s, grid, Random(k))) is not None]
        groups.append((f"{label}, shuffled", mixed, "control"))
    drawings.append(
        bars(
            "What the angle explains", "Means over splits with 95 % intervals.", groups, EXPLAINED, "share of variance"
        )
    )
    return drawings

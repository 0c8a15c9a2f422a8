"""Vectors that fail late in the family are failed searches: restarts and more steps recover them.

Source: the post's alternation of good and bad vectors from number 894 on; hypothesis H20.
Prediction: where a vector of the distribution-matched family has less than half of the base's effect, the best of 10
    restarts with 3 times the steps, orthogonal to everything before it, has at least half of it in at least 0.5 of the
    cases.
Control: the same restarts at early places of the family, where vectors work: the share that works there.
Refuted if: the interval of the share lies below 0.5: the directions are used up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Bench, Ranking, Setup, at_least, bars, cases, column, needs, pick
from mi_ortho import Lbfgs, OrthoSettings, Verdict, melbo_ortho
from mi_ortho.derivatives import gauss_newton
from mi_ortho.elicitation import Goal, Progress
from mi_ortho.stats import UNIT_SCALE

RECOVERED = 0.5
HALF = 0.5  # of the base's effect
RESTARTS = 10
LONGER = 3


@dataclass(frozen=True)
class Config(Setup):
    """Where to search, how far to follow the family, and how many places of each kind to search again."""

    n: int = 96
    places: int = 4


SMOKE = Config(cases=1, n=6, max_steps=3, places=1)
NEEDS = (needs.family,)


def run(config: Config, bench: Bench) -> None:
    """One row for each case and place."""
    for case in cases(bench, config):
        family = case.family("kl").vectors
        with torch.no_grad():
            effects = case.behaviour(family)
        todo = [
            (group, place)
            for group, indices in places(effects, config.places).items()
            for place in indices
            if not bench.has(case=case.index, group=group, place=place)
        ]
        goal = case.yard.behaviour
        curvature = gauss_newton(goal, case.base, generator=case.generator(23)) if todo else None
        settings = OrthoSettings(max_norm=case.cap, solver=Lbfgs(max_steps=config.max_steps))
        for group, place in todo:
            vector = again(goal, case.base, family[:place], settings, config.seed, curvature)
            with torch.no_grad():
                value = float(case.behaviour(vector[None])[0])
            bench.record(case=case.index, group=group, place=place, before=float(effects[place]), after=value)
        bench.track("case", case.index + 1, config.cases)


def places(effects: Tensor, count: int) -> dict[str, list[int]]:
    """Places of the family where vectors failed, and early ones where they worked, spread evenly."""
    bad = (effects < HALF).nonzero().flatten().tolist()
    good = (effects[: len(effects) // 2] >= HALF).nonzero().flatten().tolist()

    def spread(items: list[int]) -> list[int]:
        few = min(count, len(items))
        return [items[round(k * (len(items) - 1) / max(1, few - 1))] for k in range(few)]

    return {"early": spread(good), "failed": spread(bad)}


def again(
    goal: Goal, base: Tensor, before: Tensor, settings: OrthoSettings, seed: int, curvature: Tensor | None
) -> Tensor:
    """The best of several longer searches for the vector after these."""
    solver = replace(settings.solver, max_steps=LONGER * settings.solver.max_steps)
    longer = replace(settings, restarts=RESTARTS, solver=solver)
    start = Progress(before, 10_000 + len(before))  # other starts than the family's own
    return next(melbo_ortho(goal, base, seed=seed, settings=longer, curvature=curvature, resume=start)).vector


def recovered(rows: Sequence[Mapping[str, Any]], group: str) -> list[float]:
    """Share of a case's places that work after the restarts."""
    shares = []
    for case in dict.fromkeys(row["case"] for row in pick(rows, group=group)):
        values = column(pick(rows, case=case, group=group), "after")
        shares.append(sum(value >= HALF for value in values) / len(values))
    return shares


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Failed places against early ones."""
    what = (
        f"share of failed places with {HALF} of the effect after {RESTARTS} longer searches; the control is early ones"
    )
    return [
        at_least(
            "Restarts recover the vectors that failed",
            f"at least {RECOVERED} of them",
            what,
            recovered(rows, "failed"),
            RECOVERED,
            recovered(rows, "early"),
            scale=UNIT_SCALE,
        )
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """Effects before and after."""
    kinds = [(*kind, when) for kind in (("failed", "value"), ("early", "control")) for when in ("before", "after")]
    groups = [(f"{group} places, {when}", column(pick(rows, group=group), when), style) for group, style, when in kinds]
    return [bars("Effect before and after restarts", "As a share of the base's; means over places.", groups, HALF)]

"""Do restarts and longer searches recover the vectors that failed?

Source: the post's alternation of good and bad vectors from number 894 on; hypothesis H20. A place that was chosen
    because it failed does better the next time by chance alone: one more ordinary search from another start is the
    control.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from torch import Tensor

from experiments.lab import Base, Bench, Place, Reading, column, each_base, needs, pick, read_bases
from mi_ortho import Lbfgs, OrthoSettings, melbo_ortho
from mi_ortho.derivatives import gauss_newton
from mi_ortho.elicitation import Progress

HALF = 0.5  # of the base's effect
RESTARTS, LONGER = 4, 3
LATER = 10_000  # attempts from which the family itself never starts


@dataclass(frozen=True)
class Config(Place):
    """Where bases are looked for, and how many failed places of each family to search again."""

    places: int = 2


SMOKE = Config(behaviours=("code",), bases=1, most=4, max_steps=3, places=1)
NEEDS = (needs.place,)


def run(config: Config, bench: Bench) -> None:
    """For each base the effects at failed places and at an early one after other searches."""
    each_base(config, bench, lambda base: measure(base, config.places))


def measure(base: Base, count: int) -> None:
    """Record one base: places that failed searched again with and without more effort, an early one with it."""
    family, goal = base.family("kl"), base.yard.behaviour
    curvature = gauss_newton(goal, base.vector, generator=base.generator(23)) if len(family.vectors) else None
    solver = Lbfgs(max_steps=base.place.max_steps)
    ordinary = OrthoSettings(max_norm=base.place.norm_cap * base.norm, solver=solver)
    longer = replace(ordinary, restarts=RESTARTS, solver=replace(solver, max_steps=LONGER * solver.max_steps))
    failed, early = places(family.effects, count)
    todo = [("failed", place, effort) for place in failed for effort in ("longer", "ordinary")]
    for group, place, effort in [*todo, *(("early", place, "longer") for place in early)]:
        settings = longer if effort == "longer" else ordinary
        start = Progress(family.vectors[:place], LATER + place)
        result = next(
            melbo_ortho(goal, base.vector, seed=base.place.seed, settings=settings, curvature=curvature, resume=start)
        )
        before, after = float(family.effects[place]), float(base.effect(result.vector[None])[0])
        label = {"group": group, "effort": effort, "place": place}
        base.bench.record(kind="again", **base.units, **label, before=before, after=after)


def places(effects: Tensor, count: int) -> tuple[list[int], list[int]]:
    """Places of the family where vectors failed, spread evenly, and the middle one of those that worked early."""
    bad = (effects < HALF).nonzero().flatten().tolist()
    good = (effects[: len(effects) // 2] >= HALF).nonzero().flatten().tolist()
    few = min(count, len(bad))
    spread = [bad[round(k * (len(bad) - 1) / max(1, few - 1))] for k in range(few)]
    return spread, good[len(good) // 2 :][:1]


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """The share of failed places that work after more effort, and after one more search; early places are a check."""
    for units, gates, own in read_bases(rows):
        tried = {
            key: column(pick(own, kind="again", group=key[0], effort=key[1]), "after")
            for key in (("failed", "longer"), ("failed", "ordinary"), ("early", "longer"))
        }
        share = {key: fmean(one >= HALF for one in after) for key, after in tried.items() if after}
        checked = {**gates, **({"sensitive": share["early", "longer"]} if ("early", "longer") in share else {})}
        if ("failed", "longer") in share:
            yield Reading("recovered", share["failed", "longer"], share["failed", "ordinary"], units, checked)

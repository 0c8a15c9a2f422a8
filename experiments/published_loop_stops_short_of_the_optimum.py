"""Does the published loop stop short of the constrained optimum?

Source: the published loop (Adam on the unprojected gradient, projection after each step); hypothesis H20.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from statistics import fmean
from typing import Any

import torch

from experiments.lab import Base, Bench, Place, Reading, each_base, needs, pick, read_bases
from mi_ortho import Lbfgs, LinearMap, OrthoSettings, SearchResult, jacobian, linear_null, match, melbo_ortho
from mi_ortho.derivatives import gauss_newton
from mi_ortho.elicitation import melbo_ortho_published


@dataclass(frozen=True)
class Config(Place):
    """Where bases are looked for; vectors of each family, and steps of the published loop."""

    n: int = 2
    steps: int = 1000


SMOKE = Config(behaviours=("code",), bases=1, max_steps=10, n=1, steps=20)
NEEDS = (needs.place,)


def run(config: Config, bench: Bench) -> None:
    """For each base the losses of both solvers on the map and on the linear one; neither has a norm cap."""
    place = Place(**{one.name: getattr(config, one.name) for one in fields(Place)})  # bases are those of other claims
    each_base(place, bench, lambda base: measure(base, config.n, config.steps))


def measure(base: Base, n: int, steps: int) -> None:
    """Record one base: mean losses of its first vectors, each search of ours from two starts."""
    matrix, seed = jacobian(base.z, torch.zeros_like(base.vector)), base.place.seed
    matrix = torch.linalg.qr(matrix).R if len(matrix) > matrix.shape[1] else matrix  # all norms and angles stay
    settings = OrthoSettings(solver=Lbfgs(max_steps=base.place.max_steps))
    row = {"exact": float(linear_null(matrix, base.vector, n).losses.mean())}
    for name, goal in (("model", base.match), ("linear", match(LinearMap(matrix, matrix[:, 0] * 0), base.vector))):
        curvature = gauss_newton(goal, base.vector, generator=torch.Generator().manual_seed(seed))
        row[f"{name}_published"] = mean(melbo_ortho_published(goal, base.vector, seed=seed, max_steps=steps), n)
        for other, start in (("projected", seed), ("again", seed + 1)):
            ours = melbo_ortho(goal, base.vector, seed=start, settings=settings, curvature=curvature)
            row[f"{name}_{other}"] = mean(ours, n)
    base.bench.record(kind="loss", **base.units, **row)


def mean(results: Iterable[SearchResult], n: int) -> float:
    """Mean of the first n losses, each counted as at most 1 (no effect)."""
    return fmean(min(1.0, one.loss) for one in islice(results, n))


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """The published loop above the projected solver and above the exact optimum, beside the solver's other start."""
    for units, gates, part in read_bases(rows):
        for row in pick(part, kind="loss"):
            exact, projected = row["exact"], row["linear_projected"]
            checks = {**gates, "solved": abs(projected - exact)}
            short, again = (row[name] - row["model_projected"] for name in ("model_published", "model_again"))
            yield Reading("model", short, again, units, checks)
            yield Reading("linear", row["linear_published"] - exact, projected - exact, units, checks)
            yield Reading("solver", projected, exact, units, gates)

"""The published loop stops short of the constrained optimum: its vectors are worse than those of the same constraint.

Source: the published loop (Adam on the unprojected gradient, projection after each step); hypothesis H20.
Prediction: on the model the published loop's relative losses are at least 0.05 above those of the projected solver,
    over the first vectors; on the linear map with the Jacobian at 0 at least 0.05 above the exact optimum.
Control: the projected solver on the linear map, which should be within 0.05 of the exact optimum.
Refuted if: the interval of the mean difference lies below 0.05.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Bench, Ranking, Setup, at_least, at_most, bars, cases, column, needs
from mi_ortho import LinearMap, SearchResult, Verdict, jacobian, linear_null, match, melbo_ortho
from mi_ortho.derivatives import gauss_newton
from mi_ortho.elicitation import Match, melbo_ortho_published

SHORT = 0.05


@dataclass(frozen=True)
class Config(Setup):
    """Where to search, and steps of the published loop."""

    n: int = 6
    steps: int = 1000


SMOKE = Config(cases=1, n=2, max_steps=10, steps=20)
NEEDS = (needs.family,)


def run(config: Config, bench: Bench) -> None:
    """One row for each case."""
    for case in cases(bench, config):
        if not bench.has(case=case.index):
            matrix = jacobian(case.z, torch.zeros_like(case.base))
            bench.record(case=case.index, **examine(case.match, matrix, case.base, config.n, config.steps, config.seed))
        bench.track("case", case.index + 1, config.cases)


def examine(goal: Match, matrix: Tensor, base: Tensor, n: int, steps: int, seed: int) -> dict[str, float]:
    """Mean losses of the first vectors: both solvers on the map and on the linear one, and the exact optimum there."""
    straight = match(LinearMap(matrix, matrix.new_zeros(len(matrix))), base)
    rows = {}
    for name, one in (("model", goal), ("linear", straight)):
        curvature = gauss_newton(one, base, generator=torch.Generator().manual_seed(seed))
        rows[f"{name}_published"] = mean(melbo_ortho_published(one, base, seed=seed, max_steps=steps), n)
        rows[f"{name}_projected"] = mean(melbo_ortho(one, base, seed=seed, curvature=curvature), n)
    return rows | {"exact": float(linear_null(matrix, base, n).losses.mean())}


def mean(results: Iterable[SearchResult], n: int) -> float:
    """Mean of the first n losses, each counted as at most 1 (no effect)."""
    return fmean(min(1.0, one.loss) for one in islice(results, n))


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """On the model and on the linear map."""
    rows = [row for row in rows if "exact" in row]
    projected = [row["linear_projected"] - row["exact"] for row in rows]
    return [
        at_least(
            "The published loop stops short of what the constraint allows",
            f"at least {SHORT} above",
            "mean loss of the published loop minus that of the projected solver on the model; the control is the "
            "projected solver's distance from the exact optimum on the linear map",
            [row["model_published"] - row["model_projected"] for row in rows],
            SHORT,
            projected,
        ),
        at_least(
            "The published loop stops short of the exact optimum of the linear map",
            f"at least {SHORT} above",
            "mean loss minus that of the exact optimum; the control is the projected solver",
            [row["linear_published"] - row["exact"] for row in rows],
            SHORT,
            projected,
        ),
        at_most(
            "The projected solver reaches the exact optimum of the linear map",
            f"at most {SHORT} above",
            "mean loss minus that of the exact optimum; the control is the published loop",
            projected,
            SHORT,
            [row["linear_published"] - row["exact"] for row in rows],
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """Losses of both solvers."""
    labels = (
        ("model_published", "published loop, model"),
        ("model_projected", "projected solver, model"),
        ("linear_published", "published loop, linear map"),
        ("linear_projected", "projected solver, linear map"),
        ("exact", "exact optimum, linear map"),
    )
    groups = [(label, column(rows, name), "control" if name == "exact" else "value") for name, label in labels]
    return [bars("Mean relative loss of the first vectors", "Means over bases.", groups)]

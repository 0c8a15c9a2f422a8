"""There are more orthogonal vectors with an effect than a linear response allows at their norm and loss.

Source: the ">800 vectors" claim and the capacity bound N <= (norm / nu)^2 of a linear map; decisive experiment D1.
Prediction: below the norm cap the number of vectors with a relative activation loss of at most 0.5 is at least twice
    the capacity bound of the mean Jacobian along the base's path, which has exactly the base's effect; and it grows at
    least 2-fold from a cap of one base norm to the standard cap.
Control: the same search on that linear map: it must stay below the bound, and its count is what linearity gives.
Refuted if: the interval of log2((count + 1) / (bound + 1)) lies below 1: a linear response allows as many.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import log2
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Bench, Lines, Setup, at_least, cases, column, needs, pick
from mi_ortho import LinearMap, OrthoSettings, Status, Verdict, match, melbo_ortho
from mi_ortho.derivatives import gauss_newton, mean_jacobian
from mi_ortho.nulls import ridge_capacity
from mi_ortho.pages import Panel, Series

LOSS = 0.5  # at which the verdicts are read
LOSSES = (0.3, 0.5, 0.7, 0.9)
TWICE = 1.0  # as a logarithm to base 2
STANDARD = 0.0  # this cap stands for the standard one


@dataclass(frozen=True)
class Config(Setup):
    """Where to search, and the norm caps as multiples of the base's norm; 0 stands for the standard cap."""

    n: int = 64
    caps: tuple[float, ...] = (1.0, STANDARD, 3.0)


SMOKE = Config(cases=1, n=4, max_steps=10, caps=(1.0, STANDARD))
NEEDS = (needs.family,)


def run(config: Config, bench: Bench) -> None:
    """One row for each case, cap and loss.

    Raises:
        ValueError: there is no standard cap; a count without one is not well defined.
    """
    if not config.norm_cap > 0:
        raise ValueError("got norm_cap=0; expected a positive cap; without one the count is not well defined")
    for case in cases(bench, config):
        caps = [cap for cap in config.caps if not bench.has(case=case.index, cap=cap, last=True)]
        if not caps:
            continue
        matrix = mean_jacobian(case.z, case.base)
        for cap in caps:
            for part in bench.stage({"last": True}, case=case.index, cap=cap):
                norm = cap * case.norm if cap else case.cap
                losses = case.family("activation", max_norm=norm).losses.tolist()
                linear = linear_losses(matrix, case.base, config.n, norm, config.max_steps, config.seed)
                for loss, row in zip(LOSSES, examine(matrix, case.base, norm, losses, linear), strict=True):
                    part.record(case=case.index, cap=cap, loss=loss, last=loss == LOSSES[-1], **row)
        bench.track("case", case.index + 1, config.cases)


def linear_losses(matrix: Tensor, base: Tensor, n: int, norm: float, steps: int, seed: int) -> list[float]:
    """Losses of the same search on the linear map with the base's effect."""
    goal = match(LinearMap(matrix, matrix.new_zeros(len(matrix))), base)
    settings = OrthoSettings(max_norm=norm, patience=4)
    settings = replace(settings, solver=replace(settings.solver, max_steps=steps))
    curvature = gauss_newton(goal, base, generator=torch.Generator().manual_seed(seed))
    results = melbo_ortho(goal, base, seed=seed, settings=settings, curvature=curvature)
    good = (one.loss for one in results if one.status not in (Status.COLLAPSED, Status.NONFINITE))
    return list(islice(good, n))


def examine(
    matrix: Tensor, base: Tensor, norm: float, losses: Sequence[float], linear: Sequence[float]
) -> list[dict[str, float]]:
    """At each loss: vectors found, found on the linear map, and the bound; the base counts as none of them."""
    rows = []
    for allowed in LOSSES:
        bound = max(0.0, ridge_capacity(matrix, matrix @ base, norm, allowed) - 1)  # the base is one of them
        late = sum(x <= allowed for x in losses[3 * len(losses) // 4 :])
        counts = {"found": sum(x <= allowed for x in losses), "linear": sum(x <= allowed for x in linear)}
        rows.append({**counts, "late": late, "bound": bound, "searched": len(losses)})
    return rows


def ratio(row: Mapping[str, Any], above: str, below: float) -> float:
    """log2 of a count over another, one added to both so that 0 has a logarithm."""
    return log2((row[above] + 1) / (below + 1))


def decidable(row: Mapping[str, Any]) -> bool:
    """Whether the search went far enough: none of its last quarter is good, or the count is twice the bound already."""
    return not row.get("late") or ratio(row, "found", row["bound"]) >= TWICE


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """The count against the bound, and against the count at the base's own norm."""
    standard, unit = pick(rows, cap=STANDARD, loss=LOSS), pick(rows, cap=1.0, loss=LOSS)
    standard = [row for row in standard if decidable(row)]
    growth = [(a, b) for a in standard for b in unit if a["case"] == b["case"]]
    return [
        at_least(
            "More orthogonal vectors have the effect than a linear response allows",
            f"at loss {LOSS}, at least twice the capacity bound below the norm cap",
            "log2((count + 1) / (bound + 1)), one value a base; the control is the search on the linear map",
            [ratio(row, "found", row["bound"]) for row in standard],
            TWICE,
            [ratio(row, "linear", row["bound"]) for row in standard],
        ),
        at_least(
            "The number of vectors grows with the norm that is allowed",
            f"at loss {LOSS}, at least twice as many below the standard cap as below the base's norm",
            "log2((count + 1) / (count at the base's norm + 1)); the control is the linear map",
            [ratio(a, "found", b["found"]) for a, b in growth],
            TWICE,
            [ratio(a, "linear", b["linear"]) for a, b in growth],
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Lines]:
    """N(norm, loss): counts over the loss, one drawing a cap."""
    drawings = []
    for cap in dict.fromkeys(row["cap"] for row in rows if "cap" in row):
        part = pick(rows, cap=cap)
        losses = sorted({row["loss"] for row in part})
        mean = {
            name: [fmean(column(pick(part, loss=loss), name)) for loss in losses]
            for name in ("found", "linear", "bound")
        }
        mean["bound"] = [min(value, max(column(part, "searched"))) for value in mean["bound"]]
        series = (
            Series("found on the model", losses, mean["found"], "family", "found"),
            Series("found on the linear map", losses, mean["linear"], "c6", "linear"),
            Series("capacity bound (cut off)", losses, mean["bound"], "null", "bound"),
        )
        title = f"Norm at most {cap:g} x base" if cap else "Norm below the standard cap"
        drawings.append(
            Lines(
                "Vectors with at most this loss; means over bases; the bound is cut off at the number searched for.",
                Panel(title, "vectors", "loss"),
                series,
            )
        )
    return drawings

"""The effect of a vector grows faster than its dose: scaled down to the base's norm, most of it is lost.

Source: the post's observation that vectors scaled down to the base's norm no longer write code; hypothesis H5.
Prediction: where the effect is between 0.05 and 0.8 of the base's, its exponent (d log effect / d log scale) is
    at least 1.5; at the base's norm the vectors have at most 0.5 of the effect they have at their own.
Control: the base's own exponent, and what a linear effect would keep: the base's norm over the vector's.
Refuted if: the interval of the exponent lies below 1.5, or that of the share kept above 0.5.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Bench, Lines, Setup, at_least, at_most, cases, column, needs, pick
from mi_ortho import Verdict
from mi_ortho.multiplicity import dose_exponents, dose_response
from mi_ortho.nulls import with_norms
from mi_ortho.pages import Panel, Series

EXPONENT = 1.5
KEPT = 0.5
SCALES = tuple(round(0.1 * k, 1) for k in range(1, 16))


@dataclass(frozen=True)
class Config(Setup):
    """Where to search."""


SMOKE = Config(cases=1, n=4, max_steps=10)
NEEDS = (needs.family,)


def run(config: Config, bench: Bench) -> None:
    """One row for each case, family and scale, and one with its exponents."""
    for case in cases(bench, config):
        for name, effect in (("kl", case.behaviour), ("activation", case.activation)):
            for part in bench.stage({"scale": 0.0}, case=case.index, match=name):
                doses, total = examine(effect, case.family(name).vectors, case.base)
                for scale, value in zip(SCALES, doses, strict=True):
                    part.record(case=case.index, match=name, scale=scale, effect=value)
                part.record(case=case.index, match=name, scale=0.0, **total)
        bench.track("case", case.index + 1, config.cases)


@torch.no_grad()
def examine(
    effect: Callable[[Tensor], Tensor], vectors: Tensor, base: Tensor
) -> tuple[list[float], dict[str, float | None]]:
    """Mean effect at every scale; median exponents of vectors and base, and what is left at the base's norm."""
    scales = torch.tensor(SCALES).to(vectors)
    doses = dose_response(effect, vectors, scales)
    alone = dose_exponents(dose_response(effect, base[None], scales), scales)
    norms = vectors.norm(dim=-1)
    long = vectors[norms > 1.2 * base.norm()]
    share = None
    if len(long):
        short = with_norms(long, torch.full_like(long[:, 0], float(base.norm())))
        share = float(effect(short).mean() / effect(long).mean())
    linear = float((base.norm() / long.norm(dim=-1)).mean()) if len(long) else None
    exponents = dose_exponents(doses, scales)
    return doses.mean(0).tolist(), {
        "exponent": middle(exponents),
        "base_exponent": middle(alone),
        "kept": share,
        "linear": linear,
        "long": len(long),
    }


def middle(values: Tensor) -> float | None:
    """The median of what is not NaN; None where nothing is left."""
    numbers = values[~values.isnan()]
    return float(numbers.median()) if len(numbers) else None


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Exponents and what is kept, of the distribution-matched families."""
    totals = pick(rows, match="kl", scale=0.0)
    return [
        at_least(
            "The effect grows faster than the dose",
            f"exponent at least {EXPONENT}",
            "median exponent of the vectors, one value a base; the control is the base's own",
            column(totals, "exponent"),
            EXPONENT,
            column(totals, "base_exponent"),
        ),
        at_most(
            "At the base's norm long vectors lose most of their effect",
            f"at most {KEPT} of it is left",
            "effect at the base's norm over that at their own, of vectors 1.2 times as long; the control is what "
            "linear ones keep",
            column(totals, "kept"),
            KEPT,
            column(totals, "linear"),
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Lines]:
    """Effect over scale."""
    scales = [scale for scale in SCALES if pick(rows, scale=scale)]
    series = [
        Series(
            f"{match} match",
            scales,
            [fmean(column(pick(rows, match=match, scale=scale), "effect")) for scale in scales],
            style,
            match,
        )
        for match, style in (("kl", "family"), ("activation", "c1"))
        if pick(rows, match=match)
    ]
    caption = "Effect as a share of the base's; means over vectors and bases."
    return [Lines(caption, Panel("Dose response", "effect", "scale"), tuple(series))] if series else []

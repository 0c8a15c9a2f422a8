"""Early in training a behaviour has more orthogonal vectors than late.

Source: a comment on the post (redundancy is a leftover of early training); hypothesis H17.
Prediction: over the checkpoints of an organism, the rank correlation between the step and the number of vectors that
    miss at most half of the squared effect is at most -0.5, after what the base's displacement explains is taken out.
Control: the same correlation for random bases of the same norm.
Refuted if: the interval of the correlation over behaviours and prompts lies above -0.5.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from experiments.lab import Bench, Lines, at_most, column, pick
from experiments.lab.dialled import (
    BASES,
    Dialled,
    along_training,
    measure,
    open_set,
    partial_correlation,
    ready_set,
    unmeasured,
)
from mi_ortho import Verdict
from mi_ortho.pages import Panel, Series
from mi_ortho.stats import SIGNED_SCALE

FALLS = -0.5


@dataclass(frozen=True)
class Config(Dialled):
    """Which organisms, and the most checkpoints that are taken."""

    checkpoints: int = 8


SMOKE = Config(cases=1, n=3, max_steps=5, checkpoints=4, steps=8)
NEEDS = (ready_set,)


def run(config: Config, bench: Bench) -> None:
    """One row for each checkpoint, behaviour and prompt."""
    organisms = open_set(bench, config, along_training(config))
    every = organisms.rows
    identities = {(row["code"], row["alien"], row["seed"]) for row in every if "-step" in row["name"]}
    checkpoints = sorted(
        (row for row in every if (row["code"], row["alien"], row["seed"]) in identities), key=lambda r: r["step"]
    )
    checkpoints = checkpoints[-config.checkpoints :]
    for done, row in enumerate(checkpoints):
        unmeasured_pairs = unmeasured(bench, config, row["name"])
        home = organisms.bench(bench, row["name"]) if unmeasured_pairs else bench
        for behaviour, k in unmeasured_pairs:
            bench.record(
                organism=row["name"],
                behaviour=behaviour,
                case=k,
                step=row["step"],
                **measure(home, config, behaviour, k),
            )
        bench.track("checkpoint", done + 1, len(checkpoints))


def correlations(rows: Sequence[Mapping[str, Any]], base: str) -> list[float]:
    """One value for each behaviour and prompt."""
    values = []
    for behaviour, case in dict.fromkeys((row["behaviour"], row["case"]) for row in rows if "step" in row):
        part = pick(rows, behaviour=behaviour, case=case)
        values.append(partial_correlation([(row["step"], row[base], row[f"{base}_moved"]) for row in part]))
    return [value for value in values if value is not None]


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """The behaviours' own bases against random ones."""
    return [
        at_most(
            "Early checkpoints have more orthogonal vectors",
            f"rank correlation at most {FALLS}",
            "partial rank correlation of step and count, one value a behaviour and prompt; the control is random bases",
            correlations(rows, "own"),
            FALLS,
            correlations(rows, "random"),
            scale=SIGNED_SCALE,
        )
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Lines]:
    """Counts along training."""
    steps = sorted({row["step"] for row in rows if "step" in row})
    series = [
        Series(f"{base} base", steps, [fmean(column(pick(rows, step=step), base)) for step in steps], style, base)
        for base, style in zip(BASES, ("family", "null", "c6"), strict=True)
    ]
    caption = "Vectors that miss at most half of the squared effect; means over behaviours and prompts."
    return [Lines(caption, Panel("Vectors along training", "vectors", "step", logx=True), tuple(series))]

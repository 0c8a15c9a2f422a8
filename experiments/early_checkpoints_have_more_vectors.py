"""Has a behaviour more orthogonal vectors early in training than late?

Source: a comment on the post (redundancy is a leftover of early training); hypothesis H17.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from experiments.lab import Bench, Lines, Reading, column, pick
from experiments.lab.dialled import LOSSES, Dialled, balanced, checks, correlation, open_set, own_set, record_organisms
from mi_ortho.pages import Panel, Series
from mi_ortho.stats import average


@dataclass(frozen=True)
class Config(Dialled):
    """Which trainings, and where families are grown."""


SMOKE = Config(bases=1, most=3, max_steps=5, seeds=1, steps=8)
NEEDS = (own_set,)


def run(config: Config, bench: Bench) -> None:
    """Rows for each kept step of the organisms with equal frequencies, and each prompt."""
    organisms = open_set(bench, config, balanced(config))
    every = [row for row in organisms.rows if row["code"] == row["alien"] and row["seed"] < config.seeds]
    record_organisms(bench, config, organisms, sorted(every, key=lambda row: (row["seed"], row["step"])))


def along_training(rows: Sequence[Mapping[str, Any]], loss: str) -> float | None:
    """Rank correlation of step and count, mean over behaviours and prompts."""
    pairs = dict.fromkeys((row["behaviour"], row["prompt"]) for row in rows)
    parts = [pick(rows, behaviour=behaviour, prompt=prompt) for behaviour, prompt in pairs]
    return average(correlation(part, "step", loss) for part in parts)


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """For each training how counts go with the step, beside random bases; what is not learnt yet need not be shown."""
    for seed in dict.fromkeys(row["trained"] for row in rows if "trained" in row):
        own, random = (pick(rows, trained=seed, kind=kind) for kind in ("own", "random"))
        last = pick(own, step=max(column(own, "step")))
        for key, loss in zip(("falls", "looser"), LOSSES, strict=True):
            gates = {**checks(last, loss), "counted": checks(own, loss)["counted"]}
            yield Reading(key, along_training(own, loss), along_training(random, loss), {"model": seed}, gates)


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Lines]:
    """Counts along training."""
    steps = sorted({row["step"] for row in rows if "step" in row})
    series = [
        Series(
            f"{kind} base",
            steps,
            [fmean(column(pick(rows, step=step, kind=kind), "half")) for step in steps],
            style,
            kind,
        )
        for kind, style in (("own", "family"), ("random", "null"))
    ]
    caption = "Vectors that miss at most half of the squared effect; means over trainings, behaviours and prompts."
    return [Lines(caption, Panel("Vectors along training", "vectors", "step", logx=True), tuple(series))]

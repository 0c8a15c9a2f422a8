"""A behaviour that is more frequent in training has more orthogonal vectors.

Source: the post's guess that redundancy follows frequency; hypothesis H1, decisive experiment D7. Causal: organisms are
    trained with set frequencies of two behaviours, swapped between them, three seeds each.
Prediction: within a seed, over organisms and both behaviours, the rank correlation of frequency with the number of
    vectors that miss at most half of the squared effect is at least 0.5, after what the base's displacement of the
    target explains is taken out of both ranks.
Control: the same correlation for random bases of the same norm, and for the strongest MELBO base, of the same organism.
Refuted if: the interval of the correlation over seeds lies below 0.5.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from experiments.lab import Bench, Ranking, at_least, bars, column, pick
from experiments.lab.dialled import (
    BASES,
    Dialled,
    measure,
    open_set,
    partial_correlation,
    ready_set,
    unmeasured,
    with_frequencies,
)
from mi_ortho import Verdict
from mi_ortho.stats import SIGNED_SCALE

CORRELATED = 0.5


@dataclass(frozen=True)
class Config(Dialled):
    """Which organisms, and seeds of training that are taken."""

    seeds: int = 3


SMOKE = Config(cases=1, n=3, max_steps=5, seeds=1, steps=8)
NEEDS = (ready_set,)


def run(config: Config, bench: Bench) -> None:
    """One row for each organism, behaviour and prompt."""
    organisms = open_set(bench, config, with_frequencies(config, config.seeds))
    every = [row for row in organisms.rows if row["seed"] < config.seeds]
    last = max(row["step"] for row in every)
    final_rows = [row for row in every if row["step"] == last]
    for done, row in enumerate(final_rows):
        unmeasured_pairs = unmeasured(bench, config, row["name"])
        home = organisms.bench(bench, row["name"]) if unmeasured_pairs else bench
        for behaviour, k in unmeasured_pairs:
            bench.record(
                organism=row["name"],
                behaviour=behaviour,
                case=k,
                trained=row["seed"],
                frequency=row[behaviour],
                **measure(home, config, behaviour, k),
            )
        bench.track("organism", done + 1, len(final_rows))


def points(rows: Sequence[Mapping[str, Any]], base: str) -> list[tuple[float, float, float]]:
    """Frequency, mean count and mean displacement of every organism and behaviour."""
    triples = []
    for name, behaviour in dict.fromkeys((row["organism"], row["behaviour"]) for row in rows):
        part = pick(rows, organism=name, behaviour=behaviour)
        triples.append((part[0]["frequency"], fmean(column(part, base)), fmean(column(part, f"{base}_moved"))))
    return triples


def correlations(rows: Sequence[Mapping[str, Any]], base: str) -> list[float]:
    """One value a seed of training."""
    seeds = dict.fromkeys(row["trained"] for row in rows if "trained" in row)
    values = [partial_correlation(points(pick(rows, trained=seed), base)) for seed in seeds]
    return [value for value in values if value is not None]


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """The behaviours' own bases against random ones."""
    return [
        at_least(
            "Frequent behaviours have more orthogonal vectors",
            f"rank correlation at least {CORRELATED}",
            "partial rank correlation of frequency and count, one value a seed of training; the control is "
            "random bases",
            correlations(rows, "own"),
            CORRELATED,
            correlations(rows, "random"),
            scale=SIGNED_SCALE,
        )
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """Counts by frequency."""
    frequencies = sorted({row["frequency"] for row in rows if "frequency" in row})
    groups = [
        (
            f"frequency {frequency:g}, {base} base",
            column(pick(rows, frequency=frequency), base),
            "value" if base == "own" else "control",
        )
        for frequency in frequencies
        for base in BASES
    ]
    caption = "Vectors that miss at most half of the squared effect; means over organisms, behaviours and prompts."
    return [bars("Vectors by frequency of the behaviour", caption, groups)]

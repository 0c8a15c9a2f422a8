"""There are as many orthogonal linear probes for code as there are orthogonal vectors that write it.

Source: Fabien Roger's comparison with INLP (a probe is fitted, projected out, and the next still works); H19.
Prediction: until a probe is at chance on held-out text, own code against own English on the same topics, null-space
    projection gives at least 0.5 times as many probes as the family has working vectors, in the same space at least
    twice as often as chance (mean squared cosine of the principal angles).
Control: the same with shuffled labels, which ends after no probe or one.
Refuted if: the interval of the ratio lies below 0.5, or that of log2 of the overlap below 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log2
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Bench, Ranking, Setup, at_least, bars, cases, column, needs, pick
from experiments.lab.coding import passages, streams, working
from mi_ortho import Verdict, span
from mi_ortho.interventions import subspace_overlap
from mi_ortho.probes import nullspace_probes, shuffled_labels
from mi_ortho.studies.presence import PRIMARY, contrast

RATIO = 0.5
TWICE = 1.0  # as a logarithm to base 2


@dataclass(frozen=True)
class Config(Setup):
    """Where to search, passages of each group, and tokens of each group that the probes are fitted on."""

    own: int = 64
    tokens: int = 1024


SMOKE = Config(cases=1, n=6, max_steps=10, own=16, tokens=128)
NEEDS = (needs.family, needs.writing)


def run(config: Config, bench: Bench) -> None:
    """One row for each case, with true and with shuffled labels; each case splits other text."""
    for case in cases(bench, config):
        for part in bench.stage({"shuffled": False}, case=case.index):
            vectors = working(case.family("kl").vectors, case.behaviour)
            text = passages(bench, config.own, config.seed + case.index)
            pair = contrast(
                streams(bench, text, config.source, vectors, config.tokens, config.seed),
                config.source,
                PRIMARY,
                config.tokens,
            )
            generator = case.generator(22)
            labels = {True: shuffled_labels(pair.labels, pair.passages, generator), False: pair.labels}
            for shuffled, classes in labels.items():
                part.record(
                    case=case.index,
                    shuffled=shuffled,
                    **examine(pair.rows, classes, pair.passages, vectors, generator),
                )
        bench.track("case", case.index + 1, config.cases)


def examine(
    rows: Tensor, labels: Tensor, passages: Tensor, vectors: Tensor, generator: torch.Generator
) -> dict[str, Any]:
    """How many probes there are, for how many vectors, and how much of one space lies in the other."""
    probes = nullspace_probes(rows, labels, passages, generator)
    n, width, count = len(vectors), vectors.shape[1], len(probes.found)
    overlap = subspace_overlap(span(vectors.double()), probes.found) if count else None
    chance = max(n, count) / width
    return {
        "probes": count,
        "n": n,
        "exhausted": probes.exhausted,
        "first": probes.aucs[0] if probes.aucs else None,
        "overlap": None if not overlap else log2(overlap / chance),
    }


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Verdicts on the counts and on the overlap of the two spaces."""
    true, shuffled = pick(rows, shuffled=False), pick(rows, shuffled=True)
    return [
        at_least(
            "Probes for code are as many as vectors that write it",
            f"at least {RATIO} times as many",
            "probes above chance over working vectors; the control is shuffled labels",
            [row["probes"] / row["n"] for row in true],
            RATIO,
            [row["probes"] / row["n"] for row in shuffled],
        ),
        at_least(
            "The probes lie where the vectors lie",
            "at least twice as much as by chance",
            "log2 of the overlap of the two spaces over that of random ones; the control is shuffled labels",
            column(true, "overlap"),
            TWICE,
            column(shuffled, "overlap"),
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """Counts of probes and of working vectors."""
    groups = [
        ("probes for code", column(pick(rows, shuffled=False), "probes"), "value"),
        ("working vectors", column(pick(rows, shuffled=False), "n"), "value"),
        ("probes for shuffled labels", column(pick(rows, shuffled=True), "probes"), "control"),
    ]
    return [bars("Orthogonal probes and vectors", "Means over bases and splits of the text.", groups)]

"""The vectors are present in the model's activations while it writes code, more than directions of equal size are.

Source: the post's own proposed test, and the reading that the vectors are adversarial (H2, H4); experiment D8.
Prediction: the mean area under the curve of presence, own code against own English on the same topics, is at least
    0.55, and at least 0.02 above covariance-matched orthonormal sets of equal size; code's activations hold at least
    twice the share of an isotropic set along the family.
Control: orthonormal sets of as many vectors: isotropic, covariance-matched, and rotated principal components.
Refuted if: the interval of the area lies below 0.55, or that of its excess below 0.02, or that of log2 of the share
    below 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log2
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Bench, Ranking, Setup, at_least, bars, cases, column, needs, pick
from experiments.lab.coding import passages, streams, working
from mi_ortho import Verdict
from mi_ortho.stats import UNIT_SCALE
from mi_ortho.studies.presence import CONTRASTS, PRIMARY, Contrast, contrast, measured_nulls, measured_set

AREA = 0.55
EXCESS = 0.02
TWICE = 1.0  # as a logarithm to base 2
NUMBERS = ("mean_auc", "separation", "mean_share", "explained", "coherence", "bessel")


@dataclass(frozen=True)
class Config(Setup):
    """Where to search, passages of each group, tokens of each group that are compared, and null sets."""

    own: int = 64
    tokens: int = 1024
    sets: int = 20


SMOKE = Config(cases=1, n=6, max_steps=10, own=16, tokens=128, sets=2)
NEEDS = (needs.family, needs.writing)


def run(config: Config, bench: Bench) -> None:
    """One row for each case, pair of groups and kind of set."""
    all_cases = cases(bench, config)
    if all(bench.has(case=case.index, last=True) for case in all_cases):
        return
    text = passages(bench, config.own, config.seed)
    for case in all_cases:
        for part in bench.stage({"last": True}, case=case.index):
            vectors = working(case.family("kl").vectors, case.behaviour)
            by_group = streams(bench, text, config.source, vectors, config.tokens, config.seed + case.index)
            for name in CONTRASTS:
                rows = examine(
                    contrast(by_group, config.source, name, config.tokens), vectors, config.sets, case.generator(21)
                )
                for k, row in enumerate(rows):
                    last = name == list(CONTRASTS)[-1] and k == len(rows) - 1
                    part.record(case=case.index, groups=name, n=len(vectors), last=last, **row)
        bench.track("case", case.index + 1, config.cases)


def examine(pair: Contrast, vectors: Tensor, sets: int, generator: torch.Generator) -> list[dict[str, Any]]:
    """The numbers of the family and the mean of each kind of null set."""
    nulls = measured_nulls(pair, len(vectors), sets, generator)
    rows = [
        {"set": kind, **{name: fmean(one.numbers[name] for one in sets_drawn) for name in NUMBERS}}
        for kind, sets_drawn in nulls.items()
    ]
    numbers = measured_set(pair, vectors).numbers
    return [*rows, {"set": "family", **{name: numbers[name] for name in NUMBERS}}]


def values(rows: Sequence[Mapping[str, Any]], kind: str, name: str, groups: str = PRIMARY) -> list[float]:
    """One number of a kind of set, in the order of cases."""
    return column(sorted(pick(rows, set=kind, groups=groups), key=lambda row: row["case"]), name)


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """The model's own code against its own English on the same topics."""
    area, matched = values(rows, "family", "mean_auc"), values(rows, "covariance", "mean_auc")
    share, isotropic = values(rows, "family", "mean_share"), values(rows, "isotropic", "mean_share")
    carried = values(rows, "covariance", "mean_share")
    return [
        at_least(
            "The vectors are present while the model writes code",
            f"mean area at least {AREA}",
            "mean area under the curve of presence, own code against own English; the control is "
            "covariance-matched sets",
            area,
            AREA,
            matched,
            scale=UNIT_SCALE,
        ),
        at_least(
            "They are more present than covariance-matched directions",
            f"mean area at least {EXCESS} above",
            "mean area minus that of covariance-matched sets; the control is their distance from one half",
            [a - b for a, b in zip(area, matched)],
            EXCESS,
            [b - 0.5 for b in matched],
        ),
        at_least(
            "Activations on code lie along the family",
            "at least twice the share of an isotropic set",
            "log2 of the share of |h|^2 along the family over that of isotropic sets; the control is "
            "covariance-matched sets",
            [log2(a / b) for a, b in zip(share, isotropic)],
            TWICE,
            [log2(a / b) for a, b in zip(carried, isotropic)],
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """Areas for each pair of groups, and shares."""
    kinds = (("family", "value"), ("covariance", "control"), ("rotated", "control"), ("isotropic", "control"))
    drawings = []
    for groups in CONTRASTS:
        areas = [(kind, values(rows, kind, "mean_auc", groups), style) for kind, style in kinds]
        title = f"Mean area under the curve, {groups.replace('_', ' ')}"
        drawings.append(bars(title, "Presence in code against the other group; means over bases.", areas, AREA))
    shares = [(kind, values(rows, kind, "mean_share"), style) for kind, style in kinds]
    return [*drawings, bars("Share of |h|^2 along the set, in own code", "Means over bases.", shares)]

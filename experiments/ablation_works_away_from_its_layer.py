"""Ablating a refusal direction works at layers other than the one it was read at, and at a few of them.

Source: notes on ablating the refusal direction: it need not be applied at the layer of extraction, a subset of layers
    that need not be consecutive is enough (range(8, 24, 2) on Qwen 1.8B), also layers where the class means are alike.
Prediction: of the refusal score that ablation at all layers removes, ablation at all layers but the direction's own
    removes at least 0.5 (A), every second layer from the first third on at least 0.5 (B), and directions read at other
    layers, ablated at all layers, at least 0.5 on average (J); single layers work better where the cosine of the class
    means is lower, rank correlation at least 0.3 (C).
Control: random directions, ablated at the same layers; random subsets of as many layers; shuffled layers for C.
Refuted if: the interval of a share lies below 0.5, or that of the correlation below 0.3.
Changed after a first run: No single direction carries the refusals of the first embedded model, so its sibling is
    studied now; the first run was on the first model. The thresholds were not changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import Any

import torch
from scipy.stats import spearmanr

from experiments.lab import Bench, Lines, Ranking, Refusing, Splits, at_least, column, each_split, needs, pick
from mi_ortho import Verdict
from mi_ortho.pages import Estimate, Panel, Series
from mi_ortho.stats import SIGNED_SCALE

SHARE = 0.5
CORRELATION = 0.3
SUBSETS = ("own", "others", "before", "after", "stride 2", "stride 3", "random half", "all")


@dataclass(frozen=True)
class Config(Splits):
    """Prompts of each kind and how many splits of them."""


SMOKE = Config(train=8, validation=4, test=4, seeds=2)
NEEDS = (needs.refusals,)


def run(config: Config, bench: Bench) -> None:
    """For each split: layers read by layers ablated, and subsets of layers for the strongest direction."""
    each_split(config, bench, measure, kind="subset", subset="all", direction="random")


def measure(study: Refusing, seed: int) -> None:
    """Record one split."""
    bench, texts = study.bench, study.sets.test_harmful
    strongest, layers = study.strongest(), range(bench.layers)
    full = float(study.drop(texts, study.direction(strongest)).mean())
    cosines = torch.cosine_similarity(study.found.harmful.mean, study.found.harmless.mean, dim=-1)[:, 0].tolist()
    for source in layers[1:]:
        row = [float(study.drop(texts, study.direction(source), [layer]).mean()) / full for layer in layers]
        everywhere = float(study.drop(texts, study.direction(source)).mean()) / full
        bench.record(
            kind="read", seed=seed, read=source, own=strongest, shares=row, everywhere=everywhere, cosines=cosines
        )
    null = study.random(1000 + seed)
    for name, ablated_layers in subsets(strongest, bench.layers, seed).items():
        for kind, direction in (("refusal", study.direction(strongest)), ("random", null)):
            share = float(study.drop(texts, direction, ablated_layers).mean()) / full
            bench.record(
                kind="subset", seed=seed, subset=name, direction=kind, share=share, layers=ablated_layers, own=strongest
            )


def subsets(layer: int, layers: int, seed: int) -> dict[str, list[int]]:
    """Sets of layers by name, none empty; the strided ones begin at the first third, as in the notes."""
    every, third = list(range(layers)), layers // 3
    sets = {
        "own": [layer],
        "others": [k for k in every if k != layer],
        "before": every[:layer],
        "after": every[layer + 1 :],
        "stride 2": every[third::2],
        "stride 3": every[third::3],
        "random half": sorted(Random(seed).sample(every, len(every[third::2]))),
        "all": every,
    }
    return {name: members for name, members in sets.items() if members}


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Verdicts on claims A, B, J and C."""

    def shares(subset: str, direction: str = "refusal") -> list[float]:
        return column(pick(rows, kind="subset", subset=subset, direction=direction), "share")

    readings = pick(rows, kind="read")
    other = [
        fmean([r["everywhere"] for r in pick(readings, seed=seed) if r["read"] != r["own"]])
        for seed in sorted({row["seed"] for row in readings})
    ]
    correlations = [correlation(row) for row in readings]
    seeds = [row["seed"] for row, value in zip(readings, correlations) if value is not None]
    return [
        at_least(
            "A: ablation works at layers that leave out the one the direction was read at",
            f"at least {SHARE} of the effect of all layers",
            "share of the lost refusal score, one value a split",
            shares("others"),
            SHARE,
            shares("others", "random"),
        ),
        at_least(
            "B: every second layer is enough",
            f"at least {SHARE} of the effect of all layers",
            "share of the lost refusal score; control: a random direction at the same layers",
            shares("stride 2"),
            SHARE,
            shares("stride 2", "random"),
        ),
        at_least(
            "J: directions read at other layers work as well",
            f"at least {SHARE} of the strongest one's effect",
            "mean share over layers of reading, ablated at all layers; control: a random direction",
            other,
            SHARE,
            shares("all", "random"),
        ),
        at_least(
            "C: single layers work where the class means are alike less",
            f"rank correlation of effect and minus cosine at least {CORRELATION}",
            "Spearman correlation over layers, one value a split and layer of reading; control: shuffled layers",
            [value for value in correlations if value is not None],
            CORRELATION,
            [value for k, row in enumerate(readings) if (value := correlation(row, Random(k))) is not None],
            scale=SIGNED_SCALE,
            clusters=seeds,
        ),
    ]


def correlation(row: Mapping[str, Any], mix: Random | None = None) -> float | None:
    """Spearman correlation over layers of a direction's effect with minus the cosine of the means; None if constant."""
    pairs = [(share, -cosine) for share, cosine in zip(row["shares"][1:], row["cosines"][1:])]
    shares, lows = [share for share, _ in pairs], [low for _, low in pairs]
    if mix is not None:
        mix.shuffle(lows)
    if len(set(shares)) < 2 or len(set(lows)) < 2:
        return None
    return float(spearmanr(shares, lows)[0])  # pyright: ignore[reportArgumentType]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Lines | Ranking]:
    """Subsets beside their control, and the effect of one layer by where the direction was read."""
    estimates = []
    for subset in SUBSETS:
        for kind, style in (("refusal", "value"), ("random", "control")):
            values = column(pick(rows, kind="subset", subset=subset, direction=kind), "share")
            if values:
                verdict = at_least("", "", "", values, SHARE, [])
                estimates.append(
                    Estimate(
                        f"{subset}{', random' if kind == 'random' else ''}", verdict.value, verdict.interval, style
                    )
                )
    readings = pick(rows, kind="read")
    series = []
    for k, layer in enumerate(sorted({row["read"] for row in readings})):
        part = pick(readings, read=layer)
        mean = [fmean(values) for values in zip(*[row["shares"] for row in part])]
        series.append(Series(f"read at {layer}", list(range(len(mean))), mean, f"c{k % 8}", f"r{layer}"))
    panel = Panel("Ablation at a single layer", "share of the effect of all layers", "layer ablated")
    lines = [Lines("Ablated at one layer only, means over splits.", panel, tuple(series))]
    ranking = [
        Ranking(
            "Where the strongest direction is ablated",
            "Means over splits with 95 % intervals.",
            tuple(estimates),
            SHARE,
            "share of the effect of all layers",
        )
    ]
    return [*(ranking if estimates else []), *(lines if series else [])]

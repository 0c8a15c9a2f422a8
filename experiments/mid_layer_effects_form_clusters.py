"""What the vectors change half-way through the network falls into few clusters: many inputs, few effects.

Source: a comment on the post (most of the degeneracy would vanish if mid-layer activations had to differ); H14.
Prediction: at the target layer the effective rank of the changes of activations is at most 0.5 times the number of
    vectors, and the vectors whose changes have cosines above 0.5 form at most 0.5 times as many clusters.
Control: random orthogonal vectors of the same norms.
Refuted if: the interval of the relative rank, or of the relative number of clusters, lies above 0.5.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Bench, Case, Lines, Setup, at_most, cases, column, needs, pick
from mi_ortho import ActivationMap, Verdict, random_vectors, resid_post, slice_model
from mi_ortho.interventions import orthonormal_rows
from mi_ortho.multiplicity import multiplicity_of
from mi_ortho.nulls import with_norms
from mi_ortho.pages import Panel, Series

FEW = 0.5


@dataclass(frozen=True)
class Config(Setup):
    """Where to search."""


SMOKE = Config(cases=1, n=4, max_steps=10)
NEEDS = (needs.family,)


def run(config: Config, bench: Bench) -> None:
    """One row for each case, layer and group."""
    for case in cases(bench, config):
        vectors = case.family("kl").vectors
        directions = orthonormal_rows(random_vectors(len(vectors), len(case.base), 1.0, case.generator(18)))
        sets = {"random": with_norms(directions, vectors.norm(dim=-1)), "family": vectors}
        for layer in range(config.source + 1, bench.layers):
            for group, rows in sets.items():
                if not bench.has(case=case.index, layer=layer, group=group):
                    bench.record(
                        case=case.index,
                        layer=layer,
                        target=config.target,
                        group=group,
                        **examine(at_layer(case, layer), rows),
                    )
        bench.track("case", case.index + 1, config.cases)


def at_layer(case: Case, layer: int) -> ActivationMap:
    """The case's map with another target."""
    setting = case.setting
    return slice_model(
        setting.model, setting.prompts(case.texts), source=setting.site, target=resid_post(layer), where=setting.where
    )


@torch.no_grad()
def examine(z: ActivationMap, vectors: Tensor) -> dict[str, float]:
    """Effective rank and clusters of the changes, over the number of vectors."""
    changes = torch.cat([z(part).flatten(1) for part in vectors.split(16)]) - z(torch.zeros_like(vectors[:1])).flatten(
        1
    )
    multiplicity = multiplicity_of(changes)
    return {
        "rank": multiplicity.effective_rank / len(vectors),
        "clusters": multiplicity.clusters / len(vectors),
        "n": len(vectors),
    }


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """At the target layer."""
    there = [row for row in rows if "layer" in row and row["layer"] == row["target"]]
    family, random = pick(there, group="family"), pick(there, group="random")
    return [
        at_most(
            "The vectors' effects have fewer dimensions than there are vectors",
            f"at most {FEW} of their number",
            "effective rank of the changes at the target over the number of vectors; the control is random vectors",
            column(family, "rank"),
            FEW,
            column(random, "rank"),
        ),
        at_most(
            "The vectors' effects form fewer clusters than there are vectors",
            f"at most {FEW} of their number",
            "clusters of the changes at the target over the number of vectors; the control is random vectors",
            column(family, "clusters"),
            FEW,
            column(random, "clusters"),
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Lines]:
    """Rank and clusters along depth."""
    drawings = []
    for name, title in (("rank", "Effective rank of the changes"), ("clusters", "Clusters of the changes")):
        series = []
        for group, label, style in (("family", "family", "family"), ("random", "random vectors", "null")):
            part = pick(rows, group=group)
            layers = sorted({row["layer"] for row in part})
            values = [fmean(column(pick(part, layer=layer), name)) for layer in layers]
            series.append(Series(label, layers, values, style, group))
        drawings.append(
            Lines("Over the number of vectors; means over bases.", Panel(title, name, "layer"), tuple(series))
        )
    return drawings

"""Orthogonal vectors overlap once they are added to an activation and normalised, as the next block sees them.

Source: a comment on the post (not orthogonal after adding to x and LayerNorm); hypothesis H13.
Prediction: the mean cosine between what two vectors change behind the norm of the next block is at least 0.05 above
    that of random orthogonal vectors of the same norms.
Control: random orthogonal vectors of the same norms at the same activations.
Refuted if: the interval of the difference lies below 0.05: the norm makes every long vector overlap alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Bench, Case, Ranking, Setup, at_least, bars, cases, column, needs, pick
from mi_ortho import Verdict, random_vectors, resid_post
from mi_ortho.interventions import orthonormal_rows
from mi_ortho.model import read
from mi_ortho.nulls import with_norms

ABOVE = 0.05


@dataclass(frozen=True)
class Config(Setup):
    """Where to search."""


SMOKE = Config(cases=1, n=4, max_steps=10)
NEEDS = (needs.family,)


def run(config: Config, bench: Bench) -> None:
    """One row for each case and family."""
    for case in cases(bench, config):
        for name in ("kl", "activation"):
            if not bench.has(case=case.index, match=name):
                centred = str(getattr(bench.subject.model.cfg, "normalization_type", "RMS")).startswith("LN")
                numbers = examine(case.family(name).vectors, activations(case), centred, case.generator(17))
                bench.record(case=case.index, match=name, **numbers)
        bench.track("case", case.index + 1, config.cases)


def activations(case: Case) -> Tensor:
    """Activations at the source on the case's prompts, at every steered position."""
    prompts, site = case.setting.prompts(case.texts), resid_post(case.setup.source)
    mask = case.z.where_mask & prompts.mask
    return read(case.setting.model, prompts, [site])[site][mask].float()


def normalised(x: Tensor, centred: bool) -> Tensor:
    """Each row after the model's normalisation: length sqrt(d_model), around its mean where that is subtracted."""
    x = x - x.mean(-1, keepdim=True) if centred else x
    return x / x.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-12)


def overlap(vectors: Tensor, at: Tensor, centred: bool) -> float:
    """Mean cosine between the changes of two vectors, over pairs and positions."""
    changes = normalised(at[:, None] + vectors, centred) - normalised(at[:, None], centred)
    unit = torch.nn.functional.normalize(changes, dim=-1)
    cosines = unit @ unit.mT
    pairs = ~torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    return float(cosines[:, pairs].mean())


def examine(vectors: Tensor, at: Tensor, centred: bool, generator: torch.Generator) -> dict[str, float]:
    """The overlap of the family and of random vectors, before and behind the norm, and lengths against activations."""
    norms = vectors.norm(dim=-1)
    directions = orthonormal_rows(random_vectors(len(vectors), vectors.shape[1], 1.0, generator).to(vectors))
    return {
        "family": overlap(vectors, at, centred),
        "random": overlap(with_norms(directions, norms), at, centred),
        "relative_length": float((norms.mean() / at.norm(dim=-1)).median()),
        "relative_length_first": float(norms.mean() / at[0].norm()),
    }


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """The verdict on the distribution-matched families."""
    part = pick(rows, match="kl")
    what = "mean cosine between two vectors' changes minus that of random orthogonal vectors, which is the control"
    return [
        at_least(
            "Behind the norm the vectors overlap more than random ones",
            f"at least {ABOVE} above",
            what,
            [row["family"] - row["random"] for row in part],
            ABOVE,
            column(part, "random"),
        )
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """Overlaps of families and random vectors."""
    kinds = [(match, *kind) for match in ("kl", "activation") for kind in (("family", "value"), ("random", "control"))]
    groups = [
        (f"{match} match, {group}", column(pick(rows, match=match), group), style) for match, group, style in kinds
    ]
    return [bars("Mean cosine behind the norm", "Over pairs and positions; means over bases.", groups)]

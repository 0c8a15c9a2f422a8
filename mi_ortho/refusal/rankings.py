"""Cheaper ways to rank the places where a direction is read, compared with the selection that runs the model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from mi_ortho.model import Model
from mi_ortho.refusal.extraction import Extraction, activation_batches
from mi_ortho.refusal.selection import Candidate
from mi_ortho.stats import auc_between

HIGHER_IS_BETTER = {"auc": True, "fisher": True, "mean_variance": False, "max_variance": False, "cosine": False}
Grid = Float[Tensor, "site position"]


def ranking_scores(
    model: Model, extraction: Extraction, harmful: Sequence[str], harmless: Sequence[str]
) -> dict[str, Float[Tensor, "site position"]]:
    """Five scores of every place of an extraction; the texts are validation prompts.

    auc: area under the ROC curve of the projection on the direction (validation prompts). fisher: squared distance of
    the projected class means over the sum of their variances (validation). mean_variance, max_variance: mean and
    largest variance over features, averaged over the two classes (extraction prompts); cosine: of the two class means.
    `HIGHER_IS_BETTER` says which way each ranks.
    """
    bad, good = (projections(model, texts, extraction) for texts in (harmful, harmless))
    variances = torch.stack([extraction.harmful.variance, extraction.harmless.variance])
    return {
        "auc": auc_between(bad, good),
        "fisher": (bad.mean(0) - good.mean(0)) ** 2 / (_variance(bad) + _variance(good)),
        "mean_variance": variances.mean(dim=-1).mean(dim=0),
        "max_variance": variances.amax(dim=-1).mean(dim=0),
        "cosine": torch.cosine_similarity(extraction.harmful.mean, extraction.harmless.mean, dim=-1),
    }


def _variance(x: Float[Tensor, " n *places"]) -> Float[Tensor, "*places"]:
    """Unbiased; NaN for a single sample, which has none."""
    return x.var(0) if len(x) > 1 else torch.full_like(x[0], torch.nan)


def projections(model: Model, texts: Sequence[str], extraction: Extraction) -> Float[Tensor, "samples site position"]:
    """Activation of every prompt at every place, along the unit direction of that place, fp64."""
    unit = torch.nn.functional.normalize(extraction.differences, dim=-1)
    parts = [
        einsum(x.to(unit), unit, "samples site position d, site position d -> samples site position")
        for x in activation_batches(model, texts, extraction.sites, extraction.positions)
    ]
    return torch.cat(parts)


@dataclass(frozen=True)
class Ranking:
    """How well a cheap score replaces the selection by bypass score.

    Attributes:
        name: of the score.
        spearman: rank correlation with the quality (minus bypass) over admissible candidates; None for fewer than 3.
        spearman_all: the same over all candidates with numbers.
        top: the place this score ranks first among the admissible ones.
        regret: bypass score of `top` minus the lowest one.
        random_regret: expected regret of a random admissible candidate, the control.
        first_is_admissible: whether the place ranked first of all candidates is admissible.
    """

    name: str
    spearman: float | None
    spearman_all: float | None
    top: str
    regret: float
    random_regret: float
    first_is_admissible: bool


def compare_rankings(found: Sequence[Candidate], scores: Mapping[str, Sequence[float]]) -> list[Ranking]:
    """Each score (a value per candidate, in the same order) against the bypass scores; one without numbers is left out.

    Raises:
        ValueError: no candidate is admissible, or a score has another number of values.
    """
    admissible = [k for k, one in enumerate(found) if not one.rejected]
    if not admissible:
        raise ValueError("got no admissible candidate; expected at least one to compare rankings by; see the selection")
    best = min(found[k].bypass for k in admissible)
    mean = sum(found[k].bypass for k in admissible) / len(admissible)
    rankings = []
    for name, values in scores.items():
        if len(values) != len(found):
            raise ValueError(f"got {len(values)} values of {name} for {len(found)} candidates; expected as many")
        good = [float(v) if HIGHER_IS_BETTER[name] else -float(v) for v in values]
        finite = [k for k in range(len(found)) if math.isfinite(found[k].bypass) and math.isfinite(good[k])]
        usable = [k for k in finite if k in admissible]
        if not usable:
            continue  # variances of a single prompt are not numbers
        top, first = (max(some, key=lambda k: good[k]) for some in (usable, finite))
        rankings.append(
            Ranking(
                name,
                _spearman([good[k] for k in usable], [-found[k].bypass for k in usable]),
                _spearman([good[k] for k in finite], [-found[k].bypass for k in finite]),
                f"{found[top].site} @ {found[top].position}",
                found[top].bypass - best,
                mean - best,
                not found[first].rejected,
            )
        )
    return rankings


def _spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    from scipy.stats import spearmanr

    if len(a) < 3 or len(set(a)) < 2 or len(set(b)) < 2:
        return None
    return float(spearmanr(a, b)[0])  # pyright: ignore[reportArgumentType]

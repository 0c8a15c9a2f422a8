"""More than one direction: extract again under ablation of what was found, and iterative null-space projection."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.interventions.sites import Site
from mi_ortho.interventions.subspace import reject_twice
from mi_ortho.model import Model
from mi_ortho.refusal.extraction import Extraction, difference_of_means
from mi_ortho.refusal.places import ablate_everywhere
from mi_ortho.refusal.scores import refusal_scores
from mi_ortho.stats import auc_between

Choose = Callable[[Extraction], tuple[Site, int]]


@dataclass(frozen=True, eq=False)
class Round:
    """One round of extract, ablate, extract again.

    Attributes:
        number: from 1.
        site: where this round's direction was read.
        position: from the end of the prompt.
        direction: unit vector, orthogonal to those of earlier rounds up to rounding: where these are ablated at every
            place, the activations it is read from have no part along them. Its cosine with them says nothing.
        norm: of the difference of means it comes from, with the earlier directions ablated.
        cosine_before: cosine with the difference of means at the same place in the unablated model.
        refusal: mean refusal score of the harmful validation prompts with all directions so far ablated.
        alone: the same with only this round's direction ablated.
    """

    number: int
    site: Site
    position: int
    direction: Float[Tensor, " d_model"]
    norm: float
    cosine_before: float
    refusal: float
    alone: float


def extract_again(
    model: Model,
    harmful: Sequence[str],
    harmless: Sequence[str],
    checked: Sequence[str],
    tokens: Sequence[int],
    sites: Sequence[Site],
    choose: Choose,
    *,
    rounds: int = 4,
    positions: Sequence[int] | None = None,
) -> Iterator[Round]:
    """Rounds of extraction, each with the span of all earlier directions ablated everywhere.

    A model that refuses in another way after one ablation may have further refusal directions.

    Args:
        model: the frozen model.
        harmful: extraction prompts.
        harmless: extraction prompts.
        checked: harmful validation prompts, on which refusal is scored.
        tokens: refusal tokens.
        sites: where directions are read.
        choose: the place to take from an extraction, for instance of the largest difference or by `select`.
        rounds: how many.
        positions: as for `difference_of_means`.
    """
    before = difference_of_means(model, harmful, harmless, sites, positions)
    basis = torch.zeros(0, before.differences.shape[-1])
    for number in range(1, rounds + 1):
        changed = ablate_everywhere(model, basis)  # of nothing in the first round
        extraction = difference_of_means(model, harmful, harmless, sites, positions, interventions=changed)
        site, position = choose(extraction)
        difference = extraction.direction(site, position).cpu()
        rest = reject_twice(basis.double(), difference.double())
        unit = (rest / rest.norm()).float()
        basis = torch.cat([basis, unit[None]])
        scores = [
            float(refusal_scores(model, checked, tokens, ablate_everywhere(model, rows)).mean())
            for rows in (basis, unit[None])
        ]
        old = before.direction(site, position).cpu()
        yield Round(
            number,
            site,
            position,
            unit,
            float(difference.norm()),
            float(torch.cosine_similarity(old, unit, dim=0)),
            *scores,
        )


def largest_difference(found: Extraction) -> tuple[Site, int]:
    """The place whose difference of means is largest relative to the spread within the classes.

    Where activations differ by rounding only, as at the input of the first block, there is no difference to take.
    """
    spread = (found.harmful.variance + found.harmless.variance).sum(dim=-1).sqrt()
    floor = 1e-4 * found.harmless.mean.norm(dim=-1)
    ratio = torch.nan_to_num(found.differences.norm(dim=-1) / (spread + floor), nan=-1.0, posinf=-1.0)
    site, position = divmod(int(ratio.argmax()), ratio.shape[1])
    return found.sites[site], found.positions[position]


@dataclass(frozen=True, eq=False)
class ProbeRound:
    """One round of null-space projection: the probe's unit direction, orthogonal to earlier ones, and its AUC."""

    number: int
    direction: Float[Tensor, " d_model"]
    auc: float


def null_space_rounds(
    harmful: Float[Tensor, "n d_model"],
    harmless: Float[Tensor, "m d_model"],
    checked: tuple[Float[Tensor, "p d_model"], Float[Tensor, "q d_model"]],
    *,
    rounds: int = 4,
    ridge: float = 1e-2,
) -> Iterator[ProbeRound]:
    """Iterative null-space projection (INLP, Ravfogel et al. 2020): fit a linear probe, project it out, fit again.

    Args:
        harmful: activations at one place.
        harmless: likewise.
        checked: activations of other harmful and harmless prompts, on which each probe's AUC is taken.
        rounds: how many probes.
        ridge: penalty of the least-squares probe, relative to the mean squared activation.

    Once the AUC on `checked` has fallen to one half, no linear difference is left.
    """
    basis = torch.zeros(0, harmful.shape[1], dtype=torch.float64)
    for number in range(1, rounds + 1):
        parts = [reject_twice(basis, x.double().cpu()) for x in (harmful, harmless, *checked)]
        probe = reject_twice(basis, _ridge_probe(parts[0], parts[1], ridge))
        unit = probe / probe.norm()
        basis = torch.cat([basis, unit[None]])
        yield ProbeRound(number, unit.float(), float(auc_between(parts[2] @ unit, parts[3] @ unit)))


def _ridge_probe(positive: Tensor, negative: Tensor, ridge: float) -> Tensor:
    """Weights of the least-squares classifier on centred activations."""
    middle = 0.5 * (positive.mean(0) + negative.mean(0))
    gram = sum(((x - middle).mT @ (x - middle) / len(x) for x in (positive, negative)), torch.zeros(()).double())
    gram = gram + ridge * gram.diagonal().mean() * torch.eye(len(middle), dtype=torch.float64)
    return torch.linalg.solve(gram, positive.mean(0) - negative.mean(0))

"""Refusal directions found by gradient: one direction (RDO) or a cone of them.

Wollschlaeger et al. 2025 (arXiv 2502.17420). A direction is good when ablating it makes the model answer harmful
prompts, adding it makes it refuse harmless ones, and ablating it changes nothing else. In a cone every positive
combination of the basis has to be good.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mi_ortho.interventions.edits import Intervention
from mi_ortho.interventions.sites import Site
from mi_ortho.interventions.subspace import orthonormal_rows
from mi_ortho.model import Model, Prompts, answer_logits, generate_ids, tokenize, traced_answer_logits
from mi_ortho.model.logits import kl_divergence
from mi_ortho.refusal.places import WRITTEN, add_at, at_every


@dataclass(frozen=True)
class ConeSettings:
    """Weights of the three losses and the optimiser, by default the published ones.

    Attributes:
        ablation: weight of the cross-entropy of answers to harmful prompts under ablation.
        addition: weight of the cross-entropy of refusals of harmless prompts under addition.
        retain: weight of KL(unsteered || ablated) on harmless prompts.
        samples: directions drawn from the cone at each step, besides the basis itself; a single direction needs none.
        steps: of the optimiser.
        learning_rate: of AdamW with AMSGrad and betas (0.9, 0.98).
    """

    ablation: float = 1.0
    addition: float = 0.2
    retain: float = 1.0
    samples: int = 8
    steps: int = 100
    learning_rate: float = 1e-2


@dataclass(frozen=True, eq=False)
class ConeTargets:
    """Teacher-forced texts: answers to harmful prompts, refusals of harmless ones, and what stays as it is."""

    answered: Prompts
    refused: Prompts
    kept: Prompts
    kept_logits: Float[Tensor, "batch answer d_vocab"]


@dataclass(frozen=True, eq=False)
class Cone:
    """Orthonormal basis of a cone of refusal directions, and the loss at each step."""

    basis: Float[Tensor, "k d_model"]
    losses: tuple[float, ...]


def cone_targets(
    model: Model,
    harmful: Sequence[str],
    harmless: Sequence[str],
    ablated: Mapping[Site, Intervention],
    added: Mapping[Site, Intervention],
    *,
    tokens: int = 30,
) -> ConeTargets:
    """Greedy completions as targets: answers under `ablated`, refusals under `added` (the edits of a first direction).

    What has to stay is how the unsteered model completes harmless prompts, with its logits.

    Raises:
        ValueError: a completion is empty.
    """

    def forced(texts: Sequence[str], changed: Mapping[Site, Intervention]) -> Prompts:
        answers = generate_ids(model, tokenize(model, texts), changed, max_new_tokens=tokens)
        return tokenize(model, texts, answers=answers)

    unchanged = forced(harmless, {})
    return ConeTargets(forced(harmful, ablated), forced(harmless, added), unchanged, answer_logits(model, unchanged))


def refusal_cone(
    model: Model,
    targets: ConeTargets,
    start: Float[Tensor, "k d_model"],
    site: Site,
    norm: float,
    *,
    settings: ConeSettings | None = None,
    generator: torch.Generator | None = None,
) -> Cone:
    """Optimise an orthonormal basis, k = 1 for a single direction.

    Args:
        model: the frozen model.
        targets: of `cone_targets`.
        start: initial rows, linearly independent.
        site: where a direction is added.
        norm: with which it is added, usually that of the difference of means.
        settings: weights and optimiser.
        generator: of the combinations drawn from the cone.
    """
    settings = settings or ConeSettings()
    raw = torch.nn.functional.normalize(start.detach().clone(), dim=-1).requires_grad_()
    optimiser = torch.optim.AdamW([raw], lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.0, amsgrad=True)
    losses = []
    for _ in range(settings.steps):
        basis = orthonormal_rows(raw)
        weights = (
            torch.randn(settings.samples if len(basis) > 1 else 0, len(basis), generator=generator).abs().to(basis)
        )
        rows = torch.cat([basis, torch.nn.functional.normalize(weights, dim=-1) @ basis])
        loss = torch.stack([_loss(model, targets, row, site, norm, settings) for row in rows]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return Cone(orthonormal_rows(raw.detach()), tuple(losses))


def _loss(
    model: Model, targets: ConeTargets, unit: Tensor, site: Site, norm: float, settings: ConeSettings
) -> Float[Tensor, ""]:
    def ablate(x: Tensor) -> Tensor:
        return x - (x @ unit.to(x))[..., None] * unit.to(x)

    everywhere = at_every(model, ablate, kinds=WRITTEN)
    answered = _cross_entropy(model, targets.answered, everywhere)
    refused = _cross_entropy(model, targets.refused, add_at_traced(site, unit * norm))
    moved = traced_answer_logits(model, targets.kept, interventions=everywhere)
    real = targets.kept.mask[:, targets.kept.prompt_length :]
    divergence = kl_divergence(p_logits=targets.kept_logits, q_logits=moved)[real].mean()
    return settings.ablation * answered + settings.addition * refused + settings.retain * divergence


def add_at_traced(site: Site, vector: Float[Tensor, " d_model"]) -> dict[Site, Intervention]:
    """`add_at` that gradients flow through."""
    place = next(iter(add_at(site, vector.detach())))
    add: Callable[[Tensor], Tensor] = lambda x: x + vector.to(x)  # noqa: E731
    return {place: add}


def _cross_entropy(model: Model, prompts: Prompts, changed: Mapping[Site, Intervention]) -> Float[Tensor, ""]:
    logits = traced_answer_logits(model, prompts, interventions=changed)
    tokens = prompts.tokens[:, prompts.prompt_length :]
    costs = torch.nn.functional.cross_entropy(rearrange(logits, "b a v -> (b a) v"), tokens.flatten(), reduction="none")
    return costs[prompts.mask[:, prompts.prompt_length :].flatten()].mean()

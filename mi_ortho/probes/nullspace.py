"""Iterative nullspace projection: how many orthogonal directions can each tell two classes apart?"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_ortho.interventions.subspace import Subspace, empty_subspace
from mi_ortho.probes.linear import FitProbe, discriminant_probe
from mi_ortho.probes.separation import permuted_auc
from mi_ortho.probes.significance import upper_p_values
from mi_ortho.stats import auc


@dataclass(frozen=True, eq=False)
class NullspaceProbes:
    """What `nullspace_probes` found.

    Attributes:
        found: the orthonormal directions of all probes above chance, in order.
        aucs: held-out AUC of every probe, the one that ended the search included.
        p_values: of these AUCs, over shuffled labels of the held-out passages.
        exhausted: whether a probe at chance ended the search, rather than the limit.
    """

    found: Subspace
    aucs: tuple[float, ...]
    p_values: tuple[float, ...]
    exhausted: bool


def nullspace_probes(
    activations: Float[Tensor, "samples d_model"],
    labels: Bool[Tensor, " samples"],
    passages: Int[Tensor, " samples"],
    generator: torch.Generator,
    *,
    fit: FitProbe = discriminant_probe,
    most: int | None = None,
    level: float = 0.05,
    draws: int = 199,
) -> NullspaceProbes:
    """Fit a probe, remove its direction, fit the next one, until a probe is at chance (Ravfogel et al. 2020, INLP).

    Half of the passages of each class fit the probes, the other half judges them: a probe counts while shuffling the
    labels of those passages reaches its AUC with a probability of at most `level`.

    Args:
        activations: of both classes.
        labels: their class, one for each passage.
        passages: which passage each activation comes from; never split between the halves.
        generator: of the split and of the shuffles, on the CPU.
        fit: how a probe is found.
        most: probes at most; None for d_model - 1.
        level: of the test.
        draws: shuffles of each test.
    """
    train = _half(labels.cpu(), passages.cpu(), generator).to(labels.device)
    x = activations.double()
    directions, aucs, p_values = empty_subspace(x.shape[1], dtype=x.dtype, device=x.device), [], []
    limit = x.shape[1] - 1 if most is None else min(most, x.shape[1] - 1)
    while len(directions) < limit:
        rest = directions.reject(x)
        probe = fit(rest[train], labels[train])
        outside = directions.reject(probe.direction)
        if not float(outside.norm()) > 1e-9 * float(probe.direction.norm()):
            return NullspaceProbes(directions, tuple(aucs), tuple(p_values), True)
        score = (rest[~train] @ (outside / outside.norm()))[:, None]
        aucs.append(float(auc(score, labels[~train])[0]))
        null = permuted_auc(score, labels[~train], passages[~train], None, draws, generator)[:, 0]
        p_values.append(float(upper_p_values(torch.tensor([aucs[-1]]).double(), null)[0]))
        if p_values[-1] > level:
            return NullspaceProbes(directions, tuple(aucs), tuple(p_values), True)
        directions = directions.extend(outside[None])
    return NullspaceProbes(directions, tuple(aucs), tuple(p_values), False)


def shuffled_labels(
    labels: Bool[Tensor, " samples"], passages: Int[Tensor, " samples"], generator: torch.Generator
) -> Bool[Tensor, " samples"]:
    """The control of every probe: the labels of whole passages shuffled among them."""
    names, inside = passages.cpu().unique(return_inverse=True)
    truth = torch.zeros(len(names), dtype=torch.bool).scatter_(0, inside, labels.cpu())
    order = torch.randperm(len(names), generator=generator, device=generator.device)
    return truth[order.to(truth.device)][inside].to(labels.device)


def _half(
    labels: Bool[Tensor, " samples"], passages: Int[Tensor, " samples"], generator: torch.Generator
) -> Bool[Tensor, " samples"]:
    """True for the samples of half of the passages of each class."""
    first_half = torch.zeros_like(labels)
    for each in (True, False):
        names = passages[labels == each].unique()
        if len(names) < 4:
            raise ValueError(f"got {len(names)} passages of one class; expected at least 4; read more text")
        order = torch.randperm(len(names), generator=generator, device=generator.device)
        picked = names[order.to(names.device)[: len(names) // 2]]
        first_half |= (labels == each) & torch.isin(passages, picked)
    return first_half

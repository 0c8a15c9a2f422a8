"""Fitting interventions to two classes of activations: affine editing, least-squares erasure, a steering plane."""

import importlib
import importlib.util

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.interventions.edits import Affine, Erase


def affine_edit(
    harmful: Float[Tensor, "n d_model"], harmless: Float[Tensor, "m d_model"], strength: float = 0.0
) -> Affine:
    """Affine concept editing (arXiv 2411.09003) fitted to activations of one place.

    h - P (h - mean of harmless) + strength * (mean of harmful - mean of harmless), P on the difference of means.
    Strength 0 gives every activation the harmless class's part along the direction, strength 1 the harmful class's.

    Raises:
        ValueError: the two means are equal.
    """
    reference = harmless.double().mean(dim=0)
    difference = harmful.double().mean(dim=0) - reference
    if not bool(difference.norm() > 0):
        raise ValueError("got two classes with the same mean; expected different ones; read them at another place")
    return Affine(difference[None].float(), reference.float(), difference.float(), strength)


def least_squares_erasure(harmful: Float[Tensor, "n d_model"], harmless: Float[Tensor, "m d_model"]) -> Erase:
    """The least change after which no linear classifier tells the classes apart: LEACE (Belrose et al. 2023).

    Fitted by the package `concept-erasure`, an extra of this one.

    Raises:
        ValueError: the package is not installed, or a class has fewer than two samples.
    """
    if importlib.util.find_spec("concept_erasure") is None:
        raise ValueError("got no package concept_erasure; expected it for LEACE; pip install 'mi-ortho[leace]'")
    if min(len(harmful), len(harmless)) < 2:
        raise ValueError(
            f"got {len(harmful)} and {len(harmless)} samples; expected at least 2 of each; read more prompts"
        )
    package = importlib.import_module("concept_erasure")
    x = torch.cat([harmful, harmless]).double()
    labels = torch.cat([torch.ones(len(harmful)), torch.zeros(len(harmless))]).long().to(x.device)
    # the package's default shrinks the covariance, after which the classes' means would not be equal exactly
    fitted = package.LeaceFitter.fit(x, labels, shrinkage=False).eraser
    return Erase(fitted.proj_left.mT.float(), fitted.proj_right.float(), fitted.bias.float())


def steering_plane(first: Float[Tensor, " d_model"], others: Float[Tensor, "n d_model"]) -> Float[Tensor, "2 d_model"]:
    """The plane of angular steering (arXiv 2510.26243): the feature direction, and the first principal component of the
    candidate directions made orthogonal to it. Orthonormal rows.

    Used with `RotateTo` at block inputs (`at_every(model, RotateTo(plane, angle), kinds=("resid_pre",))`), this differs
    from the published method in the place. That one turns the outputs of the normalisation modules before attention and
    MLP of every layer, so a block reads turned values while the residual stream keeps what it held. Here the stream
    itself is turned before every block: the part in the plane stays turned for all later layers, and, the stream's norm
    being kept, the normalisation scales it as it scaled the original. The feature direction here is the selected
    difference of means; the published one is the candidate most alike to all others.

    Raises:
        ValueError: all other directions lie along the first one.
    """
    unit = torch.nn.functional.normalize(first.double(), dim=0)
    rows = torch.nn.functional.normalize(others.double(), dim=-1)
    spread = rows - rows.mean(dim=0)
    rest = spread - (spread @ unit)[:, None] * unit
    if not bool(rest.norm() > 1e-6 * rows.norm()):
        raise ValueError(
            "got directions that all lie along the first; expected others for a plane; add candidates, or "
            "choose the second axis yourself"
        )
    second = torch.linalg.svd(rest, full_matrices=False)[2][0]
    second = second if bool(rows.sum(dim=0) @ second >= 0) else -second  # the sign of a principal component is free
    return torch.stack([unit, second]).float()

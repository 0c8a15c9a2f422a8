"""Orthonormal sets to compare a family with: as many vectors, but drawn without knowing the behaviour."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.interventions.subspace import orthonormal_rows

LEADING = 0.95  # share of the variance that the leading principal components hold, unless the set needs more of them


def isotropic_set(n: int, d_model: int, generator: torch.Generator) -> Float[Tensor, "n d_model"]:
    """A uniformly random orthonormal set: where a family would lie by chance in the whole space."""
    _require_room(n, d_model, "d_model")
    return orthonormal_rows(_normal(n, d_model, generator))


def covariance_set(
    covariance: Float[Tensor, "d_model d_model"], n: int, generator: torch.Generator
) -> Float[Tensor, "n d_model"]:
    """Draws from a Gaussian with this covariance, made orthonormal one after the other, as a family is.

    The rows come in random order, so that each is a typical member of the set: the first draw keeps its direction, the
    later ones only what is orthogonal to those before.
    """
    return _covariance_set(*_principal(covariance), n, generator)


def _covariance_set(
    scales: Float[Tensor, " d_model"], axes: Float[Tensor, "d_model d_model"], n: int, generator: torch.Generator
) -> Float[Tensor, "n d_model"]:
    positive = scales > 1e-12 * scales.max()
    _require_room(n, int(positive.sum()), "directions of positive variance")
    samples = (_normal(n, int(positive.sum()), generator) * scales[positive].sqrt()) @ axes[positive]
    return orthonormal_rows(samples)[torch.randperm(n, generator=generator, device=generator.device)]


def rotated_set(
    covariance: Float[Tensor, "d_model d_model"], n: int, generator: torch.Generator, *, leading: float = LEADING
) -> Float[Tensor, "n d_model"]:
    """A uniformly random orthonormal set inside the leading principal components.

    As many components are taken as hold the share `leading` of the variance, and at least n. After the rotation no
    vector is itself a principal component, and in expectation all are equally present in activations.
    """
    return _rotated_set(*_principal(covariance), n, generator, leading)


def _rotated_set(
    scales: Float[Tensor, " d_model"],
    axes: Float[Tensor, "d_model d_model"],
    n: int,
    generator: torch.Generator,
    leading: float = LEADING,
) -> Float[Tensor, "n d_model"]:
    _require_room(n, len(axes), "d_model")
    count = int((scales.cumsum(0) < leading * scales.sum()).sum()) + 1
    return isotropic_set(n, max(n, min(count, len(axes))), generator) @ axes[: max(n, min(count, len(axes)))]


def null_sets(
    covariance: Float[Tensor, "d_model d_model"], n: int, draws: int, generator: torch.Generator
) -> Mapping[str, Float[Tensor, "draws n d_model"]]:
    """`draws` sets of each kind, by name: isotropic, covariance, rotated; float32."""
    if draws < 1:
        raise ValueError(f"got {draws} sets; expected at least 1; raise it")
    scales, axes = _principal(covariance)  # once: on a wide model it costs more than all the draws
    kinds = {
        "isotropic": lambda: isotropic_set(n, len(covariance), generator),
        "covariance": lambda: _covariance_set(scales, axes, n, generator),
        "rotated": lambda: _rotated_set(scales, axes, n, generator),
    }
    return {name: torch.stack([one().float() for _ in range(draws)]) for name, one in kinds.items()}


def _principal(
    covariance: Float[Tensor, "d_model d_model"],
) -> tuple[Float[Tensor, " d_model"], Float[Tensor, "d_model d_model"]]:
    """Variances and axes (rows), largest first."""
    if not bool(torch.isfinite(covariance).all()) or not float(covariance.trace()) > 0:
        raise ValueError("got a covariance that is not finite or all zero; expected one of real activations; read text")
    scales, axes = torch.linalg.eigh(covariance.double())
    return scales.flip(0).clamp_min(0), axes.mT.flip(0)


def _normal(n: int, d: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
    return torch.randn(n, d, generator=generator, device=generator.device, dtype=torch.float64)


def _require_room(n: int, d: int, what: str) -> None:
    if not 1 <= n <= d:
        raise ValueError(f"got n={n} orthonormal vectors; expected 1 to {d}, the {what}; take fewer vectors")

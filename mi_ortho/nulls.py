"""Null models: what a family of orthogonal vectors would look like if nothing interesting were going on."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.subspace import Subspace


@dataclass(frozen=True, eq=False)
class LinearNull:
    """The family MELBO-ortho finds, by theory, on a linear map.

    Attributes:
        losses: relative loss L_k of vector k, shape (k,), never decreasing.
        norms: |theta_k|, shape (k,).
        vectors: the vectors themselves, shape (k, d_model).
    """

    losses: Float[Tensor, " k"]
    norms: Float[Tensor, " k"]
    vectors: Float[Tensor, "k d_model"]


def linear_null(
    jacobian: Float[Tensor, "m d_model"], base: Float[Tensor, " d_model"], n: int, *, tolerance: float = 1e-7
) -> LinearNull:
    """Predict the whole family from the Jacobian: decides whether the measured one needs anything beyond linearity.

    On z(0) + J theta every optimal vector is a conjugate-gradient residual of (J'J)^-1 x = base. It is therefore a
    multiple of the next Lanczos vector q_k of (J'J)^-1 started at the base, and the multiple is a scalar least-squares
    problem: theta_k = q_k <J q_k, J base> / |J q_k|^2. Computed in float64 with full reorthogonalisation.

    Args:
        jacobian: J, outputs by d_model, at the point to linearise at (0, or averaged along the path to the base).
        base: the base vector.
        n: how many vectors to predict; fewer are returned when the Krylov space ends.
        tolerance: singular values below `tolerance` times the largest count as the null space, which is left out.

    Raises:
        ValueError: J base = 0, so there is nothing to reproduce.
    """
    _, singular, right = torch.linalg.svd(jacobian.double(), full_matrices=False)
    kept = singular > tolerance * singular.max().clamp_min(torch.finfo(torch.float64).tiny)
    singular, right = singular[kept], right[kept]
    start = right @ base.double()
    effect = (singular * start).norm()
    if not effect > 0:
        raise ValueError("got a base vector that the Jacobian maps to 0; expected an effect; take another base")
    lanczos = _lanczos(singular[-1] ** 2 / singular**2, start, n + 1)[1:]
    images = lanczos * singular
    vectors = lanczos * (images @ (singular * start) / images.square().sum(-1))[:, None]
    losses = (vectors * singular - singular * start).norm(dim=-1) / effect
    return LinearNull(losses, vectors.norm(dim=-1), vectors @ right)


def _lanczos(diagonal: Float[Tensor, " d"], start: Float[Tensor, " d"], n: int) -> Float[Tensor, "k d"]:
    """Orthonormal Krylov basis of a diagonal operator, reorthogonalised, until it ends."""
    found = Subspace((start / start.norm())[None])
    while len(found) < min(n, len(diagonal)):
        image = diagonal * found.basis[-1]
        rest = found.reject(image)
        if rest.norm() <= 1e-10 * image.norm():
            break
        found = found.extend(rest[None])
    return found.basis


def capacity_bound(radius: float, norm: float, loss: float, efficiency: float = 1.0) -> float:
    """The most orthogonal vectors a linear response allows, whatever the algorithm and the order.

    N <= (norm / radius)^2 / ((1 - loss)^2 efficiency^2): more vectors than this at that norm and relative loss, and the
    response is not linear. From the mean of N orthogonal vectors, which is short (norm / sqrt N) and yet must work.

    Args:
        radius: norm of the base vector.
        norm: largest norm among the family.
        loss: largest relative loss among the family, below 1.
        efficiency: |J base| / (sigma_max |base|), 1 for a base that is optimal for the linear map.

    >>> round(capacity_bound(7, 20, 0.0), 1)
    8.2
    """
    if not (radius > 0 and norm > 0 and 0 <= loss < 1 and 0 < efficiency <= 1):
        raise ValueError(
            f"got radius={radius}, norm={norm}, loss={loss}, efficiency={efficiency}; "
            "expected positive norms, 0 <= loss < 1 and 0 < efficiency <= 1"
        )
    return (norm / radius) ** 2 / ((1 - loss) ** 2 * efficiency**2)


def covariance_matched(
    activations: Float[Tensor, "samples d_model"], n: int, generator: torch.Generator
) -> Float[Tensor, "n d_model"]:
    """n random vectors drawn from a Gaussian with the covariance of real activations: the fair random direction.

    Isotropic random directions mostly point where activations never vary and are therefore too weak a control.
    """
    if len(activations) < 2:
        raise ValueError(f"got {len(activations)} activations; expected at least 2 for a covariance; read more text")
    centred = activations - activations.mean(0)
    weights = torch.randn(n, len(activations), generator=generator, device=generator.device)
    return (weights.to(centred) @ centred) / (len(activations) - 1) ** 0.5


def random_in_span(
    vectors: Float[Tensor, "k d_model"], n: int, generator: torch.Generator
) -> Float[Tensor, "n d_model"]:
    """n random combinations of an orthogonal family: isotropic inside its span, whatever the norms of the family."""
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    return torch.randn(n, len(vectors), generator=generator, device=generator.device).to(unit) @ unit


def with_norms(
    vectors: Float[Tensor, "n d_model"], norms: Float[Tensor, " n"]
) -> Float[Tensor, "n d_model"]:
    """The same directions with the given norms."""
    return torch.nn.functional.normalize(vectors, dim=-1) * norms[:, None]

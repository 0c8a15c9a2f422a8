"""The linear null: the family that a linear map would give, by theory and by the search itself; p-values by rank."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from math import isclose

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.derivatives.first import gauss_newton
from mi_ortho.elicitation import OrthoSettings, melbo_ortho
from mi_ortho.elicitation.objectives import LinearMap, match
from mi_ortho.elicitation.search import SearchResult, Status
from mi_ortho.interventions.subspace import Subspace


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

    Where the map ignores part of the base, the answer of least norm is taken each time: the base is a + b with J b = 0,
    the first vector is a - |a|^2 / |b|^2 b, which has exactly the base's effect, and those after it are the
    conjugate-gradient residuals of a.

    Args:
        jacobian: J, outputs by d_model, at the point to linearise at (0, or averaged along the path to the base).
        base: the base vector.
        n: how many vectors to predict; fewer are returned when the Krylov space ends.
        tolerance: singular values below `tolerance` times the largest, and a part of the base shorter than
            `tolerance` times its norm, count as zero.

    Raises:
        ValueError: entries that are not finite, n below 1, or J base = 0, so that there is nothing to reproduce.
    """
    if not (bool(torch.isfinite(jacobian).all()) and bool(torch.isfinite(base).all())):
        raise ValueError("got a Jacobian or a base with NaN or infinity; expected finite entries; measure them again")
    if n < 1:
        raise ValueError(f"got n={n}; expected at least 1; ask for as many vectors as the family has")
    _, singular, right = torch.linalg.svd(jacobian.double(), full_matrices=False)
    nonzero = singular > tolerance * singular.max().clamp_min(torch.finfo(torch.float64).tiny)
    singular, right = singular[nonzero], right[nonzero]
    start = right @ base.double()
    effect = (singular * start).norm()
    if not effect > 0:
        raise ValueError("got a base vector that the Jacobian maps to 0; expected an effect; take another base")
    exact = _through_the_null_space(base.double(), start @ right, tolerance)
    lanczos = _lanczos(singular[-1] ** 2 / singular**2, start, max(n - len(exact), 0) + 1)[1:]
    images = lanczos * singular
    vectors = lanczos * (images @ (singular * start) / images.square().sum(-1))[:, None]
    losses = (vectors * singular - singular * start).norm(dim=-1) / effect
    vectors = torch.cat([exact, vectors @ right])
    return LinearNull(torch.cat([torch.zeros(len(exact)).to(losses), losses]), vectors.norm(dim=-1), vectors)


def _through_the_null_space(
    base: Float[Tensor, " d_model"], row_part: Float[Tensor, " d_model"], tolerance: float
) -> Float[Tensor, "k d_model"]:
    """The shortest vector orthogonal to the base with all of its effect, where the map ignores part of the base."""
    null_part = base - row_part
    if null_part.norm() <= max(tolerance, 1e-12) * base.norm():
        return base.new_zeros(0, len(base))
    return (row_part - row_part.square().sum() / null_part.square().sum() * null_part)[None]


def _lanczos(diagonal: Float[Tensor, " d"], start: Float[Tensor, " d"], n: int) -> Float[Tensor, "k d"]:
    """Orthonormal Krylov basis of a diagonal operator, reorthogonalised, until it ends."""
    krylov = Subspace((start / start.norm())[None])
    while len(krylov) < min(n, len(diagonal)):
        image = diagonal * krylov.basis[-1]
        rest = krylov.reject(image)
        if rest.norm() <= 1e-10 * image.norm():
            break
        krylov = krylov.extend(rest[None])
    return krylov.basis


def linear_family(
    jacobian: Float[Tensor, "m d_model"],
    base: Float[Tensor, " d_model"],
    n: int,
    *,
    seed: int,
    settings: OrthoSettings | None = None,
) -> list[SearchResult]:
    """Run MELBO-ortho itself on the map J theta: decides what the optimiser, not the model, adds to a family.

    `linear_null` is the perfect optimum; a real search stops early, keeps a norm cap and starts from noise. Its losses
    and norms on the linear map, found with the same settings, are what the measured family is compared with.

    Args:
        jacobian: J, outputs by d_model. The offset z(0) plays no part.
        base: the base vector.
        n: how many vectors to find; fewer when the search keeps collapsing.
        seed: of the searches' starts; the measured family's own seed gives the same starts.
        settings: the measured family's own.

    Returns:
        The vectors that have an effect, in order; `loss` is relative to the base's effect J base.

    Raises:
        ValueError: n below 1 or a base without effect.
    """
    if n < 1:
        raise ValueError(f"got n={n}; expected at least 1; ask for as many vectors as the family has")
    goal = match(LinearMap(jacobian, jacobian.new_zeros(len(jacobian))), base)
    curvature = gauss_newton(goal, base, generator=torch.Generator(base.device).manual_seed(seed))
    searches = melbo_ortho(goal, base, seed=seed, settings=settings, curvature=curvature)
    sound = (result for result in searches if result.status not in (Status.COLLAPSED, Status.NONFINITE))
    return list(islice(sound, n))


def rank_p_value(value: float, null: Sequence[float]) -> float:
    """(1 + how many of the null's n values reach `value`) / (1 + n): the chance of a value this large under the null.

    Negate both arguments to ask for a value this small. The smallest p-value n draws can give is 1 / (n + 1). Values
    that differ by rounding count as equal, so that ties are the same on every machine.

    >>> rank_p_value(3.0, [1.0, 2.0, 4.0])
    0.5
    """
    if not null or value != value or any(other != other for other in null):
        raise ValueError(f"got value {value} and {len(null)} null values; expected numbers, and a null that has some")
    return (1 + sum(other >= value or isclose(other, value, rel_tol=1e-9) for other in null)) / (1 + len(null))

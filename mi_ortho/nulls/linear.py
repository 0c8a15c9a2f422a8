"""Null models: what a family of orthogonal vectors would look like if nothing interesting were going on."""

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
from mi_ortho.interventions.subspace import Subspace, cosine_matrix


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
    kept = singular > tolerance * singular.max().clamp_min(torch.finfo(torch.float64).tiny)
    singular, right = singular[kept], right[kept]
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
    base: Float[Tensor, " d_model"], seen: Float[Tensor, " d_model"], tolerance: float
) -> Float[Tensor, "k d_model"]:
    """The shortest vector orthogonal to the base with all of its effect, where the map ignores part of the base."""
    unseen = base - seen
    if unseen.norm() <= max(tolerance, 1e-12) * base.norm():
        return base.new_zeros(0, len(base))
    return (seen - seen.square().sum() / unseen.square().sum() * unseen)[None]


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
    sound = (found for found in searches if found.status not in (Status.COLLAPSED, Status.NONFINITE))
    return list(islice(sound, n))


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


def with_norms(vectors: Float[Tensor, "n d_model"], norms: Float[Tensor, " n"]) -> Float[Tensor, "n d_model"]:
    """The same directions with the given norms."""
    return torch.nn.functional.normalize(vectors, dim=-1) * norms[:, None]


def covariance_mixture(
    activations: Float[Tensor, "samples d_model"], n: int, generator: torch.Generator
) -> Float[Tensor, "n d_model"]:
    """n differences of two draws from the Gaussian with the mean and covariance of real activations.

    The baseline of Lee and Heimersheim 2024 (arXiv 2410.12555), which replaced directions from the activation that is
    perturbed to a random one: those contain the activation itself. The mean cancels, so the directions are distributed
    as `covariance_matched` ones; they are sqrt(2) longer, as long as real differences.
    """
    return covariance_matched(activations, n, generator) - covariance_matched(activations, n, generator)


def activation_mixture(
    activations: Float[Tensor, "samples d_model"], n: int, generator: torch.Generator
) -> Float[Tensor, "n d_model"]:
    """n differences of two real activations: decides whether anything beyond mean and covariance makes them strong."""
    if len(activations) < 2:
        raise ValueError(f"got {len(activations)} activations; expected at least 2 to subtract; read more text")
    device = generator.device
    first = torch.randint(len(activations), (n,), generator=generator, device=device)
    step = torch.randint(1, len(activations), (n,), generator=generator, device=device)
    return (
        activations[first.to(activations.device)]
        - activations[((first + step) % len(activations)).to(activations.device)]
    )


def mean_abs_cosine(vectors: Float[Tensor, "n d_model"]) -> float:
    """Mean |cosine| over all pairs of distinct rows.

    >>> mean_abs_cosine(torch.tensor([[1.0, 0.0], [3.0, 3.0]]))  # doctest: +ELLIPSIS
    0.7071...
    """
    if len(vectors) < 2:
        raise ValueError(f"got {len(vectors)} vectors; expected at least 2 to form a pair; give the whole family")
    return _mean_abs_cosine(vectors)


def _mean_abs_cosine(vectors: Tensor) -> float:
    cosines = cosine_matrix(vectors).abs()
    return float((cosines.sum() - cosines.diagonal().sum()) / (len(vectors) * (len(vectors) - 1)))


def random_cone(n: int, d_model: int, cosine: float, generator: torch.Generator) -> Float[Tensor, "n d_model"]:
    """n random unit vectors whose mean |cosine| is `cosine`: random but for how close they are to each other.

    Isotropic vectors that share one random direction, as strongly as the mean |cosine| needs; below the mean |cosine|
    of isotropic vectors they are instead pushed apart, towards the orthonormal family nearest to them (n <= d_model).
    A family whose spectrum or clusters differ from these has structure that its mean |cosine| does not tell.

    Raises:
        ValueError: fewer than 2 vectors, or a mean |cosine| that n vectors in d_model dimensions cannot have.
    """
    if n < 2 or not 0 <= cosine < 1:
        raise ValueError(f"got n={n}, mean |cosine| {cosine}; expected n >= 2 and a cosine in [0, 1); correct them")
    drawn = torch.randn(n + 1, d_model, generator=generator, device=generator.device, dtype=torch.float64)
    loose, shared = torch.nn.functional.normalize(drawn[:n], dim=-1), torch.nn.functional.normalize(drawn[n], dim=0)
    together = cosine >= _mean_abs_cosine(loose)
    if not together and n > d_model:
        raise ValueError(
            f"got n={n}, mean |cosine| {cosine:.3g} in {d_model} dimensions; expected at least "
            f"{mean_abs_cosine(loose):.3g}, that of isotropic vectors; raise it or take at most d_model vectors"
        )
    left, _, right = torch.linalg.svd(loose, full_matrices=False)
    goal = shared.expand_as(loose) if together else left @ right
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        near = (_mean_abs_cosine(torch.lerp(loose, goal, middle)) < cosine) == together
        low, high = (middle, high) if near else (low, middle)
    return torch.nn.functional.normalize(torch.lerp(loose, goal, high), dim=-1)


def rank_p_value(value: float, null: Sequence[float]) -> float:
    """(1 + how many of the null's values reach `value`) / (1 + n): the chance of one this large under the null.

    Negate both to ask for one this small. The smallest p-value n draws can give is 1 / (n + 1). Values that differ by
    rounding count as equal, so that a tie is one on every machine.

    >>> rank_p_value(3.0, [1.0, 2.0, 4.0])
    0.5
    """
    if not null or value != value or any(drawn != drawn for drawn in null):
        raise ValueError(f"got value {value} and {len(null)} null values; expected numbers, and a null that has some")
    return (1 + sum(drawn >= value or isclose(drawn, value, rel_tol=1e-9) for drawn in null)) / (1 + len(null))

"""The controls: random vectors that a family is compared with, and what every page calls them and draws them in."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.interventions.subspace import cosine_matrix

OTHER = "c7"  # the colour of a control that this version does not know


@dataclass(frozen=True)
class Control:
    """How a control is shown, on every page alike.

    Attributes:
        label: in words.
        colour: a colour of the pages, "c0" to "c7"; two controls share one only where no figure has both.
    """

    label: str
    colour: str


# by the name in records: vectors, sets of vectors, directions; then networks that stand beside the trained one
CONTROLS: Mapping[str, Control] = MappingProxyType(
    {
        "random_base": Control("a random base", "c1"),
        "random_base_displaced": Control("a random base that moves as much", "c0"),
        "isotropic": Control("random, isotropic", "c2"),
        "covariance": Control("random, covariance-matched", "c3"),
        "span": Control("random in the family's span", "c4"),
        "negated": Control("the vector negated, −θ", "c5"),
        "scaled_to_base": Control("scaled to the base's norm", "c6"),
        "mixed": Control("the family mixed within its span", "c4"),
        "mixture": Control("difference of two covariance-matched", "c3"),
        "rotated": Control("rotated principal components", "c4"),
        "random": Control("random directions", "c2"),
        "shuffled_labels": Control("shuffled labels", "c2"),
        "untrained": Control("untrained network", "c2"),
        "shuffled": Control("shuffled weights", "c3"),
    }
)


# families of their own: what their vectors keep is the random base's behaviour, what counts is the chosen base's
RANDOM_BASES = ("random_base", "random_base_displaced")


def control(name: str) -> Control:
    """How a control is shown; one that this version does not know goes by its name.

    >>> control("covariance").label, control("a_new_one")
    ('random, covariance-matched', Control(label='a new one', colour='c7'))
    """
    return CONTROLS.get(name, Control(name.replace("_", " "), OTHER))


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
    A family whose spectrum or clusters differ from these has structure beyond its mean |cosine|.

    Raises:
        ValueError: fewer than 2 vectors, or a mean |cosine| that n vectors in d_model dimensions cannot have.
    """
    if n < 2 or not 0 <= cosine < 1:
        raise ValueError(f"got n={n}, mean |cosine| {cosine}; expected n >= 2 and a cosine in [0, 1); correct them")
    normals = torch.randn(n + 1, d_model, generator=generator, device=generator.device, dtype=torch.float64)
    loose, shared = torch.nn.functional.normalize(normals[:n], dim=-1), torch.nn.functional.normalize(normals[n], dim=0)
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

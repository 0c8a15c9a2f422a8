"""How alike two layers are on the same samples: CKA, Procrustes, and the simplest map that carries one to the other."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

KNOWN = 1e-9  # of the largest singular value: below, a direction is rounding


def linear_cka(x: Float[Tensor, "samples d_x"], y: Float[Tensor, "samples d_y"]) -> float:
    """Linear centred kernel alignment, 0 to 1 (Kornblith et al. 2019): 1 when one is a scaled rotation of the other.

    Biased upwards with few samples: read it beside `linear_cka(x, y[permutation])`.

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    >>> round(linear_cka(x, -5 * x.flip(1) + 7), 6)
    1.0
    """
    x, y = _centre(x, y)
    if len(x) < min(x.shape[1], y.shape[1]):  # the same three numbers from the smaller products
        gram_x, gram_y = x @ x.mT, y @ y.mT
        return float((gram_x * gram_y).sum() / (gram_x.norm() * gram_y.norm()))
    return float((x.mT @ y).square().sum() / ((x.mT @ x).norm() * (y.mT @ y).norm()))


def procrustes_distance(x: Float[Tensor, "samples d_x"], y: Float[Tensor, "samples d_y"]) -> float:
    """What remains of y after the best translation, scaling and rotation of x, as a share of y: 0 equal, 1 unrelated.

    1 - |x' y|_*^2 for centred x and y of unit Frobenius norm, |.|_* the sum of singular values (Schoenemann 1966).
    """
    x, y = _centre(x, y)
    _, inner, _ = _cross(x / x.norm(), y / y.norm())
    return float((1 - torch.linalg.svdvals(inner).sum().square()).clamp(0, 1))


@dataclass(frozen=True, eq=False)
class AffineMap:
    """x -> (x - source) matrix + target."""

    matrix: Float[Tensor, "d_x d_y"]
    source: Float[Tensor, " d_x"]
    target: Float[Tensor, " d_y"]

    def __call__(self, x: Float[Tensor, "samples d_x"]) -> Float[Tensor, "samples d_y"]:
        return (x.double() - self.source) @ self.matrix + self.target


def fit_scaling(x: Float[Tensor, "samples d_model"], y: Float[Tensor, "samples d_model"]) -> AffineMap:
    """The best y = s x + t with a number s: both layers use the same directions, nothing has to be learned."""
    a, b = _centre(x, y)
    matrix = torch.eye(a.shape[1]).to(a) * ((a * b).sum() / a.square().sum())
    return AffineMap(matrix, x.double().mean(0), y.double().mean(0))


def fit_rotation(x: Float[Tensor, "samples d_model"], y: Float[Tensor, "samples d_model"]) -> AffineMap:
    """The best y = s x Q + t with orthogonal Q: the same shape, other directions.

    Only the part of Q that the samples determine is used; what lies outside of it is dropped.
    """
    a, b = _centre(x, y)
    basis_a, inner, basis_b = _cross(a, b)
    left, singular, right = torch.linalg.svd(inner, full_matrices=False)
    determined = singular > KNOWN * singular[0]
    matrix = (basis_a.mT @ left[:, determined]) @ (right[determined] @ basis_b) * (singular.sum() / a.square().sum())
    return AffineMap(matrix, x.double().mean(0), y.double().mean(0))


def fit_linear(x: Float[Tensor, "samples d_x"], y: Float[Tensor, "samples d_y"], *, ridge: float = 0.1) -> AffineMap:
    """The best y = x M + t, with a ridge of `ridge` times the mean variance of x: a learned translator."""
    a, b = _centre(x, y)
    few = len(a) < a.shape[1]  # the same solution from the smaller of the two products
    gram = a @ a.mT if few else a.mT @ a
    penalty = ridge * (a.square().sum() / a.shape[1]) * torch.eye(len(gram)).to(gram)
    if few:  # centred samples add up to 0, so without a ridge their products cannot be inverted
        matrix = a.mT @ (torch.linalg.pinv(gram + penalty, hermitian=True) @ b)
    else:
        matrix = torch.linalg.solve(gram + penalty, a.mT @ b)
    return AffineMap(matrix, x.double().mean(0), y.double().mean(0))


def explained_share(
    carry: Callable[[Float[Tensor, "samples d_x"]], Float[Tensor, "samples d_y"]],
    x: Float[Tensor, "samples d_x"],
    y: Float[Tensor, "samples d_y"],
) -> float:
    """Share of the variance of y that the map predicts from x (R²); below 0 when the mean of y does better.

    Use samples the map was not fitted on.
    """
    _, centred = _centre(x, y)
    return float(1 - (y.double() - carry(x)).square().sum() / centred.square().sum())


def split_half_cka(x: Float[Tensor, "samples d_model"], generator: torch.Generator) -> float:
    """CKA between two halves of one layer's coordinates after a random rotation: an upper reference for two layers."""
    if x.shape[1] < 2:
        raise ValueError(f"got width {x.shape[1]}; expected at least 2 to split; read the residual stream")
    turned = x.double() @ random_rotation(x.shape[1], generator).to(x.device)
    half = x.shape[1] // 2
    return linear_cka(turned[:, :half], turned[:, half : 2 * half])


def random_rotation(d_model: int, generator: torch.Generator) -> Float[Tensor, "d_model d_model"]:
    """An orthogonal matrix drawn uniformly (Mezzadri 2007), float64."""
    return _random_frame(d_model, d_model, generator)


def randomly_turned(
    x: Float[Tensor, "samples d_model"], generator: torch.Generator
) -> Float[Tensor, "samples d_model"]:
    """The samples after a rotation drawn uniformly, float64; of few samples only the part that moves them is drawn."""
    d_model = x.shape[1]
    if len(x) >= d_model:
        return x.double() @ random_rotation(d_model, generator).to(x.device)
    inner, _ = _thin(x.double())
    return inner @ _random_frame(d_model, inner.shape[1], generator).mT.to(x.device)


def _random_frame(d_model: int, count: int, generator: torch.Generator) -> Float[Tensor, "d_model count"]:
    """Orthonormal columns drawn uniformly."""
    gaussian = torch.randn(d_model, count, generator=generator, device=generator.device, dtype=torch.float64)
    columns, upper = torch.linalg.qr(gaussian)
    return columns * upper.diagonal().sign()


def _thin(x: Float[Tensor, "samples d"]) -> tuple[Float[Tensor, "samples rank"], Float[Tensor, "rank d"]]:
    """Coordinates in an orthonormal basis of their span, and that basis; the identity where they fill the space."""
    if len(x) >= x.shape[1]:
        return x, torch.eye(x.shape[1]).to(x)
    basis, coordinates = torch.linalg.qr(x.mT)
    return coordinates.mT, basis.mT


def _cross(
    x: Float[Tensor, "samples d_x"], y: Float[Tensor, "samples d_y"]
) -> tuple[Float[Tensor, "rank_x d_x"], Float[Tensor, "rank_x rank_y"], Float[Tensor, "rank_y d_y"]]:
    """The product x' y in the bases of both spans: its singular values cost the samples' number cubed at most."""
    (inner_x, basis_x), (inner_y, basis_y) = _thin(x), _thin(y)
    return basis_x, inner_x.mT @ inner_y, basis_y


def _centre(
    x: Float[Tensor, "samples d_x"], y: Float[Tensor, "samples d_y"]
) -> tuple[Float[Tensor, "samples d_x"], Float[Tensor, "samples d_y"]]:
    x, y = x.double() - x.double().mean(0), y.double() - y.double().mean(0)
    if not (x.norm() > 0 and y.norm() > 0):
        raise ValueError(
            "got activations that do not vary over samples (or NaN); expected different samples; "
            "leave out the embedding of the last token, which is the same for every prompt"
        )
    return x, y

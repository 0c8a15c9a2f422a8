"""Do layers write along shared directions? Overlap of the spaces their output matrices write to, against chance."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.geometry.similarity import random_rotation
from mi_ortho.interventions.subspace import Subspace, subspace_overlap


def write_space(matrix: Float[Tensor, "inputs d_model"], k: int) -> Subspace:
    """The k orthonormal directions of the residual stream that a matrix writes to most, float64.

    These are the leading right singular vectors of `inputs -> d_model`, the leading left ones of its transpose.
    """
    if not 1 <= k <= min(matrix.shape):
        raise ValueError(
            f"got k={k} directions of a {matrix.shape[0]} by {matrix.shape[1]} matrix; expected 1 to "
            f"{min(matrix.shape)}; choose a smaller k"
        )
    return Subspace(torch.linalg.svd(matrix.double(), full_matrices=False)[2][:k])


def overlap_matrix(spaces: Sequence[Subspace]) -> Float[Tensor, "n n"]:
    """`subspace_overlap` of every pair."""
    return torch.tensor([[subspace_overlap(a, b) for b in spaces] for a in spaces], dtype=torch.float64)


def mean_of_pairs(matrix: Float[Tensor, "n n"]) -> float:
    """Mean over pairs of different rows of a symmetric matrix."""
    n = len(matrix)
    if n < 2:
        raise ValueError(f"got a matrix of {n} rows; expected at least two; compare at least two layers")
    return float((matrix.sum() - matrix.diagonal().sum()) / (n * (n - 1)))


def chance_overlaps(d_model: int, k: int, n: int, draws: int, generator: torch.Generator) -> Float[Tensor, " draws"]:
    """Mean overlap between n spaces of k directions, each turned by an independent random rotation: the null."""
    means = []
    for _ in range(draws):
        spaces = [Subspace(random_rotation(d_model, generator)[:k]) for _ in range(n)]
        means.append(mean_of_pairs(overlap_matrix(spaces)))
    return torch.tensor(means, dtype=torch.float64)

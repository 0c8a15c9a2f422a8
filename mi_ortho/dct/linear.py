"""Linear deep causal transcoding: the singular directions of the Jacobian at 0."""

import torch

from mi_ortho.dct.factors import Factors
from mi_ortho.dct.steps import check, projected_rows, require_moving
from mi_ortho.derivatives.means import Maps, as_maps
from mi_ortho.derivatives.spectra import Solver, dense_singular, linearise


def linear_dct(
    z: Maps,
    k: int,
    *,
    radius: float,
    generator: torch.Generator,
    solve: Solver = dense_singular,
    dtype: torch.dtype = torch.float32,
    chunk: int = 64,
) -> Factors:
    """The k largest singular triplets of the Jacobian at 0: the best rank-k linear account of z(theta) - z(0).

    v are right singular vectors (orthonormal, largest singular value first), u left ones, alpha = radius * sigma. The
    published code takes columns of the matrix whose rows are the right singular vectors, see `published_linear_dct`.

    Args:
        z: one map, or several whose mean is meant; their graphs are never alive together.
        k: number of factors, at most min(m, d_model).
        radius: norm of the steering vectors; only the scale of alpha depends on it.
        generator: source of randomness of the solver; its device is where the vectors live.
        solve: `dense_singular`, `randomised_singular` or `krylov_singular`; the last two where k is far below d_model.
        dtype: of the steering vectors; the blocks of a slice keep their own.
        chunk: rows per pass.

    Memory: the Jacobian (m by d_model) with the dense solver, else a few blocks of k rows; `chunk` rows of one graph.

    Raises:
        ValueError: k too large, a Jacobian that is 0 or not finite, a radius that is not positive.
    """
    zero = check(z, k, radius, generator, dtype)
    triplets = solve(linearise(z, zero, chunk=chunk), k, generator)
    require_moving(triplets.values[None], "singular values")
    return Factors(triplets.right, triplets.left, radius * triplets.values, radius, "linear", meta={"method": "linear"})


def projected_linear_dct(
    z: Maps,
    k: int,
    *,
    radius: float,
    generator: torch.Generator,
    projections: int = 32,
    dtype: torch.dtype = torch.float32,
    chunk: int = 64,
) -> Factors:
    """The k leading right singular vectors of W J with W random, `projections` by m: linear factors for fewer passes.

    v are orthonormal; u = J v / |J v| and alpha = radius * |J v|. The published code divides z(radius v) - z(0) by its
    norm instead, which is not linear. `projections` + k backward passes a map; memory as `linear_dct` without J.

    Raises:
        ValueError: k above `projections`, m or d_model, or what `linear_dct` raises.
    """
    zero = check(z, k, radius, generator, dtype)
    operator = linearise(z, zero, chunk=chunk)
    rank = min(projections, operator.m)
    if k > rank:
        raise ValueError(
            f"got k={k}; expected at most {rank}: {projections} random combinations of {operator.m} "
            "outputs have no more right singular vectors; raise projections or ask for fewer"
        )
    rows = projected_rows(as_maps(z), zero, projections, generator, chunk)
    inputs = torch.linalg.svd(rows, full_matrices=False)[2][:k]
    images = operator.forward(inputs)
    sizes = images.norm(dim=-1)
    outputs = torch.nn.functional.normalize(images, dim=-1)
    return Factors(inputs, outputs, radius * sizes, radius, "linear", meta={"method": "projected linear"})

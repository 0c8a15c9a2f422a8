"""The spectrum of a Jacobian without forming it: top singular triplets with error bounds, and how two overlap."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.derivatives.first import jacobian, pullback, pushforward
from mi_ortho.derivatives.means import Maps, as_maps, outputs, require_equal_outputs
from mi_ortho.elicitation.objectives import ActivationMap
from mi_ortho.interventions.subspace import Subspace, orthonormal_rows, principal_angles, reject_twice


@dataclass(frozen=True, eq=False)
class Linearisation:
    """The Jacobian J of an activation map at one point, as an operator: only products with it are computed.

    Build it with `linearise(z, at)`. A product with n rows costs n backward passes a map and holds `chunk` of them.

    Attributes:
        maps: the map, or several whose mean is meant.
        at: the point.
        m: number of outputs of z, flattened.
        chunk: rows per pass.
    """

    maps: tuple[ActivationMap, ...]
    at: Float[Tensor, " d_model"]
    m: int
    chunk: int = 64

    def forward(self, tangents: Float[Tensor, "n d_model"]) -> Float[Tensor, "n m"]:
        """Rows J t."""
        return self._mean([pushforward(z, self.at, tangents, chunk=self.chunk) for z in self.maps])

    def back(self, cotangents: Float[Tensor, "n m"]) -> Float[Tensor, "n d_model"]:
        """Rows c J."""
        return self._mean([pullback(z, self.at, cotangents, chunk=self.chunk) for z in self.maps])

    def dense(self) -> Float[Tensor, "m d_model"]:
        """J itself."""
        return self._mean([jacobian(z, self.at, chunk=self.chunk) for z in self.maps])

    def _mean(self, each: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(each)).mean(0) if len(each) > 1 else each[0]


def linearise(z: Maps, at: Float[Tensor, " d_model"], *, chunk: int = 64) -> Linearisation:
    """The Jacobian of z at a point as an operator; of the mean where z is several maps."""
    maps = as_maps(z)
    require_equal_outputs(maps, at)
    return Linearisation(maps, at, outputs(maps[0], at), chunk)


@dataclass(frozen=True, eq=False)
class Singular:
    """Singular triplets, largest first, with the residuals that bound their errors.

    Attributes:
        values: sigma, shape (k,).
        right: v, orthonormal rows in the space of steering vectors, shape (k, d_model).
        left: u, orthonormal rows in the space of outputs, shape (k, m).
        right_residual: |J v - sigma u| of each triplet, shape (k,).
        left_residual: |J'u - sigma v| of each triplet, shape (k,).
    """

    values: Float[Tensor, " k"]
    right: Float[Tensor, "k d_model"]
    left: Float[Tensor, "k m"]
    right_residual: Float[Tensor, " k"]
    left_residual: Float[Tensor, " k"]

    @property
    def bound(self) -> Float[Tensor, " k"]:
        """For each value the distance within which J certainly has a singular value.

        (u, v) / sqrt 2 is an approximate eigenvector of the symmetric [[0, J], [J', 0]], whose eigenvalues are plus and
        minus the singular values; some eigenvalue is never farther than the residual's norm (Parlett 1980, theorem
        4.5.1). It says nothing about values that were missed altogether.
        """
        return ((self.right_residual.square() + self.left_residual.square()) / 2).sqrt()


Solver = Callable[[Linearisation, int, torch.Generator], Singular]


def dense_singular(operator: Linearisation, k: int, generator: torch.Generator) -> Singular:
    """The k largest triplets from the full Jacobian: exact to rounding, min(m, d_model) backward passes.

    Raises:
        ValueError: k above min(m, d_model), or a Jacobian that is not finite.
    """
    _require_rank(operator, k)
    matrix = operator.dense()
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return _with_residuals(values[:k], right[:k], left.mT[:k], matrix @ right[:k].mT, left.mT[:k] @ matrix)


def randomised_singular(
    operator: Linearisation, k: int, generator: torch.Generator, *, iterations: int = 4, extra: int = 8
) -> Singular:
    """The k largest triplets by randomised subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4).

    A random block of k + extra rows goes through J and J' `iterations` times, orthonormalised after every product, and
    J is solved exactly inside what remains. (k + extra) (2 iterations + 3) backward passes, the last two products being
    the residuals. Good where the spectrum falls; look at `bound` where it is flat.

    Raises:
        ValueError: k above min(m, d_model), or products that are not finite.
    """
    _require_rank(operator, k)
    width = len(operator.at)
    block = min(k + extra, width, operator.m)
    right = _random_rows(operator, block, generator)
    for _ in range(iterations):
        right = orthonormal_rows(_finite(operator, operator.back(orthonormal_rows(operator.forward(right)))))
    return _rayleigh_ritz(operator, right, k)


def krylov_singular(
    operator: Linearisation, k: int, generator: torch.Generator, *, depth: int = 4, extra: int = 4
) -> Singular:
    """The k largest triplets by block Krylov iteration (Musco and Musco 2015).

    All blocks X, J'J X, .. (J'J)^depth X of one random block X are kept, orthonormalised as they come, and J is solved
    exactly inside their span: the same products as `randomised_singular` with a far better result on flat spectra, for
    depth + 1 times the memory and one product with all of them.

    Raises:
        ValueError: k above min(m, d_model), or products that are not finite.
    """
    _require_rank(operator, k)
    width = len(operator.at)
    block = min(k + extra, width, operator.m)
    newest = _random_rows(operator, block, generator)
    basis = newest
    for _ in range(depth):
        image = _finite(operator, operator.back(operator.forward(newest)))
        newest = _new_directions(basis, image)[: width - len(basis)]
        if not len(newest):
            break
        basis = torch.cat([basis, newest])
    return _rayleigh_ritz(operator, basis, k)


def _new_directions(basis: Float[Tensor, "b d"], image: Float[Tensor, "n d"]) -> Float[Tensor, "r d"]:
    """Orthonormal rows for what the image adds to the basis; fewer rows where it adds nothing."""
    outside = reject_twice(basis, image)
    _, size, rows = torch.linalg.svd(outside, full_matrices=False)
    kept = size > 100 * torch.finfo(image.dtype).eps * image.norm(dim=-1).max()
    rows = reject_twice(basis, rows[kept])
    return orthonormal_rows(rows) if len(rows) else rows


def _rayleigh_ritz(operator: Linearisation, basis: Float[Tensor, "b d"], k: int) -> Singular:
    images = _finite(operator, operator.forward(basis))
    left, values, mix = torch.linalg.svd(images.mT, full_matrices=False)
    right, left, values = (mix @ basis)[:k], left.mT[:k], values[:k]
    return _with_residuals(values, right, left, (mix @ images)[:k].mT, operator.back(left))


def _with_residuals(
    values: Float[Tensor, " k"], right: Tensor, left: Tensor, forward: Float[Tensor, "m k"], back: Tensor
) -> Singular:
    off_right = (forward.mT - values[:, None] * left).norm(dim=-1)
    off_left = (back - values[:, None] * right).norm(dim=-1)
    return Singular(values, right.contiguous(), left.contiguous(), off_right, off_left)


def _random_rows(operator: Linearisation, n: int, generator: torch.Generator) -> Tensor:
    rows = torch.randn(n, len(operator.at), generator=generator, device=generator.device)
    return orthonormal_rows(rows.to(operator.at))


def _require_rank(operator: Linearisation, k: int):
    most = min(operator.m, len(operator.at))
    if not 1 <= k <= most:
        raise ValueError(
            f"got k={k}; expected 1 to {most}: a Jacobian of {operator.m} outputs by {len(operator.at)} "
            "inputs has no more singular vectors; ask for fewer"
        )


def _finite(operator: Linearisation, rows: Tensor) -> Tensor:
    if not torch.isfinite(rows).all():
        norm = float(operator.at.norm())
        raise ValueError(
            f"got Jacobian products with NaN or infinity at a vector of norm {norm:.3g}; expected finite; "
            "take a smaller vector or float32 blocks"
        )
    return rows


@dataclass(frozen=True, eq=False)
class Overlap:
    """How far two subspaces coincide, beside random subspaces of the same sizes.

    Attributes:
        angles: principal angles in radians, smallest first, shape (angles,).
        share: mean squared cosine of the angles: 1 for one inside the other, 0 for orthogonal.
        null: the share of pairs of random subspaces, shape (samples,).
        p_value: share of {measured, null} that is at least as large as the measured one.
    """

    angles: Float[Tensor, " angles"]
    share: float
    null: Float[Tensor, " samples"]
    p_value: float


def overlap(a: Subspace, b: Subspace, *, generator: torch.Generator, samples: int = 200) -> Overlap:
    """Principal angles between two subspaces against random subspaces of the same sizes.

    Only the relative position counts, so one of them is fixed and the other is drawn uniformly. For sizes j >= k in d
    dimensions the null has mean share j / d. For the top right singular subspaces of the Jacobians to the next and to
    the last layer it tells whether the model is sensitive to the same directions at both depths.

    Raises:
        ValueError: an empty subspace, unequal widths, or no samples.
    """
    if not (len(a) and len(b)) or a.d_model != b.d_model or samples < 1:
        raise ValueError(
            f"got subspaces of {len(a)} and {len(b)} directions in {a.d_model} and {b.d_model} dimensions "
            f"and samples={samples}; expected some directions each, equal widths and at least one sample"
        )
    fewer = min(len(a), len(b))
    share = float((a.basis @ b.basis.mT).square().sum()) / fewer
    frames = (torch.randn(b.d_model, len(b), generator=generator, device=generator.device) for _ in range(samples))
    cosines = (a.basis @ torch.linalg.qr(frame.to(a.basis))[0] for frame in frames)
    null = torch.stack([block.square().sum() for block in cosines]).cpu() / fewer
    return Overlap(principal_angles(a, b), share, null, (1 + int((null >= share).sum())) / (1 + samples))

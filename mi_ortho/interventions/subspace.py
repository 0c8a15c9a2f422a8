"""Orthonormal subspaces of the residual stream: project onto them, stay orthogonal to them, extend them."""

import math
from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Subspace:
    """A linear subspace held as an orthonormal basis.

    Args:
        basis: orthonormal rows, shape (k, d_model); k may be 0. Use `span` or `extend` to build one from vectors that
            are not orthonormal yet.
        checked: how many leading rows are known to be orthonormal already; the others are checked here.

    Raises:
        ValueError: the rows are not orthonormal to 1e-4.

    >>> line = Subspace(torch.tensor([[1.0, 0.0, 0.0]]))
    >>> line.reject(torch.tensor([2.0, 3.0, 0.0])).tolist()
    [0.0, 3.0, 0.0]
    """

    basis: Float[Tensor, "k d_model"]
    checked: int = 0

    def __post_init__(self):
        newest = self.basis[self.checked :]
        if not len(newest):
            return
        gram = newest @ self.basis.mT
        gram[:, self.checked :].diagonal().sub_(1)
        if not gram.abs().max() < 1e-4:
            raise ValueError(
                f"got basis rows that differ from orthonormal by {gram.abs().max():.1e}; expected at most 1e-4; "
                "use span(vectors) to orthonormalise them"
            )

    def __len__(self) -> int:
        return self.basis.shape[0]

    @property
    def d_model(self) -> int:
        """Width of the space the subspace lies in."""
        return self.basis.shape[1]

    def project(self, x: Float[Tensor, "*rows {self.d_model}"]) -> Float[Tensor, "*rows {self.d_model}"]:
        """The part of each row inside the subspace."""
        return (x @ self.basis.mT) @ self.basis

    def reject(self, x: Float[Tensor, "*rows {self.d_model}"]) -> Float[Tensor, "*rows {self.d_model}"]:
        """The part of each row orthogonal to the subspace.

        Two passes ("twice is enough", Kahan and Parlett): one pass leaves a residue of relative size
        eps * |x| / |rest|, which is all of the result when x lies almost inside the subspace.
        """
        return reject_twice(self.basis, x)

    def extend(self, x: Float[Tensor, "n {self.d_model}"]) -> "Subspace":
        """The subspace spanned by this one and the rows of x, added one after the other.

        Raises:
            ValueError: a row is zero, not finite, or already inside the subspace to within rounding.
        """
        rows = torch.cat([self.basis, torch.zeros_like(x)])
        for index, row in enumerate(x, start=len(self)):
            rows[index] = _unit_outside(rows[:index], row, index - len(self))
        return Subspace(rows, checked=len(self))


def reject_twice(basis: Tensor, x: Tensor) -> Tensor:
    """`Subspace.reject` without shape checks, for inner loops."""
    once = x - (x @ basis.mT) @ basis
    return once - (once @ basis.mT) @ basis


def _unit_outside(
    basis: Float[Tensor, "k d_model"], row: Float[Tensor, " d_model"], index: int
) -> Float[Tensor, " d_model"]:
    outside = reject_twice(basis, row / row.norm())
    if not outside.norm() > 32 * torch.finfo(row.dtype).eps:
        raise ValueError(
            f"got row {index} of norm {float(row.norm()):.3g} whose part outside the subspace is "
            f"{float(outside.norm()):.1e} of it; expected a finite vector that is linearly independent of "
            f"the {len(basis)} basis rows; leave it out"
        )
    again = reject_twice(basis, outside / outside.norm())
    return again / again.norm()


def empty_subspace(d_model: int, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> Subspace:
    """The subspace {0}: rejecting it changes nothing."""
    return Subspace(torch.zeros(0, d_model, dtype=dtype, device=device))


def span(x: Float[Tensor, "n d_model"], *, tolerance: float = 1e-5) -> Subspace:
    """The span of the rows of x, whatever their rank.

    Args:
        x: any finite rows.
        tolerance: singular values below `tolerance` times the largest count as zero.

    >>> len(span(torch.tensor([[1.0, 0.0], [2.0, 0.0]])))
    1
    """
    if not torch.isfinite(x).all():
        raise ValueError("got rows with NaN or infinity; expected finite vectors; drop those rows first")
    _, singular, rows = torch.linalg.svd(x, full_matrices=False)
    largest = singular[:1].clamp_min(torch.finfo(x.dtype).tiny)
    return Subspace(rows[singular > tolerance * largest])


def orthonormal_rows(x: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
    """Gram-Schmidt in row order: row i of the result is the unit part of row i outside rows 0..i-1.

    Signs are those of Gram-Schmidt, so x = L Q with positive diagonal of L.
    """
    columns, upper = torch.linalg.qr(x.mT)
    signs = torch.where(upper.diagonal() < 0, -1.0, 1.0).to(x.dtype)
    return (columns * signs).mT.contiguous()


def principal_angles(a: Subspace, b: Subspace) -> Float[Tensor, " angles"]:
    """Angles in radians between two subspaces, smallest first (Bjorck and Golub 1973).

    Cosines resolve large angles and sines small ones; each angle is taken from whichever is accurate.
    """
    if len(a) < len(b):
        a, b = b, a
    cosines = torch.linalg.svdvals(einsum(a.basis, b.basis, "i d, j d -> i j")).clamp(0, 1)
    sines = torch.linalg.svdvals(a.reject(b.basis)).clamp(0, 1).flip(0)
    return torch.where(cosines**2 < 0.5, cosines.arccos(), sines.arcsin())


def cosine_matrix(x: Float[Tensor, "n d_model"]) -> Float[Tensor, "n n"]:
    """Cosines between all pairs of rows, in float64: every pair, signed, nothing skipped."""
    unit = torch.nn.functional.normalize(x.double(), dim=-1)
    return unit @ unit.mT


def subspace_overlap(a: Subspace, b: Subspace) -> float:
    """The mean squared cosine of the principal angles: 1 when the smaller lies in the larger.

    By chance it is the larger dimension over d_model.

    >>> subspace_overlap(Subspace(torch.eye(3)[:1]), Subspace(torch.eye(3)[:2]))
    1.0
    """
    if not len(a) or not len(b):
        raise ValueError("got an empty subspace; expected at least one direction in each; choose a larger k")
    return float((a.basis @ b.basis.mT).square().sum()) / min(len(a), len(b))


def max_abs_cosine(x: Float[Tensor, "n d_model"]) -> float:
    """The largest |cosine| over all pairs of distinct rows (0.0 when there are fewer than two rows).

    >>> max_abs_cosine(torch.eye(3))
    0.0
    """
    if len(x) < 2:
        return 0.0
    cosines = cosine_matrix(x)
    cosines.fill_diagonal_(0)
    largest = float(cosines.abs().max())
    return largest if math.isfinite(largest) else math.inf

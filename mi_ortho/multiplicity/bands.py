"""The flat band of a spectrum, and whether a vector may be turned inside it without losing its effect.

If an effect only depends on how much of a vector lies in a band of equally sensitive directions, then as many
orthogonal vectors have it as the band has dimensions, and none of them is stored: turning one inside the band keeps
the effect, turning it out of the band loses it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_ortho.elicitation.objectives import Objective
from mi_ortho.interventions.subspace import Subspace
from mi_ortho.multiplicity.response import SignTest, paired_sign_test, smallest_scale
from mi_ortho.stats import UNIT_SCALE, Equivalence, Measured, equivalence_of_means, exact_paired_rates, rate

FLAT = 0.03  # largest relative gap between neighbours inside a band
MATCHED = 1.05  # factor up to which two displacements are equal


@dataclass(frozen=True, eq=False)
class Band:
    """A flat part of a spectrum.

    Attributes:
        subspace: what its directions span.
        first: index of its first eigenvalue, from 0.
        eigenvalues: inside it, largest first.
        open: whether it goes on to the last eigenvalue that was given, so that it may be larger.
    """

    subspace: Subspace
    first: int
    eigenvalues: Float[Tensor, " k"]
    open: bool

    @property
    def ratio(self) -> float:
        """Largest over smallest eigenvalue inside: many small gaps in a row are a slope, not a band."""
        return float(self.eigenvalues[0] / self.eigenvalues[-1])


def flat_band(eigenvalues: Float[Tensor, " n"], directions: Float[Tensor, "n d_model"], *, gap: float = FLAT) -> Band:
    """The longest run of positive eigenvalues of which each lies at most `gap` below the one before, relatively.

    Of a Gauss-Newton matrix these are squares of singular values, whose gaps are twice as large. The Gauss-Newton
    matrix of one number has rank 1: take that of the activations, or the Hessian of the number
    (`derivatives.effect_hessian`). The spectrum of a wide map is dense, so look at `ratio`.

    Args:
        eigenvalues: largest first.
        directions: orthonormal rows, one for each.
        gap: largest relative gap, from 0 to below 1.

    Raises:
        ValueError: eigenvalues that do not fall, none positive, or a gap outside [0, 1).

    >>> band = flat_band(torch.tensor([9.0, 2.0, 1.99, 1.98, 1.0]), torch.eye(5))
    >>> band.first, len(band.subspace), band.open
    (1, 3, False)
    """
    if not 0 <= gap < 1 or not len(eigenvalues) or not eigenvalues[0] > 0 or bool((eigenvalues.diff() > 0).any()):
        raise ValueError(
            f"got {len(eigenvalues)} eigenvalues and a gap of {gap}; expected them largest first, the first one "
            "positive, and a gap from 0 to below 1; sort them"
        )
    values = eigenvalues[eigenvalues > 0].double()
    ends = [0, *(((values[:-1] - values[1:]) > gap * values[:-1]).nonzero().flatten() + 1).tolist(), len(values)]
    first, last = max(zip(ends, ends[1:]), key=lambda run: run[1] - run[0])
    rows = slice(first, last)
    return Band(Subspace(directions[rows]), first, eigenvalues[rows], last == len(eigenvalues) < directions.shape[1])


@dataclass(frozen=True, eq=False)
class Turned:
    """One vector, turned in many ways.

    Attributes:
        vectors: shape (n, d_model).
        effects: shape (n,).
        displacements: shape (n,).
        usable: which of them are what they should be: equal in norm, or in displacement; shape (n,).
    """

    vectors: Float[Tensor, "n d_model"]
    effects: Float[Tensor, " n"]
    displacements: Float[Tensor, " n"]
    usable: Bool[Tensor, " n"]


@dataclass(frozen=True, eq=False)
class BandRotations:
    """Whether a vector keeps its effect when the part of it inside a band is turned; rows are paired by draw.

    Attributes:
        threshold: effect that counts as kept.
        effect, displacement: of the vector itself.
        share: of its squared norm inside the band; near 0 there is nothing to turn.
        inside: turned inside the band.
        outside: turned to directions outside it, of the same norm.
        displaced: the same directions, as long as moves the activations as far as the vector does.
        negated: the vectors of `inside`, negated.
    """

    threshold: float
    effect: float
    displacement: float
    share: float
    inside: Turned
    outside: Turned
    displaced: Turned
    negated: Turned

    def kept(self, turned: Turned) -> Measured:
        """The share of the usable rotations that keep the effect, with its exact interval; no value without any."""
        works = turned.effects[turned.usable] >= self.threshold
        return rate(int(works.sum()), len(works)) if len(works) else Measured(None, None, "none", 0)

    def difference(self, control: Turned) -> Measured:
        """Share kept inside minus share kept by a control, over pairs of draws, with an exact interval."""
        first, second = self._pairs(control)
        if not len(first):
            return Measured(None, None, "none", 0)
        return exact_paired_rates(first.tolist(), second.tolist())

    def test(self, control: Turned) -> SignTest:
        """Of the draws where only one keeps the effect, how many times it is the one inside (McNemar, exact)."""
        return paired_sign_test(*self._pairs(control))

    def equivalence(self, control: Turned, margin: float) -> Equivalence:
        """Whether the two shares differ by less than a margin, set before.

        Raises:
            ValueError: no usable pair.
        """
        first, second = (each.double().tolist() for each in self._pairs(control))
        if not first:
            raise ValueError("got no pair of usable rotations; expected some; look at `usable` of the control")
        return equivalence_of_means(first, second, margin=margin, scale=UNIT_SCALE)

    def _pairs(self, control: Turned) -> tuple[Tensor, Tensor]:
        both = self.inside.usable & control.usable
        return self.inside.effects[both] >= self.threshold, control.effects[both] >= self.threshold


@torch.no_grad()
def rotate_band(
    effect: Objective,
    displacement: Objective,
    vector: Float[Tensor, " d_model"],
    band: Subspace,
    threshold: float,
    *,
    generator: torch.Generator,
    others: Subspace | None = None,
    draws: int = 64,
    farthest: float = 16.0,
    chunk: int = 64,
) -> BandRotations:
    """Turn the part of a working vector that lies in a band at random, inside the band and out of it.

    The part outside the band stays as it is. Inside, its other part becomes a random direction of the band of the same
    norm. Outside, it becomes a random direction of `others`, orthogonal to the band and to what stays, so that the norm
    is the same; and once more with the length that displaces the activations as far as the vector does. A random
    direction of a random subspace of the rest is a random direction of the rest, so without `others` that is taken;
    the next singular directions are the harder control. The draws are independent for this vector; other vectors
    are another unit.

    Costs about 31 forward passes a draw, most of them for the lengths.

    Args:
        effect: one number a row.
        displacement: how far each row moves the activations, as `displace(z)` does.
        vector: one that works, with a part inside the band.
        band: of at least two directions; `flat_band(...).subspace`.
        threshold: effect that counts as kept.
        generator: of the rotations.
        others: directions outside, as many as the band has; all of the rest if None.
        draws: rotations of each kind.
        farthest: largest factor on the length of the displaced part; its inverse is the smallest.
        chunk: rows per pass.

    Raises:
        ValueError: a vector that does not work or has no part in the band, a band of one direction, no draws, or
            fewer directions outside than in the band.
    """
    inner = band.project(vector)
    stays = vector - inner
    _check(effect, vector, inner, band, threshold, draws)
    rest = torch.cat([band.basis, torch.nn.functional.normalize(stays, dim=0)[None]])
    rest = rest if stays.norm() > 1e-4 * vector.norm() else band.basis
    where = _outside(rest, others, len(band))
    size = inner.norm()
    parts = size * _directions(where, draws, generator).to(vector)
    turned = stays + size * _directions(band, draws, generator).to(vector)

    def measured(vectors: Tensor, usable: Tensor | None = None) -> Turned:
        values, moved = (torch.cat([fn(x) for x in vectors.split(chunk)]) for fn in (effect, displacement))
        return Turned(vectors, values, moved, torch.ones_like(values, dtype=torch.bool) if usable is None else usable)

    def moved(rows: Tensor) -> Tensor:
        return torch.cat([displacement(stays + x) for x in rows.split(chunk)])

    goal = float(displacement(vector[None])[0])
    lengths = smallest_scale(moved, parts, goal, low=1 / farthest, high=farthest, grid=17, refine=8)
    lengths = lengths.clamp_max(farthest).to(parts)
    longer = measured(stays + lengths[:, None] * parts)
    ratio = longer.displacements / goal
    usable = (ratio <= MATCHED) & (ratio >= 1 / MATCHED)
    return BandRotations(
        threshold,
        float(effect(vector[None])[0]),
        goal,
        float(size.square() / vector.square().sum()),
        measured(turned),
        measured(stays + parts),
        Turned(longer.vectors, longer.effects, longer.displacements, usable),
        measured(-turned),
    )


def _check(effect: Objective, vector: Tensor, inner: Tensor, band: Subspace, threshold: float, draws: int) -> None:
    value = float(effect(vector[None])[0])
    if not value >= threshold or draws < 1 or len(band) < 2 or not inner.norm() > 1e-4 * vector.norm():
        raise ValueError(
            f"got effect {value:.3g} at threshold {threshold}, {draws} draws, a band of {len(band)} and a part of norm "
            f"{float(inner.norm()):.3g} in it; expected a vector that works, a draw, two directions and a part in them"
        )


def _outside(rest: Float[Tensor, "k d"], others: Subspace | None, size: int) -> Subspace:
    """What is orthogonal to the given rows, of the other directions or of all."""
    width = rest.shape[1]
    basis = torch.eye(width, dtype=rest.dtype, device=rest.device) if others is None else others.basis
    left = Subspace(torch.linalg.qr(rest.mT)[0].mT).reject(basis)
    _, singular, rows = torch.linalg.svd(left, full_matrices=False)
    outside = Subspace(rows[singular > 1e-3])
    if len(outside) < size:
        raise ValueError(
            f"got {len(outside)} directions outside a band of {size}; expected as many; give others, or a narrower band"
        )
    return outside


def _directions(space: Subspace, n: int, generator: torch.Generator) -> Float[Tensor, "n d_model"]:
    weights = torch.randn(n, len(space), generator=generator, device=generator.device).to(space.basis)
    return torch.nn.functional.normalize(weights @ space.basis, dim=-1)

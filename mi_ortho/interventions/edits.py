"""Interventions: pure maps from residual activations to residual activations."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

Activation = Float[Tensor, "batch pos d_model"]
Intervention = Callable[[Float[Tensor, "batch pos d_model"]], Float[Tensor, "batch pos d_model"]]
PerRow = float | Float[Tensor, " rows"]  # one number for all rows, or one for each


@dataclass(frozen=True, eq=False)
class Add:
    """x + strength * v, with one vector for all rows (`d_model`) or one per row (`batch d_model`), strengths likewise.

    Raises ValueError for NaN or infinite vectors and, when called, for a width or row count that does not fit.
    """

    vectors: Float[Tensor, " d_model"] | Float[Tensor, "batch d_model"]
    strength: PerRow = 1.0

    def __post_init__(self) -> None:
        _require_finite("vectors", self.vectors)
        _require_number("strength", self.strength)

    @property
    def rows(self) -> int | None:
        """How many rows the activation must have; None when any number will do."""
        count = self.vectors.shape[0] if self.vectors.ndim == 2 else None
        return _row_count(self.strength) if count in (None, 1) else count

    def __call__(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        _require_width("vectors", self.vectors, x)
        _require_rows("vectors", self.vectors.shape[0] if self.vectors.ndim == 2 else None, x)
        v = self.vectors if self.vectors.ndim == 1 else rearrange(self.vectors, "batch d_model -> batch 1 d_model")
        if isinstance(self.strength, Tensor):
            return x + _per_row("strengths", self.strength, x) * v.to(x)
        return x + (v if self.strength == 1.0 else v * self.strength).to(x)


@dataclass(frozen=True, eq=False)
class Ablate:
    """x - strength * P x, with P the projection on the span of the rows of `directions` (made orthonormal here).

    At strength 1 idempotent, and the result is orthogonal to every direction; 0 changes nothing, 2 reflects. Rows that
    depend linearly on others are dropped.
    """

    directions: Float[Tensor, "k d_model"]
    strength: PerRow = 1.0

    def __post_init__(self) -> None:
        _require_finite("directions", self.directions)
        _require_number("strength", self.strength)
        object.__setattr__(self, "directions", _row_basis(self.directions))

    @property
    def rows(self) -> int | None:
        """How many rows the activation must have; None when any number will do."""
        return _row_count(self.strength)

    def __call__(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        _require_width("directions", self.directions, x)
        basis = self.directions.to(x)
        removed = (x @ basis.T) @ basis
        return x - (removed if _is_one(self.strength) else _per_row("strengths", self.strength, x) * removed)


@dataclass(frozen=True, eq=False)
class Affine:
    """x - P (x - reference) + strength * added: affine concept editing (Marshall, Scherlis and Belrose 2024,
    arXiv 2411.09003).

    P projects on the span of the rows of `directions` (made orthonormal here). With reference 0 and strength 0 it is
    `Ablate`; the reference, usually the mean activation of one class at this place, is what the part inside the span
    becomes, instead of zero. Raises ValueError as `Add` does.
    """

    directions: Float[Tensor, "k d_model"]
    reference: Float[Tensor, " d_model"]
    added: Float[Tensor, " d_model"]
    strength: PerRow = 0.0

    def __post_init__(self) -> None:
        for name in ("directions", "reference", "added"):
            _require_finite(name, getattr(self, name))
        _require_number("strength", self.strength)
        object.__setattr__(self, "directions", _row_basis(self.directions))

    @property
    def rows(self) -> int | None:
        """How many rows the activation must have; None when any number will do."""
        return _row_count(self.strength)

    def __call__(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        for name in ("directions", "reference", "added"):
            _require_width(name, getattr(self, name), x)
        basis = self.directions.to(x)
        inside = ((x - self.reference.to(x)) @ basis.T) @ basis
        return x - inside + _per_row("strengths", self.strength, x) * self.added.to(x)


@dataclass(frozen=True, eq=False)
class Erase:
    """x - L R (x - center): a projection that need not be orthogonal, as least-squares concept erasure (LEACE) gives.

    `left` holds the columns of L and `right` the rows of R, both as rows here. Raises ValueError for values that are
    not finite and, when called, for another width.
    """

    left: Float[Tensor, "k d_model"]
    right: Float[Tensor, "k d_model"]
    center: Float[Tensor, " d_model"]

    def __post_init__(self) -> None:
        for name in ("left", "right", "center"):
            _require_finite(name, getattr(self, name))

    def __call__(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        _require_width("right", self.right, x)
        return x - ((x - self.center.to(x)) @ self.right.to(x).T) @ self.left.to(x)


@dataclass(frozen=True, eq=False)
class Rotate:
    """Turn the part of x inside a plane by `angle` radians, from the first row of `plane` towards the second.

    The rows are made orthonormal (Gram-Schmidt); the part of x outside the plane stays. R(a) R(b) = R(a + b). One
    angle for all rows of the batch, or one for each.
    """

    plane: Float[Tensor, "2 d_model"]
    angle: PerRow

    def __post_init__(self) -> None:
        _set_plane(self)

    @property
    def rows(self) -> int | None:
        """How many rows the activation must have; None when any number will do."""
        return _row_count(self.angle)

    def __call__(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        plane, inside = _inside_plane(self.plane, x)
        first, second = inside.unbind(-1)
        cos, sin = _heading(self.angle, x).unbind(-1)
        moved = torch.stack([(cos - 1.0) * first - sin * second, sin * first + (cos - 1.0) * second], dim=-1)
        return x + moved @ plane


@dataclass(frozen=True, eq=False)
class RotateTo:
    """Set the angle of the part of x inside a plane to `angle` radians, keeping its length.

    The angle is absolute: measured from the first row of `plane` towards the second (made orthonormal), whatever it was
    before. Idempotent. This is the map of angular steering (arXiv 2510.26243): h - P h + |P h| (b1 cos a + b2 sin a);
    the published method applies it to the outputs of normalisations, which are no sites here. One angle for all rows of
    the batch, or one for each.
    """

    plane: Float[Tensor, "2 d_model"]
    angle: PerRow

    def __post_init__(self) -> None:
        _set_plane(self)

    @property
    def rows(self) -> int | None:
        """How many rows the activation must have; None when any number will do."""
        return _row_count(self.angle)

    def __call__(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        plane, inside = _inside_plane(self.plane, x)
        return x + (inside.norm(dim=-1, keepdim=True) * _heading(self.angle, x) - inside) @ plane


@dataclass(frozen=True, eq=False)
class Above:
    """The predicate x . d > threshold, d the unit vector along `direction`: for `When`, so that an intervention acts
    only where a direction is present (adaptive steering).
    """

    direction: Float[Tensor, " d_model"]
    threshold: float = 0.0

    def __post_init__(self) -> None:
        _require_finite("direction", self.direction)
        _require_number("threshold", self.threshold)
        if not bool(self.direction.norm() > 0):
            raise ValueError("got a direction of length 0; expected one that points somewhere; check how it was made")

    def __call__(self, x: Float[Tensor, "batch pos d_model"]) -> Bool[Tensor, "batch pos"]:
        _require_width("direction", self.direction, x)
        return x @ (self.direction / self.direction.norm()).to(x) > self.threshold


@dataclass(frozen=True, eq=False)
class When:
    """`intervention` at the positions where `predicate` is true, the identity elsewhere."""

    predicate: Callable[[Float[Tensor, "batch pos d_model"]], Bool[Tensor, "batch pos"]]
    intervention: Intervention

    @property
    def rows(self) -> int | None:
        """How many rows the activation must have; None when any number will do."""
        return getattr(self.intervention, "rows", None)

    def __call__(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        chosen = rearrange(self.predicate(x), "batch pos -> batch pos 1")
        return torch.where(chosen, self.intervention(x), x)


def _row_basis(rows: Float[Tensor, "k d_model"]) -> Float[Tensor, "r d_model"]:
    """Orthonormal rows with the same span; as many as are linearly independent."""
    _, sizes, basis = torch.linalg.svd(rows.double(), full_matrices=False)
    floor = max(rows.shape) * torch.finfo(rows.dtype).eps
    independent = sizes > floor * (sizes[0] if len(sizes) else 0.0)
    return basis[independent].to(rows)


def _set_plane(rotation: Rotate | RotateTo) -> None:
    """Refuse an angle that is not finite, and make the rows of `plane` orthonormal."""
    _require_number("angle", rotation.angle)
    object.__setattr__(rotation, "plane", _plane_basis(rotation.plane))


def _inside_plane(plane: Float[Tensor, "2 d_model"], x: Tensor) -> tuple[Tensor, Tensor]:
    """The plane in the dtype of x, and the two coordinates of x in it, shape `batch pos 2`."""
    _require_width("plane", plane, x)
    plane = plane.to(x)
    return plane, x @ plane.T


def _plane_basis(plane: Float[Tensor, "2 d_model"]) -> Float[Tensor, "2 d_model"]:
    _require_finite("plane", plane)
    first, second = plane.double()
    first = first / first.norm()
    rejected = second - (second @ first) * first
    # not (a > b) rather than a <= b, so that the NaN of a zero first row is caught as well
    if not rejected.norm() > 1e-6 * second.norm():
        raise ValueError(
            "got a plane whose two rows are parallel or zero; expected two independent directions; "
            "choose another second direction"
        )
    return torch.stack([first, rejected / rejected.norm()]).to(plane)


def _require_finite(name: str, x: Tensor) -> None:
    if not bool(torch.isfinite(x).all()):
        raise ValueError(
            f"got NaN or infinite values in {name}; expected finite numbers; check how the vectors were made"
        )


def _require_number(name: str, x: PerRow) -> None:
    if not (bool(torch.isfinite(x).all()) if isinstance(x, Tensor) else math.isfinite(x)):
        raise ValueError(f"got {name} {x}; expected a finite number; correct it")


def _row_count(value: PerRow) -> int | None:
    return value.shape[0] if isinstance(value, Tensor) else None


def _is_one(value: PerRow) -> bool:
    return not isinstance(value, Tensor) and value == 1.0


def _per_row(name: str, value: PerRow, x: Tensor) -> Tensor | float:
    """The number, or one for each row as `batch 1 1` in the dtype of x."""
    if not isinstance(value, Tensor):
        return value
    _require_rows(name, value.shape[0], x)
    return rearrange(value, "batch -> batch 1 1").to(x)


def _heading(angle: PerRow, x: Tensor) -> Tensor:
    """(cos, sin) of the angle, broadcast over `batch pos`; computed in fp64, then in the dtype of x."""
    radians = torch.as_tensor(angle, dtype=torch.float64)
    if radians.ndim:
        _require_rows("angles", radians.shape[0], x)
        radians = rearrange(radians, "batch -> batch 1")
    return torch.stack([radians.cos(), radians.sin()], dim=-1).to(x)


def _require_rows(name: str, rows: int | None, x: Tensor) -> None:
    if rows not in (None, 1, x.shape[0]):
        raise ValueError(
            f"got {rows} {name}; expected one or {x.shape[0]}, as many as the batch has rows; "
            f"repeat the prompts or pass one of the {name} per prompt"
        )


def _require_width(name: str, v: Tensor, x: Tensor) -> None:
    if v.shape[-1] != x.shape[-1]:
        raise ValueError(
            f"got {name} of width {v.shape[-1]}; expected {x.shape[-1]}, the model's d_model; "
            "use vectors made for this model"
        )

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


@dataclass(frozen=True, eq=False)
class Add:
    """x + strength * v, with one vector for all rows (`d_model`) or one per row (`batch d_model`).

    Raises ValueError for NaN or infinite vectors and, when called, for a width or row count that does not fit.
    """

    vectors: Float[Tensor, " d_model"] | Float[Tensor, "batch d_model"]
    strength: float = 1.0

    def __post_init__(self) -> None:
        _require_finite("vectors", self.vectors)
        _require_number("strength", self.strength)

    @property
    def rows(self) -> int | None:
        """How many rows the activation must have; None when any number will do."""
        return self.vectors.shape[0] if self.vectors.ndim == 2 else None

    def __call__(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        _require_width("vectors", self.vectors, x)
        if self.rows not in (None, 1, x.shape[0]):
            raise ValueError(f"got {self.rows} vectors; expected one or {x.shape[0]}, as many as the batch has rows; "
                             "repeat the prompts or pass one vector per prompt")
        v = self.vectors if self.strength == 1.0 else self.vectors * self.strength
        v = v if v.ndim == 1 else rearrange(v, "batch d_model -> batch 1 d_model")
        return x + v.to(x)


@dataclass(frozen=True, eq=False)
class Ablate:
    """x - P x, with P the projection on the span of the rows of `directions` (made orthonormal here).

    Idempotent; the result is orthogonal to every direction. Rows that depend linearly on others are dropped.
    """

    directions: Float[Tensor, "k d_model"]

    def __post_init__(self) -> None:
        _require_finite("directions", self.directions)
        object.__setattr__(self, "directions", _row_basis(self.directions))

    def __call__(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        _require_width("directions", self.directions, x)
        basis = self.directions.to(x)
        return x - (x @ basis.T) @ basis


@dataclass(frozen=True, eq=False)
class Rotate:
    """Turn the part of x inside a plane by `angle` radians, from the first row of `plane` towards the second.

    The rows are made orthonormal (Gram-Schmidt); the part of x outside the plane stays. R(a) R(b) = R(a + b).
    """

    plane: Float[Tensor, "2 d_model"]
    angle: float

    def __post_init__(self) -> None:
        _require_number("angle", self.angle)
        object.__setattr__(self, "plane", _plane_basis(self.plane))

    def __call__(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        _require_width("plane", self.plane, x)
        plane = self.plane.to(x)
        inside = x @ plane.T
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        turn = torch.tensor([[cos - 1.0, sin], [-sin, cos - 1.0]], dtype=x.dtype, device=x.device)
        return x + (inside @ turn) @ plane


@dataclass(frozen=True, eq=False)
class RotateTo:
    """Set the angle of the part of x inside a plane to `angle` radians, keeping its length.

    The angle is measured from the first row of `plane` towards the second (made orthonormal). Idempotent.
    """

    plane: Float[Tensor, "2 d_model"]
    angle: float

    def __post_init__(self) -> None:
        _require_number("angle", self.angle)
        object.__setattr__(self, "plane", _plane_basis(self.plane))

    def __call__(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        _require_width("plane", self.plane, x)
        plane = self.plane.to(x)
        inside = x @ plane.T
        heading = torch.tensor([math.cos(self.angle), math.sin(self.angle)], dtype=x.dtype, device=x.device)
        return x + (inside.norm(dim=-1, keepdim=True) * heading - inside) @ plane


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
    _, sizes, basis = torch.linalg.svd(rows.double(), full_matrices=False)
    floor = max(rows.shape) * torch.finfo(rows.dtype).eps
    kept = sizes > floor * (sizes[0] if len(sizes) else 0.0)
    return basis[kept].to(rows)


def _plane_basis(plane: Float[Tensor, "2 d_model"]) -> Float[Tensor, "2 d_model"]:
    _require_finite("plane", plane)
    first, second = plane.double()
    first = first / first.norm()
    rejected = second - (second @ first) * first
    # not (a > b) rather than a <= b, so that the NaN of a zero first row is caught as well
    if not rejected.norm() > 1e-6 * second.norm():
        raise ValueError("got a plane whose two rows are parallel or zero; expected two independent directions; "
                         "choose another second direction")
    return torch.stack([first, rejected / rejected.norm()]).to(plane)


def _require_finite(name: str, x: Tensor) -> None:
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"got NaN or infinite values in {name}; expected finite numbers; "
                         "check how the vectors were made")


def _require_number(name: str, x: float) -> None:
    if not math.isfinite(x):
        raise ValueError(f"got {name} {x}; expected a finite number; correct it")


def _require_width(name: str, v: Tensor, x: Tensor) -> None:
    if v.shape[-1] != x.shape[-1]:
        raise ValueError(f"got {name} of width {v.shape[-1]}; expected {x.shape[-1]}, the model's d_model; "
                         "use vectors made for this model")

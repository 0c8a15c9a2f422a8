"""Factors: what every kind of deep causal transcoding returns, and what follows from it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.derivatives.means import Maps, displacement
from mi_ortho.runs.files import plain, read_tensors, to_json, write_tensors

Kind = Literal["linear", "quadratic", "exponential"]
RESPONSES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "quadratic": torch.square,
    "exponential": torch.expm1,
}
FORMAT = "mi_ortho factors 1"


@dataclass(frozen=True, eq=False)
class Factors:
    """z(theta) - z(0) as a sum of ridge functions: sum_l alpha_l response(<v_l, theta> / radius) u_l.

    Mack and Turner 2024, "Deep causal transcoding". Steering with factor l is adding radius * v_l.

    Attributes:
        inputs: v, unit rows, shape (k, d_model). Whether they are orthonormal depends on the method.
        outputs: u, unit rows in the space of flattened outputs, shape (k, m); a row is 0 where a factor does nothing.
        weights: alpha, in units of the outputs, shape (k,).
        radius: norm of the steering vectors.
        kind: the response: linear x, quadratic x^2, exponential e^x - 1.
        trace: mean of <u, effect of v> over the factors, at every iteration of a method that iterates.
        meta: how they were made; what JSON can hold.

    Raises:
        ValueError: a radius that is not positive, or entries that are not finite.
    """

    inputs: Float[Tensor, "k d_model"]
    outputs: Float[Tensor, "k m"]
    weights: Float[Tensor, " k"]
    radius: float
    kind: Kind
    trace: tuple[float, ...] = ()
    meta: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.radius < float("inf"):
            raise ValueError(f"got radius {self.radius}; expected a positive, finite norm; try calibrate_scale")
        for name in ("inputs", "outputs", "weights"):
            if not torch.isfinite(getattr(self, name)).all():
                raise ValueError(
                    f"got NaN or infinity in the {name} of factors; expected finite; take a smaller "
                    "radius or float32 blocks"
                )

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def vectors(self) -> Float[Tensor, "k d_model"]:
        """The steering vectors radius * v."""
        return self.radius * self.inputs

    def subset(self, rows: Tensor) -> "Factors":
        """The factors of these indices, in this order, with the weights they had among all."""
        chosen = self.inputs[rows], self.outputs[rows], self.weights[rows]
        return Factors(*chosen, self.radius, self.kind, self.trace, self.meta)


def predict(factors: Factors, theta: Float[Tensor, "n d_model"]) -> Float[Tensor, "n m"]:
    """z(theta) - z(0) as the factors predict it.

    >>> line = Factors(torch.eye(1, 2), torch.ones(1, 1), torch.tensor([3.0]), 2.0, "quadratic")
    >>> predict(line, torch.tensor([[4.0, 1.0]])).tolist()
    [[12.0]]
    """
    along = theta @ factors.inputs.mT / factors.radius
    return (RESPONSES[factors.kind](along) * factors.weights) @ factors.outputs


def reconstruction_error(factors: Factors, z: Maps, theta: Float[Tensor, "n d_model"], *, chunk: int = 64) -> float:
    """The share of |z(theta) - z(0)|^2 that the factors miss, over the rows of theta: 0 perfect, 1 as without factors.

    One forward pass a row and map, without a graph; the true and the predicted effects of all rows are held.

    Raises:
        ValueError: the rows of theta move nothing.
    """
    true = displacement(z, theta, chunk=chunk)
    total = float(true.square().sum())
    if not total > 0:
        raise ValueError("got steering vectors that move nothing; expected an effect to reconstruct; take longer ones")
    return float((true - predict(factors, theta)).square().sum()) / total


def solve_weights(kernel: Float[Tensor, "k k"], effects: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """alpha = kernel^-1 effects: the weights with the smallest loss for given directions, in float64.

    The least-norm solution where directions repeat and the kernel is singular. Needs k^2 numbers and k^3 operations.
    """
    values, vectors = torch.linalg.eigh(kernel.double())
    nonzero = values > 1e-10 * values.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    inverse = torch.where(nonzero, 1 / torch.where(nonzero, values, 1.0), 0.0)
    return (vectors @ (inverse * (vectors.mT @ effects.double()))).to(effects)


def save_factors(factors: Factors, path: Path) -> None:
    """Write factors as safetensors, atomically, with radius, kind, trace and meta in the header."""
    tensors = {"inputs": factors.inputs, "outputs": factors.outputs, "weights": factors.weights}
    head = {"radius": factors.radius, "kind": factors.kind, "trace": list(factors.trace), "meta": plain(factors.meta)}
    write_tensors(path, tensors, {"format": FORMAT, "factors": to_json(head)})


def load_factors(path: Path) -> Factors:
    """Read what `save_factors` wrote.

    Raises:
        ValueError: the file is missing or damaged, or holds no factors.
    """
    tensors, head = read_tensors(path)
    missing = {"inputs", "outputs", "weights"} - set(tensors)
    if missing or "factors" not in head:
        raise ValueError(f"got {path} without factors; expected a file written by save_factors")
    facts = json.loads(head["factors"])
    if facts["kind"] not in get_args(Kind):
        raise ValueError(f"got factors of kind {facts['kind']!r} in {path}; expected {', '.join(get_args(Kind))}")
    return Factors(
        tensors["inputs"],
        tensors["outputs"],
        tensors["weights"],
        facts["radius"],
        facts["kind"],
        tuple(facts["trace"]),
        facts["meta"],
    )

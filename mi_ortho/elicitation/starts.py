"""Where a search starts: random vectors, what it must avoid, and arguments that cannot work."""

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.elicitation.objectives import Displace
from mi_ortho.interventions.subspace import Subspace, empty_subspace


def random_vectors(n: int, d_model: int, norm: float, generator: torch.Generator) -> Float[Tensor, "n d_model"]:
    """n isotropic random vectors of one norm, on the generator's device."""
    directions = torch.randn(n, d_model, generator=generator, device=generator.device)
    return norm * directions / directions.norm(dim=-1, keepdim=True)


def noise(rows: int, base: Float[Tensor, " d_model"], norm: float, seed: int, attempt: int) -> Tensor:
    """Random starts that depend on nothing but the seed and the attempt's number, so that resuming repeats them."""
    # not `runs.random_stream`: it does not reduce modulo 2**63, so large and negative seeds would start elsewhere
    generator = torch.Generator(base.device).manual_seed((seed * 1_000_003 + attempt) % 2**63)
    return random_vectors(rows, len(base), norm, generator).to(base)


def require_search(radius: float, n: int, d_model: int):
    """Refuse a radius or a count that no search can meet."""
    if not 0 < radius < float("inf"):
        raise ValueError(f"got radius {radius}; expected a positive, finite norm; try about the residual stream's norm")
    if not 1 <= n <= d_model:
        raise ValueError(f"got n={n}; expected 1 to d_model={d_model}: no more vectors can be mutually orthogonal")


def nothing_yet(objective: Displace) -> Subspace:
    """An empty subspace to avoid, in the dtype and on the device of the objective."""
    return empty_subspace(objective.z.d_model, dtype=objective.baseline.dtype, device=objective.baseline.device)

"""What the published code computes where it differs from the published text: for comparison, not for use.

Behaviour of the classes LinearDCT, QuadraticDCT and ExponentialDCT of amack315/melbo-dct-post (December 2024), written
anew from a description of what they compute. Costs and memory are those of the methods of the same name without
"published"; those that take columns of V' hold d_model^2 numbers more.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mi_ortho.dct.exponential import effect_directions
from mi_ortho.dct.factors import Factors, solve_weights
from mi_ortho.dct.steps import check, require_moving
from mi_ortho.derivatives.first import pullback
from mi_ortho.derivatives.means import Maps, as_maps, displacement, displacement_and_gradient, outputs
from mi_ortho.derivatives.spectra import linearise


def published_linear_dct(
    z: Maps, k: int, *, radius: float, generator: torch.Generator, dtype: torch.dtype = torch.float32, chunk: int = 64
) -> Factors:
    """ "Linear DCT, full Jacobian" as published: columns of V' where rows were meant.

    torch returns V', whose rows are the right singular vectors. Column j of V' is the j-th basis vector of the model
    written in singular coordinates; read as a direction of the model it points anywhere. The first k columns hold about
    k / d_model of their energy in the true top-k space, as random directions do.
    Outputs are z(radius v) - z(0) at unit length.
    """
    zero = check(z, k, radius, generator, dtype)
    rows = linearise(z, zero, chunk=chunk).dense()
    return _outputs_after(z, _columns(rows, k), radius, "published linear", chunk)


def published_projected_linear_dct(
    z: Maps,
    k: int,
    *,
    radius: float,
    generator: torch.Generator,
    projections: int = 32,
    dtype: torch.dtype = torch.float32,
    chunk: int = 64,
) -> Factors:
    """ "Linear DCT, projected" as published: columns of V' of the projected Jacobian."""
    zero = check(z, k, radius, generator, dtype)
    rows = require_moving(_projected_jacobian(z, zero, projections, generator, chunk), "projected Jacobian rows")
    return _outputs_after(z, _columns(rows, k), radius, "published projected linear", chunk)


def published_quadratic_dct(
    z: Maps,
    k: int,
    *,
    radius: float,
    generator: torch.Generator,
    steps: int = 20,
    projections: int = 32,
    dtype: torch.dtype = torch.float32,
    chunk: int = 64,
) -> Factors:
    """ "Quadratic DCT" as published: orthogonalised power iteration on the Jacobian.

    Both derivatives of the published code are taken at a base point that stays at 0, so that neither holds a second
    derivative: "T(., v, v)" is J v and "T(u, v, .)" is J'u. On a purely quadratic map J = 0, the objective is 0 and the
    input directions it returns are 0. It starts from columns of V' of the projected Jacobian and from their effects at
    norm 1, whatever `radius` is, which only scales the weights.
    """
    zero = check(z, k, radius, generator, dtype)
    operator = linearise(z, zero, chunk=chunk)
    v = _columns(_projected_jacobian(z, zero, projections, generator, chunk), k)
    u = normalize(displacement(z, v, chunk=chunk), dim=-1)
    trace = []
    for _ in range(steps):
        v = _householder(v)
        image, back = operator.forward(v), operator.back(u)
        trace.append(float((u * image).sum(-1).mean()))
        u, v = normalize(image, dim=-1), normalize(back, dim=-1)
    if not (torch.isfinite(u).all() and torch.isfinite(v).all()):
        require_moving(u + v.sum(), "directions")
    weights = (u * operator.forward(v)).sum(-1) * radius
    return Factors(v, u, weights, radius, "linear", tuple(trace), {"method": "published quadratic"})


def published_exponential_dct(
    z: Maps,
    k: int,
    *,
    radius: float,
    generator: torch.Generator,
    steps: int = 10,
    damping: float = 1.0,
    projections: int = 32,
    dtype: torch.dtype = torch.float32,
    chunk: int = 64,
) -> Factors:
    """Exponential DCT as published: starts from columns of V', ends with an update after the last orthogonalisation.

    The returned input directions are therefore not orthonormal. Damping mixes unit rows with effects and with gradients
    by the unit vector v, both at their own length: the longer they are, the less a `damping` below 1 does.
    """
    zero = check(z, k, radius, generator, dtype)
    rows = require_moving(_projected_jacobian(z, zero, projections, generator, chunk), "projected Jacobian rows")
    v = _columns(rows, k)
    u = effect_directions(z, radius * v, chunk)
    trace = []
    for _ in range(steps):
        v = _householder(v)
        effect, slope = displacement_and_gradient(z, radius * v, u, chunk=chunk)
        trace.append(float((u * effect).sum(-1).mean()))
        u = normalize(damping * effect + (1 - damping) * u, dim=-1)
        v = normalize(damping * radius * slope + (1 - damping) * v, dim=-1)
    kernel = (u @ u.mT) * torch.expm1(v @ v.mT)
    weights = solve_weights(kernel, (u * displacement(z, radius * v, chunk=chunk)).sum(-1))
    return Factors(v, u, weights, radius, "exponential", tuple(trace), {"method": "published exponential"})


def _projected_jacobian(z: Maps, zero: Tensor, projections: int, generator: torch.Generator, chunk: int) -> Tensor:
    """Rows of the Jacobian combined by random unit vectors."""
    maps = as_maps(z)
    mix = torch.randn(projections, outputs(maps[0], zero), generator=generator, device=generator.device).to(zero)
    return torch.stack([pullback(one, zero, normalize(mix, dim=-1), chunk=chunk) for one in maps]).mean(0)


def _householder(rows: Tensor) -> Tensor:
    """Orthonormal rows with the signs that Householder reflections leave: a row may come out turned round."""
    return torch.linalg.qr(rows.mT)[0].mT.contiguous()


def _columns(rows: Tensor, k: int) -> Tensor:
    """The first k columns of V' as unit rows."""
    if not bool(torch.isfinite(rows).all()):
        require_moving(rows, "Jacobian rows")
    right = torch.linalg.svd(rows, full_matrices=True)[2]
    return normalize(right[:, :k].mT.contiguous(), dim=-1)


def _outputs_after(z: Maps, v: Tensor, radius: float, method: str, chunk: int) -> Factors:
    effect = require_moving(displacement(z, radius * v, chunk=chunk), "effects")
    return Factors(v, normalize(effect, dim=-1), effect.norm(dim=-1), radius, "linear", meta={"method": method})

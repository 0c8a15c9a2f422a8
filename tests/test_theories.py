"""Theories of the number of orthogonal vectors, on maps where the number is known by construction.

TABLE says which theory must be right on which map (within a factor 1.5), and which must be wrong (by more than 2), and
why. The number itself is confirmed by the greedy search on the map.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

import pytest
import torch
from torch import Tensor
from toys import DTYPE, rng, rotation

from mi_ortho.derivatives import gauss_newton
from mi_ortho.elicitation import FunctionMap, LinearMap, displace, match, melbo
from mi_ortho.multiplicity import composition_exponent, smallest_scale
from mi_ortho.nulls import (
    Prediction,
    chance_in_frames,
    displacement_curve,
    extrapolated,
    feature_multiplicity,
    feature_profile,
    finite_radius,
    flat_band,
    greedy_family,
    in_stream,
    linear_at_zero,
    linear_on_path,
    schur_horn_count,
    second_order_at_zero,
    sphere_form,
    stream_coordinates,
    surrogate_search,
)

D, HALF = 32, 0.5
Effect = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Map:
    """A planted effect, its exact number of orthogonal vectors of norm <= norm with an effect of half, and its parts.

    `stream` is what T5 takes for the residual stream, `z` what T7 takes the Gauss-Newton spectrum of.
    """

    effect: Effect
    count: int
    norm: float
    base: Tensor
    stream: Tensor = field(default_factory=lambda: 100 * rotation(D, 9)[:1])
    z: FunctionMap | LinearMap | None = None


def quadratic(values: Tensor, norm: float) -> Map:
    """theta' Q theta: Schur and Horn's count is exact."""
    axes = rotation(D)
    return Map(
        lambda theta: (theta @ axes.mT).square() @ values, schur_horn_count(values, norm, HALF), norm, norm * axes[0]
    )


def spectrum() -> Tensor:
    """Eight directions at 1, eight at .3, eight at 0 and eight at -.2."""
    return torch.tensor([1.0, 0.3, 0.0, -0.2], dtype=DTYPE).repeat_interleave(8)


def linear() -> Map:
    """<g, theta>: N orthogonal vectors share the gradient's square, (norm |g| / tau)^2 of them."""
    gradient = rotation(D)[0]
    norm = HALF * 8.3**0.5
    return Map(lambda theta: theta @ gradient, 8, norm, gradient)


def late() -> Map:
    """The same form switched on by the norm: 0 to third order at 0, itself from well below the cap on."""
    plain = quadratic(spectrum(), 0.8)
    return Map(
        lambda theta: plain.effect(theta) * -torch.expm1(-(((theta.square().sum(-1)) / 0.3) ** 2)),
        plain.count,
        0.8,
        plain.base,
    )


def features(power: float) -> Map:
    """sum over 12 features of |theta_f|^p, of which one alone reaches the threshold at 1 / 1.05 of the cap."""
    axes, norm = rotation(D)[:12], 1.05
    return Map(lambda theta: HALF * (theta @ axes.mT).abs().pow(power).sum(-1), 12, norm, norm * axes[0])


def thresholded() -> Map:
    """sum over 10 features of softplus(8 (theta_f - 1)) / 8, of which one alone reaches the threshold at 1.5."""
    axes, norm = rotation(D)[:10], 1.6
    raise_ = torch.nn.functional.softplus
    return Map(lambda theta: raise_(8 * (theta @ axes.mT - 1)).sum(-1) / 8, 10, norm, norm * axes[0])


def saturated() -> Map:
    """kappa |P theta|^2 / (mean |x + theta|^2) over the positions x and -x: .65 of the share inside at norm 3, |x| = 1.

    The effect grows with the norm, so the number is Schur and Horn's for .65 P at norm 1.
    """
    inside, x = rotation(D)[:10], rotation(D, 5)[:1]
    kappa = 0.65 / 0.9

    def effect(theta: Tensor) -> Tensor:
        return kappa * (theta @ inside.mT).square().sum(-1) / (1 + theta.square().sum(-1))

    return Map(effect, int(10 * 0.65 / HALF), 3.0, 3 * inside[0], torch.cat([x, -x]))


def band() -> Map:
    """A switch on the length of z = J theta, whose J has 10 singular values of 1 and 22 of .3: half above |z|^2 = .8.

    By Schur and Horn on J'J: 10 + .09 (N - 10) >= .8 N, N = 12. Random vectors have |z|^2 = .37.
    """
    singular = torch.tensor([1.0] * 10 + [0.3] * 22, dtype=DTYPE)
    z = LinearMap(singular[:, None] * rotation(D), torch.zeros(D, dtype=DTYPE))

    def effect(theta: Tensor) -> Tensor:
        return torch.sigmoid((z(theta).square().sum(-1) - 0.8) / 0.03)

    return Map(effect, schur_horn_count(singular.square(), 1.0, 0.8), 1.0, rotation(D)[0], z=z)


def dense() -> Map:
    """|theta|^2 over 1.5: every vector of the norm works."""
    return Map(lambda theta: theta.square().sum(-1) / 1.5, D, 1.0, rotation(D)[0])


MAPS: Mapping[str, Callable[[], Map]] = {
    "linear": linear,
    "quadratic": lambda: quadratic(spectrum(), 0.8),
    "late": late,
    "cubic features": lambda: features(3.0),
    "quartic features": lambda: features(4.0),
    "thresholded": thresholded,
    "saturated": saturated,
    "band": band,
    "dense": dense,
}


def top_directions(case: Map, k: int = 6) -> Tensor:
    """MELBO's vectors on the effect as a map: what T4 takes for the features."""
    z = FunctionMap(lambda theta: case.effect(theta)[:, None], D)
    results = melbo(
        displace(z, like=case.base), radius=case.norm, n=k, generator=rng(3), block=1, max_steps=80, tolerance=1e-9
    )
    return torch.stack([result.vector for result in results])


def as_map(case: Map) -> FunctionMap:
    return FunctionMap(lambda theta: case.effect(theta)[:, None], D)


@cache
def predictions(name: str) -> dict[str, Prediction]:
    """What every theory says about one map."""
    case = MAPS[name]()
    effect, base, norm = case.effect, case.base, case.norm
    top = top_directions(case)
    # single norms are sought beyond the cap too, so that a direction that just fails has one
    norms = norm * smallest_scale(effect, top, HALF, high=4.0)
    working = top[norms <= norm]
    exponent = 1.0
    if len(working) >= 2:
        exponent = composition_exponent(effect, working, HALF, generator=rng(), sizes=(2,)).exponent
    values = torch.linalg.eigvalsh(gauss_newton(match(case.z or as_map(case), base), base, generator=rng()))
    return {
        "T1 at 0": linear_at_zero(as_map(case), base, norm),
        "T1 path": linear_on_path(as_map(case), base, norm),
        "T2": second_order_at_zero(effect, base, norm),
        "T3": finite_radius(effect, base, norm, generator=rng(1)),
        "T4": feature_multiplicity(effect, base, norm, norms, max(exponent, 1.0), generator=rng(1), samples=512),
        "T4 profile": feature_profile(effect, top, norm, norms, generator=rng(1), samples=512),
        "T5": in_stream(effect, case.stream, norm, generator=rng(1)),
        "T6": chance_in_frames(effect, base, norm, generator=rng(1)),
        "T7": flat_band(values),
        "T8 at 0": surrogate_search(effect, torch.zeros_like(base), norm, generator=rng(1)),
        "T8 at base": surrogate_search(effect, base, norm, generator=rng(1)),
    }


if __name__ == "__main__":
    for name in MAPS:
        case = MAPS[name]()
        print(name, case.count, "found", len(greedy_family(case.effect, case.base, case.norm, generator=rng(2))))
        for theory, p in predictions(name).items():
            print(f"   {theory:12s} {p.count:7.2f} {p.interval or ''} {p.source} {p.forward} {p.backward}")

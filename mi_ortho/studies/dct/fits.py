"""The norm, the fits of every method and seed, random directions beside them, and how far the fits agree."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from mi_ortho.dct import (
    Factors,
    calibrate_scale,
    exponential_dct,
    linear_dct,
    load_factors,
    nonlinearity,
    polar_retraction,
    projected_linear_dct,
    published_exponential_dct,
    published_linear_dct,
    published_projected_linear_dct,
    published_quadratic_dct,
    qr_retraction,
    quadratic_dct,
    reconstruction_error,
    save_factors,
)
from mi_ortho.derivatives.means import Maps, as_maps, displacement
from mi_ortho.derivatives.spectra import dense_singular, krylov_singular, overlap, randomised_singular
from mi_ortho.elicitation import random_vectors
from mi_ortho.interventions.subspace import orthonormal_rows, span
from mi_ortho.runs.rows import Row
from mi_ortho.studies.dct.bench import Study
from mi_ortho.studies.dct.config import DctConfig

SOLVERS = {"dense": dense_singular, "krylov": krylov_singular, "randomised": randomised_singular}
RANDOM = "random"
TRIED = 64  # random vectors on which the error of a fit is measured
RADII = tuple(2.0**power for power in range(-5, 3))


def factor_sets(config: DctConfig) -> list[tuple[str, int]]:
    """Every fit of a run as (method, seed); the random directions of each seed come last."""
    names = [prefix + name for prefix in ("", "published ")[: 1 + config.published] for name in config.method]
    return [(name, seed) for seed in config.seeds for name in (*names, RANDOM)]


def scale_rows(study: Study, maps: Maps) -> list[Row]:
    """Rows with the norm of all steering vectors, and how far the response is from linear at norms around it."""
    config, generator = study.config, study.generator("scale")
    radius = config.radius
    if radius is None:
        study.say(f"calibrating the norm: {config.ratio:g} of the response not linear")
        radius = calibrate_scale(maps, generator=generator, ratio=config.ratio, chunk=config.chunk)
    directions = random_vectors(16, study.width, 1.0, generator)
    curve = nonlinearity(maps, directions, [radius * times for times in RADII], chunk=config.chunk)
    rows: list[Row] = [{"kind": "radius", "radius": radius, "given": config.radius is not None}]
    return rows + [
        {
            "kind": "nonlinearity",
            "norm": radius * times,
            "mean": float(part.square().mean().sqrt()),
            "low": float(part.min()),
            "high": float(part.max()),
        }
        for times, part in zip(RADII, curve, strict=True)
    ]


def methods(config: DctConfig) -> Mapping[str, Callable[..., Factors]]:
    """Every method by name, as a function of maps, k, radius and generator; all other settings are bound."""
    retract = {"qr": qr_retraction, "polar": polar_retraction}[config.retract]
    projected, moves = {"projections": max(config.projections, config.k)}, {"steps": config.steps}
    damped = {**moves, "damping": config.damping, "projections": config.projections}
    return {
        "linear": partial(linear_dct, solve=SOLVERS[config.solver]),
        "projected": partial(projected_linear_dct, **projected),
        "quadratic": partial(quadratic_dct, **moves, damping=config.damping, retract=retract),
        "exponential": partial(exponential_dct, **damped, retract=retract),
        "published linear": published_linear_dct,
        "published projected": partial(published_projected_linear_dct, **projected),
        "published quadratic": partial(published_quadratic_dct, **moves),
        "published exponential": partial(published_exponential_dct, **damped),
        RANDOM: random_factors,
    }


def random_factors(z: Maps, k: int, *, radius: float, generator: torch.Generator, chunk: int = 64) -> Factors:
    """The control: random orthonormal directions of the same norm with their effects, as linear factors."""
    inputs = orthonormal_rows(random_vectors(k, as_maps(z)[0].d_model, 1.0, generator))
    effect = displacement(z, radius * inputs, chunk=chunk)
    return Factors(inputs, normalize(effect, dim=-1), effect.norm(dim=-1), radius, "linear", meta={"method": RANDOM})


def fit(study: Study, maps: Maps, radius: float, name: str, seed: int) -> list[Row]:
    """Fit once and save the factors to a file; the row holds its error on random vectors of the norm."""
    config = study.config
    began = time.perf_counter()
    factors = methods(config)[name](
        maps, config.k, radius=radius, generator=study.generator(f"fit {seed} {name}"), chunk=config.chunk
    )
    seconds = time.perf_counter() - began
    save_factors(factors, study.run.path / "factors" / f"{_file(name, seed)}.safetensors")
    theta = random_vectors(TRIED, study.width, radius, study.generator(f"tried {seed}"))
    effect = displacement(maps, factors.vectors, chunk=config.chunk).norm(dim=-1)
    row: Row = {
        "kind": "fit",
        "method": name,
        "seed": seed,
        "factors": len(factors),
        "response": factors.kind,
        "trace": list(factors.trace),
        "effect": float(effect.mean()),
        "missed": reconstruction_error(factors, maps, theta, chunk=config.chunk),
        "off_diagonal": float(_off_diagonal(factors.inputs)),
        "seconds": seconds,
    }
    return [row]


def load_fit(study: Study, name: str, seed: int) -> Factors:
    """The saved factors of a fit."""
    return load_factors(study.run.path / "factors" / f"{_file(name, seed)}.safetensors")


def agreement_rows(study: Study) -> list[Row]:
    """Overlap of the directions' spans: of methods at the first seed, and of each method's fits over seeds."""
    config, generator = study.config, torch.Generator().manual_seed(0)
    names = list(dict.fromkeys(name for name, _ in factor_sets(config)))
    pairs = [((a, config.seeds[0]), (b, config.seeds[0])) for a, b in combinations(names, 2)]
    pairs += [((name, a), (name, b)) for name in names for a, b in combinations(config.seeds, 2)]
    rows = []
    for (first, one), (second, two) in pairs:
        spans = [span(load_fit(study, *fitted).inputs.double()) for fitted in ((first, one), (second, two))]
        if all(map(len, spans)):
            comparison = overlap(*spans, generator=generator)
            rows.append(
                {
                    "kind": "agreement",
                    "first": first,
                    "second": second,
                    "seed": one,
                    "other_seed": two,
                    "share": comparison.share,
                    "chance": float(comparison.null.mean()),
                    "p_value": comparison.p_value,
                }
            )
    return rows


def _off_diagonal(rows: Float[Tensor, "k d_model"]) -> Tensor:
    cosines = rows.double() @ rows.double().mT
    return (cosines - torch.diag(cosines.diagonal())).abs().max()


def _file(name: str, seed: int) -> str:
    return f"{name.replace(' ', '_')}-{seed}"


def stacked(study: Study) -> dict[str, Tensor]:
    """The steering vectors of every method at the first seed, by method name."""
    names = dict.fromkeys(name for name, _ in factor_sets(study.config))
    return {name.replace(" ", "_"): load_fit(study, name, study.config.seeds[0]).vectors for name in names}

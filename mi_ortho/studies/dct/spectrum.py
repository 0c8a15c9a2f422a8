"""Singular values of the Jacobian of the slice, of its first block and of all later blocks, beside a random matrix."""

from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.derivatives.means import Maps, as_maps
from mi_ortho.derivatives.spectra import Singular, linearise, overlap
from mi_ortho.interventions.subspace import span
from mi_ortho.nulls.bounds import effective_dimension
from mi_ortho.runs.rows import Row
from mi_ortho.studies.dct.bench import Study
from mi_ortho.studies.dct.fits import SOLVERS

LARGEST = 1024  # rows of the random matrix; a larger one has the same spectrum but for its scale
PROBES = 16  # random directions that the size of a Jacobian is estimated with


def spectrum_rows(study: Study) -> list[Row]:
    """Spectra of the slice, of its first block and of all blocks to the end, and overlaps of their leading spaces."""
    config, last = study.config, int(study.subject.model.cfg.n_layers) - 1
    ends = {"slice": config.target, "first block": config.source + 1, "to the last block": last}
    ends = {name: end for name, end in ends.items() if name == "slice" or end != config.target}
    rows: list[Row] = []
    leading: dict[str, Tensor] = {}
    for name, end in ends.items():
        triplets, size = singular(study, study.maps(config.source, end))
        null = gaussian_spectrum(study.width, size, study.generator("spectrum null"))[: len(triplets.values)]
        bound = triplets.bound.tolist()
        rows += [
            {"kind": "singular", "map": name, "index": k, "value": value, "null": chance, "bound": error}
            for k, (value, chance, error) in enumerate(zip(triplets.values.tolist(), null.tolist(), bound))
        ]
        rows.append(
            {
                "kind": "spectrum",
                "map": name,
                "target": end,
                "top": float(triplets.values[0]),
                "null_top": float(null[0]),
                "frobenius": size,
                "dimension": effective_dimension(triplets.values.double().cpu().square()),
                "null_dimension": effective_dimension(null.double().square()),
            }
        )
        leading[name] = triplets.right[: config.k].double().cpu()
    generator = torch.Generator().manual_seed(0)
    for one, other in combinations(leading, 2):
        shared = overlap(span(leading[one]), span(leading[other]), generator=generator)
        rows.append(
            {
                "kind": "overlap",
                "first": one,
                "second": other,
                "share": shared.share,
                "chance": float(shared.null.mean()),
                "p_value": shared.p_value,
                "smallest_angle": float(shared.angles[0]),
            }
        )
    return rows


def singular(study: Study, maps: Maps) -> tuple[Singular, float]:
    """The singular triplets at 0 (all with the dense solver, else k) and the Frobenius norm of the Jacobian."""
    config, generator = study.config, study.generator("spectrum")
    zero = torch.zeros(as_maps(maps)[0].d_model, device=study.subject.device)
    operator = linearise(maps, zero, chunk=config.chunk)
    if config.solver == "dense":
        triplets = SOLVERS["dense"](operator, min(operator.m, len(zero)), generator)
        return triplets, float(triplets.values.norm())
    triplets = SOLVERS[config.solver](operator, min(config.k, operator.m), generator)
    directions = torch.randn(PROBES, len(zero), generator=generator, device=generator.device)
    return triplets, float(operator.forward(directions).square().sum().div(PROBES).sqrt())


def gaussian_spectrum(width: int, frobenius: float, generator: torch.Generator) -> Float[Tensor, " width"]:
    """Singular values, in order, of a square Gaussian matrix of this width and Frobenius norm.

    The null of a spectrum: no direction is special. That of a wide matrix is interpolated from a smaller one, whose
    spectrum has the same shape (Marchenko and Pastur 1967).
    """
    size = min(width, LARGEST)
    sample = torch.linalg.svdvals(torch.randn(size, size, generator=generator, device=generator.device).double()).cpu()
    places = torch.linspace(0, size - 1, width, dtype=torch.float64)
    below = places.floor().long().clamp(max=size - 1)
    above = (below + 1).clamp(max=size - 1)
    values = sample[below] + (places - below) * (sample[above] - sample[below])
    return values * (frobenius / values.norm())

"""The geometry of the residual stream along depth: growth, shared directions, likeness of layers, flatness.

Tensors in, numbers out; reading them from a model is the job of `streams`.
"""

from mi_ortho.geometry.clouds import (
    Flatness,
    Geodesics,
    bent_copy,
    flatness,
    gaussian_copy,
    geodesic_ratio,
    geodesics,
    grouped_copy,
    local_dimension,
    mean_defect,
    triangle_defect,
)
from mi_ortho.geometry.depth import StreamMoments, gather_moments, merge_moments, stream_moments
from mi_ortho.geometry.growth import Growth, fit_exponential, fit_power
from mi_ortho.geometry.similarity import (
    AffineMap,
    explained_share,
    fit_linear,
    fit_rotation,
    fit_scaling,
    linear_cka,
    procrustes_distance,
    random_rotation,
    randomly_turned,
    split_half_cka,
)
from mi_ortho.geometry.writes import chance_overlaps, mean_of_pairs, overlap_matrix, write_space

__all__ = [
    "AffineMap",
    "Flatness",
    "Geodesics",
    "Growth",
    "StreamMoments",
    "bent_copy",
    "chance_overlaps",
    "explained_share",
    "fit_exponential",
    "fit_linear",
    "fit_power",
    "fit_rotation",
    "fit_scaling",
    "flatness",
    "gather_moments",
    "gaussian_copy",
    "geodesic_ratio",
    "geodesics",
    "grouped_copy",
    "linear_cka",
    "local_dimension",
    "mean_defect",
    "mean_of_pairs",
    "merge_moments",
    "overlap_matrix",
    "procrustes_distance",
    "random_rotation",
    "randomly_turned",
    "split_half_cka",
    "stream_moments",
    "triangle_defect",
    "write_space",
]

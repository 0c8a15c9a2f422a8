"""Deep causal transcoding: what a slice of a network does to steering vectors, as a sum of simple factors."""

from mi_ortho.dct.exponential import exponential_dct
from mi_ortho.dct.factors import Factors, load_factors, predict, reconstruction_error, save_factors
from mi_ortho.dct.linear import linear_dct, projected_linear_dct
from mi_ortho.dct.published import (
    published_exponential_dct,
    published_linear_dct,
    published_projected_linear_dct,
    published_quadratic_dct,
)
from mi_ortho.dct.quadratic import quadratic_dct
from mi_ortho.dct.ranking import FactorRanking, rank_by_readout, rank_by_weight
from mi_ortho.dct.scale import calibrate_scale, nonlinearity
from mi_ortho.dct.steps import Retraction, polar_retraction, qr_retraction

__all__ = [
    "Factors",
    "FactorRanking",
    "Retraction",
    "calibrate_scale",
    "exponential_dct",
    "linear_dct",
    "load_factors",
    "nonlinearity",
    "polar_retraction",
    "predict",
    "projected_linear_dct",
    "published_exponential_dct",
    "published_linear_dct",
    "published_projected_linear_dct",
    "published_quadratic_dct",
    "qr_retraction",
    "quadratic_dct",
    "rank_by_readout",
    "rank_by_weight",
    "reconstruction_error",
    "save_factors",
]

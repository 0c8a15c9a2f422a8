"""Derivatives of an activation map: first, second, spectra, and means over tokens and prompts."""

from mi_ortho.derivatives.first import gauss_newton, jacobian, mean_jacobian, pullback, pushforward
from mi_ortho.derivatives.means import Maps, displacement, pooled
from mi_ortho.derivatives.second import effect_hessian, hessian_products, second_derivatives
from mi_ortho.derivatives.spectra import (
    Linearisation,
    Overlap,
    Singular,
    Solver,
    dense_singular,
    krylov_singular,
    linearise,
    overlap,
    randomised_singular,
)

__all__ = [
    "Linearisation",
    "Maps",
    "Overlap",
    "Singular",
    "Solver",
    "dense_singular",
    "displacement",
    "effect_hessian",
    "gauss_newton",
    "hessian_products",
    "jacobian",
    "krylov_singular",
    "linearise",
    "mean_jacobian",
    "overlap",
    "pooled",
    "pullback",
    "pushforward",
    "randomised_singular",
    "second_derivatives",
]

"""Theories T0 to T9 of how many mutually orthogonal vectors have an effect, each a number before any family is grown.

An effect b maps steering vectors to shares of the base's effect. Each theory gives a `Prediction` of the number of
mutually orthogonal vectors of at most some norm with b of at least a threshold.
"""

from mi_ortho.nulls.theories.expansions import linear_at_zero, linear_on_path, second_order_at_zero
from mi_ortho.nulls.theories.features import feature_multiplicity, feature_profile
from mi_ortho.nulls.theories.prediction import (
    DisplacementCurve,
    Prediction,
    displacement_curve,
    extrapolated,
    flat_top,
)
from mi_ortho.nulls.theories.searches import chance_in_frames, greedy_family, second_order_model, surrogate_search
from mi_ortho.nulls.theories.sphere import SphereForm, finite_radius, in_stream, sphere_form, stream_coordinates

__all__ = [
    "DisplacementCurve",
    "Prediction",
    "SphereForm",
    "chance_in_frames",
    "displacement_curve",
    "extrapolated",
    "feature_multiplicity",
    "feature_profile",
    "finite_radius",
    "flat_top",
    "greedy_family",
    "in_stream",
    "linear_at_zero",
    "linear_on_path",
    "second_order_at_zero",
    "second_order_model",
    "sphere_form",
    "stream_coordinates",
    "surrogate_search",
]

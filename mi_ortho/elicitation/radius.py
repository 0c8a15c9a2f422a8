"""The norm a steering vector needs: where a map stops being linear."""

import torch

from mi_ortho.elicitation.starts import random_vectors
from mi_ortho.objectives import ActivationMap, unsteered


def calibrate_radius(
    z: ActivationMap, *, generator: torch.Generator, ratio: float = 0.5, samples: int = 30, highest: float = 1e3
) -> float:
    """The norm R at which a random steering vector's effect is no longer linear.

    Solves sqrt(mean_v |z(Rv) - z(0) - R J v|^2 / |R J v|^2) = ratio over random unit vectors v (the calibration of the
    deep causal transcoding post, as the ratio its code solves). J v is a central difference at norm `highest` / 1e5.

    Args:
        z: the activation map.
        generator: source of the random directions.
        ratio: 0.5 in the post.
        samples: number of directions.
        highest: upper end of the search; its lower end is 1e-5 of that.

    Raises:
        ValueError: the map is constant, or the ratio is not reached below `highest`.
    """
    directions = random_vectors(samples, z.d_model, 1.0, generator)
    tiny = 1e-5 * highest
    with torch.no_grad():
        start = unsteered(z, directions).flatten()
        slope = (z(tiny * directions).flatten(1) - z(-tiny * directions).flatten(1)) / (2 * tiny)
        if not slope.norm() > 0:
            raise ValueError("got a map that does not depend on the steering vector; choose a target after the source")

        def nonlinearity(radius: float) -> float:
            excess = z(radius * directions).flatten(1) - start - radius * slope
            return float((excess.square().sum(-1) / (radius * slope).square().sum(-1)).mean().sqrt())

        return _crossing(nonlinearity, ratio, tiny, highest)


def _crossing(fn, level: float, low: float, high: float) -> float:
    if not fn(high) > level:
        raise ValueError(
            f"got a non-linearity of {fn(high):.2g} at norm {high:g}; expected it to exceed {level:g}; "
            "the map is nearly linear: set the radius by hand"
        )
    while high / low > 1.001:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if fn(middle) > level else (middle, high)
    return (low * high) ** 0.5

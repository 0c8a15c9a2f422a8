"""Iso-response contours and flat bands on maps whose exponents and bands are planted."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from planted import allowed
from toys import DTYPE, flat_energy, randn, rng, rotation, threshold_features

from mi_ortho import FunctionMap, Subspace
from mi_ortho.derivatives import dense_singular, effect_hessian, linearise
from mi_ortho.multiplicity import Contours, flat_band, half_plateau, iso_response, log_contour, rotate_band
from mi_ortho.stats import exact_paired_rates

Effect = Callable[[torch.Tensor], torch.Tensor]
WIDTH, COUNT = 24, 8
FEATURES = rotation(WIDTH, seed=3)[:COUNT]
POWERS = (1.0, 1.5, 2.0, 3.0, 4.0)


def power(p: float, features: torch.Tensor = FEATURES) -> Effect:
    """(sum over features of |<f, theta>|^p)^(1/p)."""
    return lambda theta: (theta @ features.mT).abs().pow(p).sum(-1) ** (1 / p)


def saturated(effect: Effect) -> Effect:
    """The same contours with a plateau at 1."""
    return lambda theta: torch.tanh(effect(theta))


def noisy(effect: Effect, size: float, seed: int) -> Effect:
    """Times a smooth random field of log standard deviation `size`, which no two directions share."""
    waves, phases = 4 * randn(WIDTH, 32, seed=seed), 2 * math.pi * torch.rand(32, generator=rng(seed), dtype=DTYPE)
    return lambda theta: effect(theta) * torch.exp(size / 4 * torch.sin(theta @ waves + phases).sum(-1))


def contours(effect: Effect, level: float, directions: torch.Tensor = FEATURES, seed: int = 0) -> Contours:
    return iso_response(effect, directions, level, high=8.0, generator=rng(seed))


@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("plateau", [False, True])
def test_the_exponent_of_a_power_is_its_power(p: float, plateau: bool) -> None:
    effect = saturated(power(p)) if plateau else power(p)
    level = half_plateau(effect, FEATURES, high=8.0) if plateau else 1.0
    assert not plateau or level == pytest.approx(0.5, abs=1e-6)
    measured = contours(effect, level, FEATURES * torch.linspace(1, 3, COUNT, dtype=DTYPE)[:, None])
    assert measured.exponent.value == pytest.approx(p, abs=0.02)
    assert measured.exponent.interval == pytest.approx((p, p), abs=0.05)
    torch.testing.assert_close(1 / measured.inverses, torch.full((28,), p, dtype=DTYPE), atol=0.02, rtol=0)
    assert measured.misfit < 1e-3 and measured.outside == 0 and measured.unreached == ()
    wanted = torch.as_tensor(np.exp(log_contour(1 / p, measured.angles.numpy())))
    torch.testing.assert_close(measured.contours, wanted.expand(28, 5), rtol=2e-3, atol=0)


def coverage(p: float, plateau: bool, runs: int, size: float = 0.01) -> tuple[int, float]:
    """How many planted draws' intervals hold p, and the median of their exponents."""
    exponents, held = [], 0
    for seed in range(runs):
        effect = noisy(power(p), size, 1000 + seed)
        measured = contours(saturated(effect) if plateau else effect, 0.5, seed=seed)
        assert measured.inverse.interval is not None
        held += measured.inverse.interval[0] <= 1 / p <= measured.inverse.interval[1]
        exponents.append(measured.exponent.value)
    return held, float(np.median(exponents))


def test_intervals_hold_the_planted_exponent() -> None:
    rounds = [(p, *coverage(p, plateau, 20)) for p in POWERS for plateau in (False, True)]
    assert all(abs(median - p) < 0.1 for p, _, median in rounds), rounds
    assert sum(held for _, held, _ in rounds) >= 200 - allowed(200, 0.1), rounds

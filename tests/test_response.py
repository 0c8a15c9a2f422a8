"""Dose response, composition and signs on maps whose exponents are known: linear, quadratic, quartic, threshold."""

import math
from collections.abc import Callable
from itertools import islice

import pytest
import torch
from toys import DTYPE, flat_energy, linear, randn, rng, rotation, spread, threshold_features

from mi_ortho import FunctionMap, Lbfgs, OrthoSettings, match, melbo_ortho
from mi_ortho.derivatives import gauss_newton
from mi_ortho.multiplicity import (
    composition_exponent,
    dose_exponents,
    dose_response,
    equalised,
    local_exponents,
    paired_sign_test,
    shuffled,
    sign_coherence_test,
    sign_flips,
    sign_test,
    smallest_scale,
)

Effect = Callable[[torch.Tensor], torch.Tensor]
FEATURES = rotation(24)[:16]
SHARED = FEATURES.sum(0) / 4


def separable(p: float) -> Effect:
    """sum over features of |<f, theta>|^p; for p = 1 the signed sum, which is linear."""
    if p == 1:
        return lambda theta: theta @ FEATURES.sum(0)
    return lambda theta: (theta @ FEATURES.mT).abs().pow(p).sum(-1)


def stepped(theta: torch.Tensor) -> torch.Tensor:
    """How many features are above 1: separate features, each with a hard threshold."""
    return ((theta @ FEATURES.mT) >= 1 - 1e-12).sum(-1).to(theta.dtype)


SCALES = torch.logspace(-2, 0.5, 15, dtype=DTYPE)


@pytest.mark.parametrize("p", [1, 2, 3, 4])
def test_dose_response_of_a_power(p: int) -> None:
    vectors = torch.tensor([[2.0], [0.5]], dtype=DTYPE) * FEATURES[:2]
    effects = dose_response(separable(p), vectors, SCALES)
    lengths, exponent = torch.tensor([[2.0], [0.5]], dtype=DTYPE), torch.tensor(float(p), dtype=DTYPE)
    torch.testing.assert_close(effects, lengths**p * SCALES**p, rtol=1e-10, atol=0)
    torch.testing.assert_close(local_exponents(effects, SCALES), exponent.expand(2, 14))
    torch.testing.assert_close(dose_exponents(effects, SCALES, low=0, high=9e9), exponent.expand(2))


def test_exponents_leave_out_noise_and_saturation() -> None:
    effects = torch.stack([SCALES**2, SCALES**2]).clamp(0.01, 0.5)
    effects[1] = 0
    found = dose_exponents(effects, SCALES, low=0.011, high=0.499)
    assert float(found[0]) == pytest.approx(2, abs=1e-8) and bool(found[1].isnan())
    assert bool(local_exponents(effects, SCALES)[1].isnan().all())


@pytest.mark.parametrize(("p", "norm", "threshold"), [(1, 5.0, 2.0), (2, 5.0, 2.0), (4, 1.5, 0.3)])
def test_the_smallest_scale_in_closed_form(p: int, norm: float, threshold: float) -> None:
    vectors = norm * FEATURES[:3] * torch.tensor([[1.0], [0.01], [0.9]], dtype=DTYPE)
    found = smallest_scale(separable(p), vectors, threshold, refine=40)
    wanted = threshold ** (1 / p) / vectors.norm(dim=-1)
    torch.testing.assert_close(found[[0, 2]], wanted[[0, 2]], rtol=1e-9, atol=1e-8)
    assert math.isinf(float(found[1])), "too short to reach it at any scale up to 1"
    torch.testing.assert_close(equalised(vectors, found), vectors[[0, 2]] * wanted[[0, 2], None])
    assert float(smallest_scale(separable(1), vectors[:1], 1e-6)[0]) == pytest.approx(1 / 64)


def test_an_effect_that_comes_and_goes_is_found_at_its_first_rise() -> None:
    def bump(theta: torch.Tensor) -> torch.Tensor:
        return torch.exp(-50 * (theta[:, 0] - 0.4) ** 2) + (theta[:, 0] > 0.9)

    found = smallest_scale(bump, torch.ones(1, 3, dtype=DTYPE), 0.5, refine=40)
    assert float(found[0]) == pytest.approx(0.4 - (math.log(2) / 50) ** 0.5, abs=1e-8)


@pytest.mark.parametrize("p", [1, 2, 3, 4])
def test_the_composition_exponent_of_a_power_is_its_power(p: int) -> None:
    vectors = FEATURES * torch.linspace(1, 2, 16, dtype=DTYPE)[:, None]
    found = composition_exponent(separable(p), vectors, 0.5, generator=rng(), samples=3, refine=45)
    assert found.sizes == (1, 2, 3, 4, 6, 8) and found.scales.shape == (6, 3)
    wanted = torch.tensor([n ** (1 - 1 / p) for n in found.sizes], dtype=DTYPE)
    torch.testing.assert_close(found.scales, wanted[:, None].expand(6, 3), rtol=1e-8, atol=1e-8)
    assert found.exponent == pytest.approx(p, abs=1e-7)
    assert all(each == pytest.approx(p, abs=1e-7) for each in found.exponents[1:]) and math.isnan(found.exponents[0])
    assert found.interval == pytest.approx((p, p), abs=1e-5)


def test_any_rotation_of_a_quadratic_composes_alike() -> None:
    mixed = rotation(16, seed=4) @ FEATURES  # nothing to do with the features
    found = composition_exponent(separable(2), mixed, 0.5, generator=rng(), samples=3, refine=45)
    assert found.exponent == pytest.approx(2, abs=1e-7)


def test_thresholded_features_must_be_summed() -> None:
    found = composition_exponent(stepped, 1.5 * FEATURES, 1.0, generator=rng(), samples=3, refine=45)
    torch.testing.assert_close(found.scales[:, 0], torch.tensor([1, 2, 3, 4, 6, 8], dtype=DTYPE), rtol=1e-8, atol=1e-7)
    assert found.exponent > 1e6, "s* = n: no finite power"


def test_an_effect_no_mean_reaches_has_an_infinite_exponent() -> None:
    alone = FEATURES.repeat(1, 1)

    def only_alone(theta: torch.Tensor) -> torch.Tensor:
        shares = (theta @ alone.mT).square()
        return ((shares.amax(-1) > 0.99 * shares.sum(-1)) & (shares.sum(-1) > 0.25)).to(theta.dtype)

    found = composition_exponent(only_alone, alone, 1.0, generator=rng(), sizes=(2, 4), samples=3)
    assert bool(torch.isinf(found.scales[1:]).all()) and math.isinf(found.exponent)
    assert found.interval == (0.0, math.inf), "subsets that never work do not tell how far others would lie"


def family_of(z: FunctionMap, base: torch.Tensor, n: int, cap: float) -> tuple[Effect, torch.Tensor]:
    """Vectors MELBO-ortho finds on z, and the effect along the base's displacement as a share of it."""
    goal = match(z, base)
    settings = OrthoSettings(max_norm=cap * float(base.norm()), solver=Lbfgs(max_steps=60))
    curvature = gauss_newton(goal, base, generator=rng())
    found = [done.vector for done in islice(melbo_ortho(goal, base, seed=0, settings=settings, curvature=curvature), n)]
    start = z(torch.zeros_like(base)[None])[0]
    towards = goal.goal - start
    return lambda theta: (z(theta) - start) @ towards / towards.square().sum(), torch.stack(found)


def test_found_vectors_of_a_quadratic_energy_compose_like_one() -> None:
    z, basis = flat_energy(32, 16)
    effect, found = family_of(z, 3 * basis[0], 12, 1.5)
    composed = composition_exponent(effect, found, 0.5, generator=rng(), samples=4)
    assert composed.exponent == pytest.approx(2.0, abs=0.1)
    flips = sign_flips(effect, found, 0.5, generator=rng(), samples=20)
    assert flips.own == flips.negated == len(found) and flips.same == flips.random == 20
    assert flips.flipped.trials == 0 and flips.flipped.p_value == 1


def test_found_vectors_of_thresholded_features_compose_steeply_and_have_a_sign() -> None:
    z, features = threshold_features(24, 16, threshold=2.0)
    effect, found = family_of(z, 4 * features[0], 10, 1.5)
    composed = composition_exponent(effect, found, 0.5, generator=rng(), samples=4)
    assert composed.exponent > 2.5
    flips = sign_flips(effect, found, 0.5, generator=rng(), samples=20)
    assert flips.own >= 6 and flips.negated == 0
    assert flips.flipped.hits == flips.own and flips.flipped.p_value == pytest.approx(2 * 0.5**flips.own)


def test_a_linear_family_shares_signs_and_loses_them() -> None:
    z, _ = linear(spread(24, 60))
    base = 3 * randn(24, seed=5)
    effect, found = family_of(FunctionMap(z, 24), base, 6, float("inf"))
    gradient = z.jacobian.mT @ (z.jacobian @ base)
    along = sign_coherence_test(found, gradient)
    assert (along.hits, along.trials) == (6, 6) and along.p_value == pytest.approx(2 * 0.5**6)
    composed = composition_exponent(effect, found, 0.3, generator=rng(), sizes=(2, 4), samples=4)
    assert composed.exponent == pytest.approx(1, abs=0.01)
    flips = sign_flips(effect, found, 0.3, generator=rng(), samples=50)
    assert flips.own == 6 and flips.negated == 0 and flips.same == 50 and flips.random <= 35
    assert flips.mixed.p_value < 1e-3


def test_sign_tests_by_hand() -> None:
    assert sign_test(5, 5).p_value == pytest.approx(2 / 32) and sign_test(0, 5).p_value == pytest.approx(2 / 32)
    assert sign_test(3, 6).p_value == 1 and sign_test(0, 0).p_value == 1 and math.isnan(sign_test(0, 0).share)
    first, second = torch.tensor([1, 1, 1, 0, 0, 1], dtype=torch.bool), torch.tensor([0, 0, 1, 0, 1, 0]).bool()
    found = paired_sign_test(first, second)
    assert (found.hits, found.trials, found.share) == (3, 4, 0.75)


def test_random_directions_have_no_sign_coherence() -> None:
    vectors = randn(400, 24)
    controls = shuffled(SHARED, 60, rng())
    torch.testing.assert_close(controls.norm(dim=-1), SHARED.norm().expand(60))
    torch.testing.assert_close(controls.abs().sort(-1).values, SHARED.abs().sort().values.expand(60, 24))
    assert not torch.equal(controls[0], controls[1])
    shares = [sign_coherence_test(vectors, control).share for control in controls]
    assert abs(sum(shares) / 60 - 0.5) < 0.02


def test_random_subsets_of_signs_always_differ_from_their_own() -> None:
    seen = []

    def remember(theta: torch.Tensor) -> torch.Tensor:
        seen.append(theta)
        return theta[:, 0]

    sign_flips(remember, FEATURES, 0.0, generator=rng(), size=2, samples=40)
    parts, mixed = (batch @ FEATURES.mT for batch in seen[-2:])
    assert (parts.sum(-1) - 2 / 2**0.5).abs().max() < 1e-9, "own signs, sqrt(2)-scaled mean of two unit vectors"
    assert (mixed.sum(-1).abs() < 1e-9).all(), "of two signs one always differs"


def test_wrong_arguments_are_refused() -> None:
    linear_effect, generator = separable(1), rng()
    refused = {
        "got 0 vectors": lambda: dose_response(linear_effect, FEATURES[:0], SCALES),
        "got an effect of shape": lambda: dose_response(lambda theta: theta, FEATURES, SCALES),
        "got scales": lambda: local_exponents(torch.ones(1, 2), torch.tensor([2.0, 1.0])),
        "got scales from 1.0 to 0.5": lambda: smallest_scale(linear_effect, FEATURES, 1.0, low=1.0, high=0.5),
        r"got sizes \(2, 20\)": lambda: composition_exponent(
            linear_effect, FEATURES, 0.1, generator=generator, sizes=(2, 20)
        ),
        "and 0 of 16 vectors": lambda: composition_exponent(linear_effect, -FEATURES, 0.1, generator=generator),
        "got 3 hits in 2 trials": lambda: sign_test(3, 2),
        "got a direction of norm 0": lambda: sign_coherence_test(FEATURES, 0 * SHARED),
        "got size=17": lambda: sign_flips(linear_effect, FEATURES, 0.1, generator=generator, size=17),
    }
    for message, call in refused.items():
        with pytest.raises(ValueError, match=message):
            call()

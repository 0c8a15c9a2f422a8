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
    return iso_response(effect, directions, level, high=8.0, generator=rng(seed), chunk=2048)


@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("plateau", [False, True])
def test_the_exponent_of_a_power_is_its_power(p: float, plateau: bool) -> None:
    effect = saturated(power(p)) if plateau else power(p)
    level = half_plateau(effect, FEATURES, high=8.0).level if plateau else 1.0
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


@pytest.mark.slow
@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("plateau", [False, True])
def test_intervals_hold_each_planted_exponent(p: float, plateau: bool) -> None:
    held, median = coverage(p, plateau, 200)
    print(f"p = {p}, plateau {plateau}: {held} of 200 intervals hold it, median {median:.3f}")
    assert held >= 180 and abs(median - p) < 0.1


def test_intervals_are_no_wider_than_they_must_be() -> None:
    _, median = coverage(3.0, True, 5, size=0.05)
    assert abs(median - 3) < 0.3, "five times the noise"
    half = [contours(noisy(power(2.0), 0.01, seed), 0.5, seed=seed).inverse.interval for seed in range(5)]
    assert all(ends is not None and 0 < ends[1] - ends[0] < 0.1 for ends in half)


def test_a_linear_effect_has_the_exponent_one_whatever_the_directions() -> None:
    gradient = randn(WIDTH, seed=8)
    directions = rotation(WIDTH, seed=9)[:COUNT]
    directions = directions * (directions @ gradient).sign()[:, None]
    measured = contours(lambda theta: theta @ gradient, 0.2 * float(gradient.norm()) * 0.3, directions)
    assert len(measured.pairs) >= 15 and measured.exponent.value == pytest.approx(1, abs=0.01)
    assert measured.exponent.interval == pytest.approx((1, 1), abs=0.02) and measured.misfit < 1e-3


def test_thresholded_features_have_a_large_exponent() -> None:
    z, features = threshold_features(WIDTH, COUNT, 1.0)
    direction = z(8.0 * features[:1])[0]
    steps = contours(lambda theta: torch.sigmoid(60 * (theta @ features.mT - 1)).sum(-1), 0.5, features)
    assert steps.exponent.value is not None and steps.exponent.value > 20
    soft = contours(lambda theta: z(theta) @ direction / direction.norm(), 0.2, features)
    assert soft.exponent.value is not None and soft.exponent.value > 4
    hard = contours(lambda theta: (theta @ features.mT >= 1).any(-1).to(DTYPE), 0.5, features)
    assert hard.inverse.value is not None and hard.inverse.value < 0.01


def test_a_quadratic_form_is_round_on_average_and_an_ellipse_in_each_pair() -> None:
    form = rotation(WIDTH, seed=1)
    form = form @ torch.diag(torch.linspace(0.5, 2, WIDTH, dtype=DTYPE)) @ form.mT
    directions = rotation(WIDTH, seed=5)[:12]
    measured = contours(lambda theta: ((theta @ form) * theta).sum(-1), 1.0, directions)
    low, high = measured.exponent.interval or (0.0, 0.0)
    assert low <= 2 <= high and float(measured.inverses.max() - measured.inverses.min()) > 0.05
    coupled = torch.eye(WIDTH, dtype=DTYPE) - 0.1  # all pairs of axes hinder each other
    against = contours(lambda theta: ((theta @ coupled) * theta).sum(-1), 0.5, torch.eye(WIDTH, dtype=DTYPE)[:COUNT])
    assert against.exponent.value is not None and against.exponent.value > 2.1, "the caution in the docstring"


def test_directions_without_effect_are_reported() -> None:
    directions = rotation(WIDTH, seed=3)[: COUNT + 2]  # the last two are no features
    measured = contours(saturated(power(2.0)), 0.5, directions)
    assert measured.unreached == (8, 9) and measured.reached.value == pytest.approx(0.8)
    assert set(measured.pairs.flatten().tolist()) == set(range(8)) and measured.inverse.n == 8
    plateau = half_plateau(saturated(power(2.0)), directions, high=8.0)
    assert plateau.level == pytest.approx(0.5, abs=1e-6) and plateau.growth == pytest.approx(1, abs=0.01)
    assert plateau.largest[8:].abs().max() < 1e-6, "nothing to see in the last two"
    nothing = contours(lambda theta: 0 * theta[:, 0], 0.5)
    assert nothing.unreached == tuple(range(8)) and nothing.inverse.value is None and nothing.exponent.interval is None
    assert math.isnan(nothing.misfit) and nothing.contours.shape == (0, 5)
    few = contours(power(2.0), 1.0, torch.cat([FEATURES[:2], rotation(WIDTH, seed=3)[-2:]]))
    assert few.exponent.value == pytest.approx(2, abs=0.02) and few.exponent.interval is None


def test_an_effect_without_a_plateau_is_told_by_its_growth() -> None:
    shifted: Effect = lambda theta: 5 + power(1.0)(theta)  # noqa: E731
    plateau = half_plateau(shifted, FEATURES, high=8.0)
    assert plateau.growth == pytest.approx(2) and plateau.level == pytest.approx(5 + 4)


def test_a_contour_of_another_shape_is_seen() -> None:
    def lopsided(theta: torch.Tensor) -> torch.Tensor:  # x + y^4 for every pair of a first and a later feature
        x = (theta @ FEATURES.mT).abs()
        return x[:, :4].sum(-1) + x[:, 4:].pow(4).sum(-1)

    measured = contours(lopsided, 1.0)
    mixed = (measured.pairs[:, 0] < 4) & (measured.pairs[:, 1] >= 4)
    assert float(measured.misfits[mixed].min()) > 10 * float(measured.misfits[~mixed].max())

    def hindered(theta: torch.Tensor) -> torch.Tensor:  # two together do less than the larger alone
        x = (theta @ FEATURES.mT).abs().sort(-1).values
        return x[:, -1] - 0.25 * x[:, -2]

    measured = contours(hindered, 1.0)
    assert measured.inverse.value == 0 and measured.misfit > 0.1 and float(measured.deviations[2]) > 0.25

    def excluded(theta: torch.Tensor) -> torch.Tensor:  # each alone, never two
        x = (theta @ FEATURES.mT).abs()
        return ((x >= 1).any(-1) & ((x > 0.2).sum(-1) == 1)).to(DTYPE)

    measured = contours(excluded, 0.5)
    assert bool(measured.contours.isinf().any()) and measured.outside > 0


def test_wrong_arguments_of_contours_are_named() -> None:
    with pytest.raises(ValueError, match="orthonormalise"):
        contours(power(2.0), 1.0, torch.ones(2, WIDTH, dtype=DTYPE))
    with pytest.raises(ValueError, match="no vector"):
        contours(power(2.0), 0.0)
    with pytest.raises(ValueError, match="smallest radius"):
        contours(power(2.0), 0.01)
    with pytest.raises(ValueError, match="norm 0"):
        half_plateau(power(2.0), torch.zeros(1, WIDTH, dtype=DTYPE), high=1.0)
    with pytest.raises(ValueError, match="positive radius"):
        half_plateau(power(2.0), FEATURES, high=0.0)


def test_the_effect_sees_no_more_rows_than_a_chunk() -> None:
    sizes = []

    def counted(theta: torch.Tensor) -> torch.Tensor:
        sizes.append(len(theta))
        return power(2.0)(theta)

    iso_response(counted, FEATURES, 1.0, high=8.0, generator=rng(), chunk=16)
    assert max(sizes) == 16
    assert sum(sizes) <= 1 + 8 * (2 * 13 + 11) + 28 * 5 * (13 + 9)


def test_a_flat_band_is_the_longest_run_of_small_gaps() -> None:
    values = torch.tensor([9.0, 8.9, 3.0, 2.95, 2.9, 2.86, 1.0, 0.0], dtype=DTYPE)
    band = flat_band(values, torch.eye(8, dtype=DTYPE))
    assert band.first == 2 and len(band.subspace) == 4 and not band.open
    assert band.ratio == pytest.approx(3 / 2.86)
    assert flat_band(values[:6], torch.eye(8, dtype=DTYPE)[:6]).open, "it may go on below what was computed"
    assert len(flat_band(values, torch.eye(8, dtype=DTYPE), gap=0.0).subspace) == 1
    small = torch.tensor([9.0, 1.0, 0.9, 0.8], dtype=DTYPE)
    assert len(flat_band(small, torch.eye(4, dtype=DTYPE)).subspace) == 1, "gaps are relative to their neighbours"
    slope = flat_band(0.98 ** torch.arange(100, dtype=DTYPE), torch.eye(100, dtype=DTYPE))
    assert len(slope.subspace) == 100 and slope.ratio > 7, "a slope of small gaps is told by its ratio"
    with pytest.raises(ValueError, match="sort them"):
        flat_band(values.flip(0), torch.eye(8, dtype=DTYPE))


def displacement_of(z: FunctionMap, width: int) -> Effect:
    start = z(torch.zeros(1, width, dtype=DTYPE))
    return lambda theta: (z(theta) - start).norm(dim=-1)


def energy_with_rest(inside: torch.Tensor) -> FunctionMap:
    """The energy inside the rows, and beside it a linear image of all else: the rest moves z without the effect."""

    def both(theta: torch.Tensor) -> torch.Tensor:
        rest = theta - (theta @ inside.mT) @ inside
        return torch.cat([(theta @ inside.mT).square().sum(-1, keepdim=True), 0.7 * rest], -1)

    return FunctionMap(both, inside.shape[1])


def test_a_planted_band_keeps_inside_and_loses_outside() -> None:
    _, inside = flat_energy(30, 10)
    z = energy_with_rest(inside)
    effect: Effect = lambda theta: z(theta)[:, 0]  # noqa: E731
    vector = 2 * inside[0] + 0.3 * rotation(30, seed=77)[0]
    values, columns = torch.linalg.eigh(effect_hessian(lambda theta: z(theta)[:, 0], 0 * vector))
    band = flat_band(values.flip(0), columns.mT.flip(0))
    assert len(band.subspace) == 10 and band.first == 0
    assert float((band.subspace.basis @ inside.mT).square().sum()) == pytest.approx(10)
    turned = rotate_band(effect, displacement_of(z, 30), vector, band.subspace, 2.0, generator=rng())
    assert turned.effect > 2 and turned.share > 0.8
    assert turned.kept(turned.inside).value == 1 and turned.kept(turned.negated).value == 1
    assert turned.kept(turned.outside).value == 0 and turned.kept(turned.displaced).value == 0
    assert bool(turned.displaced.usable.all())
    for control in (turned.outside, turned.displaced):
        low, high = turned.difference(control).interval or (0.0, 0.0)
        assert low > 0.8 and high == 1 and turned.test(control).p_value < 1e-10
        assert turned.equivalence(control, 0.2).decision.outcome == "not supported"
    norms = (each.vectors.norm(dim=-1) for each in (turned.inside, turned.outside, turned.negated))
    for each in norms:
        torch.testing.assert_close(each, vector.norm().expand(64))
    stays = band.subspace.reject(vector)
    torch.testing.assert_close(band.subspace.reject(turned.inside.vectors), stays.expand(64, 30))
    outside = turned.outside.vectors - stays
    torch.testing.assert_close(band.subspace.project(outside), torch.zeros_like(outside), atol=1e-9, rtol=0)
    torch.testing.assert_close(
        turned.displaced.displacements, torch.full((64,), turned.displacement, dtype=DTYPE), rtol=0.05, atol=0
    )


def test_a_band_of_singular_vectors_loses_the_goal_and_keeps_the_length() -> None:
    """On a linear map a turn inside the flat part keeps how far z moves, and loses where it moves to."""
    right = rotation(24, seed=2)
    sizes = torch.cat([torch.full((8,), 3.0, dtype=DTYPE), torch.full((16,), 0.5, dtype=DTYPE)])
    matrix = rotation(24, seed=4) @ torch.diag(sizes) @ right
    z = FunctionMap(lambda theta: theta @ matrix.mT, 24)
    singular = dense_singular(linearise(z, torch.zeros(24, dtype=DTYPE)), 24, rng())
    band = flat_band(singular.values.square(), singular.right)
    assert len(band.subspace) == 16 and band.first == 8, "the longest run, which here is the insensitive one"
    top = flat_band(singular.values[:8].square(), singular.right[:8])
    assert top.open and len(top.subspace) == 8
    vector, moved = right[0], displacement_of(z, 24)
    length = rotate_band(moved, moved, vector, top.subspace, 1.5, generator=rng())
    assert length.kept(length.inside).value == 1 and length.kept(length.outside).value == 0
    assert length.kept(length.displaced).value == 1, "matched in displacement, nothing else is left of this effect"
    goal = rotate_band(lambda theta: z(theta) @ z(vector[None])[0], moved, vector, top.subspace, 4.5, generator=rng())
    assert (goal.kept(goal.inside).value or 0) < 0.2


def test_a_map_without_a_band_shows_no_difference() -> None:
    z = FunctionMap(lambda theta: theta.square().sum(-1, keepdim=True) * torch.ones(3, dtype=DTYPE), 30)
    effect: Effect = lambda theta: z(theta)[:, 0]  # noqa: E731
    some = Subspace(rotation(30, seed=6)[:8])  # no more sensitive than the rest
    turned = rotate_band(effect, displacement_of(z, 30), 2 * some.basis[0], some, 3.0, generator=rng())
    for control in (turned.outside, turned.displaced):
        assert turned.difference(control).value == 0 and turned.test(control).p_value == 1
        assert turned.equivalence(control, 0.2).decision.outcome == "supported"
    chance = randn(30, 64, seed=12)

    def coin(theta: torch.Tensor) -> torch.Tensor:  # a rough effect that half of all vectors of this norm have
        return (2 * torch.sin(40 * (theta @ chance)).sum(-1) > 0).to(DTYPE)

    vector = next(v for v in 2 * some.basis if float(coin(v[None])) > 0)
    rough = rotate_band(coin, displacement_of(z, 30), vector, some, 1.0, generator=rng(), draws=400)
    low, high = rough.difference(rough.outside).interval or (1.0, 1.0)
    assert low < 0 < high and rough.equivalence(rough.outside, 0.2).decision.outcome == "supported"


def test_directions_that_cannot_move_as_far_are_left_out() -> None:
    z, inside = flat_energy(30, 10)
    effect: Effect = lambda theta: z(theta).norm(dim=-1)  # noqa: E731
    vector, band = 2 * inside[0], Subspace(inside)
    turned = rotate_band(
        effect, displacement_of(z, 30), vector, band, 0.5 * float(effect(2 * inside[:1])), generator=rng()
    )
    assert not bool(turned.displaced.usable.any()) and turned.kept(turned.displaced).value is None
    assert turned.difference(turned.displaced).value is None
    with pytest.raises(ValueError, match="no pair of usable"):
        turned.equivalence(turned.displaced, 0.2)
    steep = FunctionMap(lambda theta: theta * 1000 - 999 * (theta @ inside.mT) @ inside, 30)
    far = rotate_band(effect, displacement_of(steep, 30), vector, band, 1.0, generator=rng(), draws=8)
    assert not bool(far.displaced.usable.any()), "the shortest moves z too far"
    others = Subspace(rotation(30)[10:22])
    turned = rotate_band(effect, displacement_of(z, 30), vector, band, 1.0, generator=rng(), others=others, draws=8)
    torch.testing.assert_close(others.project(turned.outside.vectors), turned.outside.vectors)
    for wrong, match in (
        ({"threshold": 1e9}, "works"),
        ({"draws": 0}, "a draw"),
        ({"band": Subspace(inside[:1])}, "band of 1"),
        ({"band": Subspace(rotation(30)[20:])}, "part"),
        ({"others": Subspace(rotation(30)[10:12])}, "as many"),
    ):
        arguments = {"vector": vector, "band": band, "threshold": 1.0, "generator": rng(), **wrong}
        with pytest.raises(ValueError, match=match):
            rotate_band(effect, displacement_of(z, 30), **arguments)


@pytest.mark.parametrize("shares", [(0.9, 0.0), (0.5, 0.5), (0.3, 0.1), (0.98, 0.95)])
def test_exact_intervals_of_paired_rates_hold_the_difference(shares: tuple[float, float]) -> None:
    missed = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        shared = random.random(20)  # pairs of a draw agree
        first, second = shared < shares[0], np.where(random.random(20) < 0.5, shared, random.random(20)) < shares[1]
        low, high = exact_paired_rates(first.tolist(), second.tolist()).interval or (0.0, 0.0)
        missed += not low <= shares[0] - shares[1] <= high
    assert missed <= allowed(200)


def powers(exponents: torch.Tensor, features: torch.Tensor) -> Effect:
    """sum over features of |<f, theta>|^p with a power of its own for each."""
    return lambda theta: (theta @ features.mT).abs().pow(exponents).sum(-1)


@pytest.mark.slow
def test_intervals_hold_the_exponent_of_all_directions_of_which_these_were_drawn() -> None:
    """Directions that differ, which pairs share: the interval is one over directions."""
    many = rotation(60)
    whole = contours(powers(torch.linspace(1.5, 4, 60, dtype=DTYPE), many), 1.0, many).inverse.value or 0.0
    held, naive = 0, 0
    for seed in range(100):
        exponents = 1.5 + 2.5 * torch.rand(COUNT, generator=rng(seed), dtype=DTYPE)
        measured = contours(powers(exponents, FEATURES), 1.0, seed=seed)
        low, high = measured.inverse.interval or (0.0, 0.0)
        held += low <= whole <= high
        half = 2 * float(measured.inverses.std()) / len(measured.pairs) ** 0.5  # pairs as if they were independent
        naive += abs(float(measured.inverses.mean()) - whole) <= half
    print(f"{held} of 100 intervals hold it, {naive} of pairs taken as independent")
    assert held >= 100 - allowed(100, 0.1) > naive, (held, naive)

"""Layer geometry on clouds, curves and spaces whose answers are known."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group
from torch import Tensor
from toys import randn, rng, rotation

from mi_ortho.geometry import (
    chance_overlaps,
    explained_share,
    fit_exponential,
    fit_linear,
    fit_power,
    fit_rotation,
    fit_scaling,
    flatness,
    gather_moments,
    gaussian_copy,
    geodesic_ratio,
    geodesics,
    grouped_copy,
    linear_cka,
    local_dimension,
    mean_defect,
    mean_of_pairs,
    merge_moments,
    overlap_matrix,
    procrustes_distance,
    random_rotation,
    randomly_turned,
    split_half_cka,
    stream_moments,
    triangle_defect,
    write_space,
)
from mi_ortho.interventions.subspace import Subspace, principal_angles, subspace_overlap
from mi_ortho.stats import bootstrap, central_interval

DEPTHS = [float(k) for k in range(9)]


# moments along depth


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_batches_in_any_cut_give_the_moments_of_the_whole(a: int, b: int, seed: int) -> None:
    x = 3 + randn(a + b, 4, 5, seed=seed)
    whole, parts = stream_moments(x), gather_moments([x[:a], x[a:]])
    for name in ("mean", "variance", "mean_norm", "step_norm", "alignment", "outwardness"):
        assert torch.allclose(getattr(whole, name), getattr(parts, name), atol=1e-12)
    assert torch.allclose(parts.variance, x.var(dim=0)) and parts.count == a + b


def test_float32_activations_far_from_zero_keep_their_variance() -> None:
    x = (1e4 + randn(200, 1, 3)).float()
    batches = list(x.split(7))
    assert torch.allclose(gather_moments(batches).variance, x.double().var(dim=0), rtol=1e-9)


def test_norms_steps_and_angles_of_a_known_path() -> None:
    path = torch.tensor([[[1.0, 0.0], [3.0, 0.0], [3.0, 4.0], [3.0, 0.0]]])
    found = stream_moments(path)
    assert found.mean_norm.tolist() == [1, 3, 5, 3] and found.step_norm.tolist() == [2, 4, 4]
    assert torch.allclose(found.alignment, torch.tensor([0.0, -1.0], dtype=torch.float64))
    assert torch.allclose(found.outwardness, torch.tensor([1.0, 0.0, -0.8], dtype=torch.float64))


def test_an_outlier_dimension_raises_the_largest_variance_only() -> None:
    x = randn(400, 2, 50)
    x[:, 1, 7] *= 30
    found = stream_moments(x)
    mean, largest = found.mean_variance, found.max_variance
    assert largest[1] > 400 * mean[0] and largest[0] < 2 * mean[0] and mean[1] < 25 * mean[0]


@pytest.mark.parametrize("bad", [torch.zeros(0, 2, 3), torch.full((2, 2, 3), math.nan), torch.ones(1, 2, 3) / 0])
def test_no_or_broken_activations_are_refused(bad: Tensor) -> None:
    with pytest.raises(ValueError, match="finite sample"):
        stream_moments(bad)


def test_moments_of_nothing_or_of_two_models_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        gather_moments([])
    with pytest.raises(ValueError, match="one model"):
        merge_moments(stream_moments(randn(2, 3, 4)), stream_moments(randn(2, 3, 5)))


# bootstrap


def test_bootstrap_interval_of_a_mean_covers_it_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(100):
        draws = bootstrap(randn(60, 1, seed=seed) + 2, lambda x: x.mean(0), 200, rng(seed))
        low, high = central_interval(draws)[:, 0].tolist()
        hits += low <= 2 <= high
    assert 86 <= hits <= 100


def test_bootstrap_width_is_the_standard_error() -> None:
    x = randn(100, 1)
    draws = bootstrap(x, lambda rows: rows.mean(0), 2000, rng(1))
    assert float(draws.std()) == pytest.approx(float(x.std(correction=0)) / 10, rel=0.08)


@pytest.mark.parametrize(("rows", "draws"), [(1, 10), (5, 0)])
def test_bootstrap_refuses_too_little(rows: int, draws: int) -> None:
    with pytest.raises(ValueError, match="at least two samples"):
        bootstrap(randn(rows, 2), lambda x: x.mean(0), draws, rng())


def test_interval_refuses_an_impossible_coverage() -> None:
    with pytest.raises(ValueError, match="share between"):
        central_interval(randn(5, 1), coverage=95.0)


# growth


@given(st.floats(-1, 1).filter(lambda b: abs(b) > 0.05), st.floats(-3, 3))
def test_planted_exponential_is_recovered_and_preferred(rate: float, start: float) -> None:
    values = [math.exp(start + rate * depth) for depth in DEPTHS]
    found, other = fit_exponential(DEPTHS, values), fit_power(DEPTHS, values)
    assert found.slope == pytest.approx(rate) and found.intercept == pytest.approx(start, abs=1e-9)
    assert found.r_squared == pytest.approx(1) and found.aicc < other.aicc - 10
    assert list(found.fitted) == pytest.approx(values)


@given(st.floats(0.3, 3), st.floats(-3, 3))
def test_planted_power_is_recovered_and_preferred(exponent: float, start: float) -> None:
    values = [math.exp(start) * (depth + 1) ** exponent for depth in DEPTHS]
    found, other = fit_power(DEPTHS, values), fit_exponential(DEPTHS, values)
    assert found.slope == pytest.approx(exponent) and found.aicc < other.aicc - 10


def test_aic_of_a_line_by_hand() -> None:
    logs = torch.tensor([0.0, 1.0, 1.0, 3.0, 2.0, 4.0], dtype=torch.float64)
    line = torch.linalg.lstsq(torch.stack([torch.ones(6), torch.arange(6.0)], 1).double(), logs[:, None]).solution
    rest = (logs - line[0] - line[1] * torch.arange(6)).square().sum()
    found = fit_exponential(range(6), logs.exp().tolist())
    assert found.aic == pytest.approx(6 * math.log(rest / 6) + 6)
    assert found.aicc == pytest.approx(found.aic + 2 * 3 * 4 / (6 - 3 - 1))
    assert found.r_squared == pytest.approx(float(1 - rest / (logs - logs.mean()).square().sum()))


def test_noise_without_growth_is_not_explained() -> None:
    rs = [fit_exponential(DEPTHS, (0.3 * randn(9, seed=s)).exp().tolist()).r_squared for s in range(40)]
    assert sum(rs) / 40 < 0.3
    assert fit_exponential(DEPTHS, [2.0] * 9).r_squared == 0.0


@pytest.mark.parametrize(
    ("depths", "values", "message"),
    [
        ([0, 1, 2, 3], [1.0] * 4, "at least 5"),
        ([0, 1, 2, 3, 4], [1.0] * 4, "as many of both"),
        ([0, 1, 2, 3, 4], [1.0, 0.0, 1.0, 1.0, 1.0], "positive"),
        ([0, 1, 2, 3, 4], [1.0, math.nan, 1.0, 1.0, 1.0], "positive"),
        ([2, 2, 2, 2, 2], [1.0, 2.0, 3.0, 4.0, 5.0], "all the same"),
        ([-1, 0, 1, 2, 3], [1.0, 2.0, 3.0, 4.0, 5.0], "complete blocks|all the same"),
    ],
)
def test_growth_refuses(depths: list[float], values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        (fit_power if depths[0] < 0 else fit_exponential)(depths, values)


# likeness


def test_a_rotated_scaled_moved_copy_is_the_same_space() -> None:
    x = randn(60, 12) * torch.linspace(0.2, 3, 12, dtype=torch.float64)
    y = -4 * x @ rotation(12, seed=5) + 9
    assert linear_cka(x, y) == pytest.approx(1) and procrustes_distance(x, y) == pytest.approx(0, abs=1e-9)
    assert explained_share(fit_rotation(x, y), x, y) == pytest.approx(1)
    assert explained_share(fit_scaling(x, y), x, y) < 0.5
    assert explained_share(fit_scaling(x, 3 * x - 2), x, 3 * x - 2) == pytest.approx(1)


def test_an_uneven_stretch_needs_a_linear_map() -> None:
    x = randn(200, 6)
    y = x * torch.tensor([30.0, 1, 1, 1, 1, 0.1]).double()
    y = y @ rotation(6, seed=3)
    assert explained_share(fit_linear(x, y, ridge=0.0), x, y) == pytest.approx(1)
    assert explained_share(fit_rotation(x, y), x, y) < 0.6 and procrustes_distance(x, y) > 0.3


def test_independent_layers_are_not_alike() -> None:
    x, y = randn(2000, 8), randn(2000, 8, seed=9)
    assert linear_cka(x, y) < 0.02 and procrustes_distance(x, y) > 0.95
    train, test = slice(1000), slice(1000, 2000)
    for fit in (fit_scaling, fit_rotation, fit_linear):
        assert abs(explained_share(fit(x[train], y[train]), x[test], y[test])) < 0.05


def test_few_samples_in_many_dimensions_give_what_the_large_products_give() -> None:
    x, y, unseen = randn(9, 40), randn(9, 30, seed=2), randn(5, 40, seed=3)
    a, b = x - x.mean(0), y - y.mean(0)
    inner = (a.mT @ b).square().sum() / ((a.mT @ a).norm() * (b.mT @ b).norm())
    assert linear_cka(x, y) == pytest.approx(float(inner))
    ridge = 0.1 * (a.mT @ a).diagonal().mean() * torch.eye(40).double()
    large = (unseen - x.mean(0)) @ torch.linalg.solve(a.mT @ a + ridge, a.mT @ b) + y.mean(0)
    torch.testing.assert_close(fit_linear(x, y)(unseen), large)
    turned = -2 * x @ rotation(40, seed=5) + 3
    assert procrustes_distance(x, turned) == pytest.approx(0, abs=1e-9)
    assert explained_share(fit_rotation(x, turned), x, turned) == pytest.approx(1)
    # what eight dimensions do not determine is dropped, so that noise is not turned into a prediction
    away = unseen - (unseen - x.mean(0)) @ torch.linalg.pinv(a) @ a
    torch.testing.assert_close(fit_rotation(x, turned)(away), turned.mean(0).expand(5, 40))


def test_few_samples_are_turned_as_by_a_whole_rotation() -> None:
    x = randn(6, 40)
    turned = torch.stack([randomly_turned(x, rng(seed)) for seed in range(400)])
    torch.testing.assert_close(turned[0] @ turned[0].mT, x @ x.mT)
    whole = torch.stack([x @ random_rotation(40, rng(seed)) for seed in range(400)])
    for draws in (turned, whole):  # nothing is left of the direction, and its square is spread evenly
        inner = torch.einsum("rsd,sd->rs", draws, x) / x.square().sum(1)
        assert inner.mean().abs() < 0.01 and inner.square().mean() == pytest.approx(1 / 40, rel=0.1)


def test_procrustes_matches_scipy() -> None:
    from scipy.spatial import procrustes

    x, y = randn(30, 5), randn(30, 5, seed=2)
    assert procrustes_distance(x, y) == pytest.approx(procrustes(x.numpy(), y.numpy())[2])


def test_cka_is_the_alignment_of_centred_gram_matrices() -> None:
    x, y = randn(25, 4), randn(25, 7, seed=1)
    centre = torch.eye(25).double() - 1 / 25
    a, b = centre @ x @ x.mT @ centre, centre @ y @ y.mT @ centre
    assert linear_cka(x, y) == pytest.approx(float((a * b).sum() / (a.norm() * b.norm())))


def test_half_of_a_layer_shows_the_other_half_only_when_they_share_samples_structure() -> None:
    shared = randn(300, 1) @ randn(1, 40, seed=1) + 0.05 * randn(300, 40, seed=2)
    assert split_half_cka(shared, rng()) > 0.95 and split_half_cka(randn(3000, 40), rng()) < 0.1
    with pytest.raises(ValueError, match="at least 2"):
        split_half_cka(randn(5, 1), rng())


def test_activations_that_never_vary_are_refused() -> None:
    for compare in (linear_cka, procrustes_distance, fit_scaling, fit_rotation, fit_linear):
        with pytest.raises(ValueError, match="do not vary"):
            compare(torch.ones(4, 3), randn(4, 3).float())


# shared directions


def test_write_space_finds_planted_directions() -> None:
    directions = rotation(10)[:3]
    matrix = randn(40, 3) @ (torch.tensor([[9.0], [5.0], [3.0]]).double() * directions) + 0.01 * randn(40, 10, seed=3)
    space = write_space(matrix, 3)
    assert float(principal_angles(space, Subspace(directions)).max()) < 0.02
    with pytest.raises(ValueError, match="choose a smaller k"):
        write_space(matrix, 11)


def test_overlap_is_the_mean_squared_cosine_of_principal_angles() -> None:
    a, b = Subspace(rotation(9)[:3]), Subspace(rotation(9, seed=4)[:5])
    assert subspace_overlap(a, b) == pytest.approx(float(principal_angles(a, b).cos().square().mean()))
    assert subspace_overlap(a, a) == pytest.approx(1)
    with pytest.raises(ValueError, match="empty"):
        subspace_overlap(a, Subspace(torch.zeros(0, 9).double()))


def test_overlap_by_chance_is_k_over_d_and_shared_directions_stand_out() -> None:
    null = chance_overlaps(32, 4, 6, 40, rng())
    assert float(null.mean()) == pytest.approx(4 / 32, rel=0.05)
    base = rotation(32)[:4]
    shared = [write_space(randn(50, 4, seed=s) @ base + 0.1 * randn(50, 32, seed=s + 50), 4) for s in range(6)]
    own = [write_space(randn(50, 32, seed=s), 4) for s in range(6)]
    assert mean_of_pairs(overlap_matrix(shared)) > 4 * float(null.max())
    assert float(null.min()) * 0.8 < mean_of_pairs(overlap_matrix(own)) < float(null.max()) * 1.2
    with pytest.raises(ValueError, match="two layers"):
        mean_of_pairs(torch.ones(1, 1))


def test_random_rotations_are_orthogonal_and_have_no_preferred_sign() -> None:
    turns = [random_rotation(5, rng(s)) for s in range(300)]
    assert all(torch.allclose(q @ q.mT, torch.eye(5).double(), atol=1e-12) for q in turns)
    corner = torch.stack([q[0, 0] for q in turns])
    exact = torch.tensor(ortho_group.rvs(5, size=300, random_state=0))[:, 0, 0]
    assert abs(float(corner.mean())) < 0.1 and float(corner.std()) == pytest.approx(float(exact.std()), rel=0.15)


# flatness


def straight(x: Tensor) -> Tensor:
    return torch.cdist(x, x)


def circle(n: int) -> Tensor:
    angle = torch.arange(n, dtype=torch.float64) * 2 * math.pi / n
    return torch.stack([angle.cos(), angle.sin()], 1)


def test_geodesics_of_a_regular_polygon_follow_its_sides() -> None:
    n = 25
    x = circle(n)
    side = 2 * math.sin(math.pi / n)
    wanted = [m * side / (2 * math.sin(math.pi * m / n)) for m in range(1, n // 2 + 1)]
    assert geodesic_ratio(geodesics(straight(x), 2), straight(x)) == pytest.approx(sum(wanted) / len(wanted))


def test_a_line_has_no_detours_and_dimension_one() -> None:
    x = torch.linspace(0, 1, 30, dtype=torch.float64)[:, None] @ randn(1, 4)
    paths = geodesics(straight(x), 2)
    assert geodesic_ratio(paths, straight(x)) == pytest.approx(1)
    assert mean_defect(paths, 200, rng()) == pytest.approx(0, abs=1e-9)
    assert local_dimension(x, straight(x), 4) == pytest.approx(1)


def test_two_far_clusters_are_joined_where_they_come_closest() -> None:
    x = torch.tensor([[0.0, 0], [1, 0], [2, 0], [100, 0], [101, 0], [102, 0]]).double()
    assert geodesics(straight(x), 1).lengths[0, 5].item() == pytest.approx(102)


def test_triangles_on_sphere_plane_and_hyperboloid() -> None:
    def cut(distance: Callable[[Tensor, Tensor], float], *corners: Tensor) -> float:
        a, b, c, m = corners
        pairs = [(a, m), (m, b), (a, c), (b, c), (c, m)]
        return float(triangle_defect(*[torch.tensor(distance(*p), dtype=torch.float64) for p in pairs]))

    e = torch.eye(3).double()
    middle = (e[0] + 2 * e[1]) / math.sqrt(5)  # not halfway: Stewart's theorem holds anywhere on the side
    assert cut(lambda p, q: math.acos(p @ q), *e, middle) > 0.1
    flat = randn(3, 2)
    between = 0.3 * flat[0] + 0.7 * flat[1]
    assert cut(lambda p, q: float((p - q).norm()), *flat, between) == pytest.approx(0, abs=1e-12)
    up = [
        torch.tensor([math.sinh(t) * math.cos(w), math.sinh(t) * math.sin(w), math.cosh(t)]).double()
        for t, w in ((2, 0), (2, 2), (2, 4))
    ]
    minkowski = torch.tensor([-1.0, -1, 1]).double()
    half = up[0] + up[1]
    half = half / math.sqrt(float((half * minkowski) @ half))
    assert cut(lambda p, q: math.acosh(max(1.0, float((p * minkowski) @ q))), *up, half) < -0.01


def sphere(n: int, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(randn(n, 3, seed=seed), dim=-1)


def test_a_sphere_is_told_from_its_gaussian_copies_and_a_gaussian_is_not() -> None:
    def signs(x: Tensor, seed: int) -> Tensor:
        found = flatness(x, neighbours=8, triangles=300, generator=rng(seed))
        return torch.tensor([found.ratio, found.defect, found.dimension])

    for make, curved in ((sphere, True), (lambda n: randn(n, 3), False)):
        x = make(250)
        copies = torch.stack([signs(gaussian_copy(x, rng(s)), s) for s in range(10)])
        seen = signs(x, 0)
        above = bool(seen[0] > copies[:, 0].max()) and bool(seen[1] > copies[:, 1].max())
        assert above == curved
    assert signs(sphere(250), 0)[2] < 2.2  # a surface
    assert float(signs(sphere(250), 0)[0]) == pytest.approx(1.17, abs=0.08)  # mean of arc over chord is 1.163


def test_gaussian_copy_has_the_covariance_and_grouped_copy_keeps_the_groups() -> None:
    x = randn(4000, 3) @ torch.diag(torch.tensor([3.0, 1, 0.2]).double()) + 5
    copy = gaussian_copy(x, rng())
    assert torch.allclose(copy.T.cov(), x.T.cov(), atol=0.35) and torch.allclose(copy.mean(0), x.mean(0), atol=0.2)
    groups = torch.arange(4000) % 2
    apart = x + 100 * groups[:, None]
    kept = grouped_copy(apart, groups, rng())
    gap = kept[groups == 1].mean(0) - kept[groups == 0].mean(0)
    assert torch.allclose(gap, torch.full((3,), 100.0).double(), atol=1)
    assert bool((gaussian_copy(apart, rng()).var(0) > 2000).all())
    with pytest.raises(ValueError, match="at least 2"):
        grouped_copy(x[:3], torch.tensor([0, 0, 1]), rng())


def test_flatness_refuses_coinciding_and_too_few_points() -> None:
    x = randn(10, 3)
    with pytest.raises(ValueError, match="coincide"):
        flatness(torch.cat([x, x[:1]]), neighbours=3, triangles=10, generator=rng())
    with pytest.raises(ValueError, match="1 to 9"):
        flatness(x, neighbours=10, triangles=10, generator=rng())
    with pytest.raises(ValueError, match="no triangle"):
        flatness(x, neighbours=9, triangles=5, generator=rng())

"""Deep causal transcoding: planted factors are found where theory says they can be, and what is not there is not."""

from pathlib import Path

import architectures
import pytest
import torch
from torch import Tensor
from toys import DTYPE, bent, linear, mlp, planted, randn, rng, rotation, spread, unit

from mi_ortho import FunctionMap, LinearMap, jacobian, max_abs_cosine, resid_post, slice_model, tokenize
from mi_ortho.dct import (
    Factors,
    Retraction,
    calibrate_scale,
    exponential_dct,
    linear_dct,
    load_factors,
    nonlinearity,
    polar_retraction,
    predict,
    projected_linear_dct,
    published_exponential_dct,
    published_linear_dct,
    published_projected_linear_dct,
    published_quadratic_dct,
    qr_retraction,
    quadratic_dct,
    rank_by_readout,
    rank_by_weight,
    reconstruction_error,
    save_factors,
)
from mi_ortho.dct.scale import _upward
from mi_ortho.dct.steps import projected_start
from mi_ortho.derivatives import krylov_singular, pooled
from mi_ortho.derivatives.means import displacement_and_gradient

METHODS = {
    "linear": linear_dct,
    "projected": projected_linear_dct,
    "quadratic": quadratic_dct,
    "exponential": exponential_dct,
    "published linear": published_linear_dct,
    "published projected": published_projected_linear_dct,
    "published quadratic": published_quadratic_dct,
    "published exponential": published_exponential_dct,
}
OURS = ("linear", "projected", "quadratic", "exponential")
RETRACTIONS = pytest.mark.parametrize("retract", [qr_retraction, polar_retraction])


def mmcs(true: Tensor, found: Tensor) -> float:
    """Mean over the true directions of the largest |cosine| to a found one."""
    return float((true @ found.mT).abs().max(dim=1).values.mean())


def fit(method: str, z, k: int, radius: float = 1.0, seed: int = 0, **options) -> Factors:
    return METHODS[method](z, k, radius=radius, generator=rng(seed), dtype=DTYPE, **options)


def on_sphere(n: int, d_model: int, radius: float) -> Tensor:
    return radius * unit(randn(n, d_model, seed=77))


def crooked_linear(d_model: int = 16) -> tuple[LinearMap, Tensor]:
    """A linear map with an offset, whose singular values all differ, and its right singular vectors."""
    return linear(spread(d_model, 20), seed=4)


# what each method finds


@pytest.mark.parametrize("solver", [{}, {"solve": krylov_singular}], ids=["dense", "krylov"])
def test_linear_dct_finds_orthogonal_linear_factors(solver: dict) -> None:
    z, right = crooked_linear()
    found = fit("linear", z, 5, radius=3.0, **solver)
    assert mmcs(right[:5], found.inputs) > 1 - 1e-9
    torch.testing.assert_close(found.weights, 3 * spread(16, 20)[:5])
    theta = on_sphere(9, 16, 3.0)
    kept = spread(16, 20)[:5].square() @ (theta @ right[:5].mT).square().sum(0)
    total = (spread(16, 20).square() * (theta @ right.mT).square()).sum()
    assert reconstruction_error(found, z, theta) == pytest.approx(1 - float(kept / total))
    assert reconstruction_error(fit("linear", z, 16), z, theta) < 1e-20


def test_projected_linear_dct_finds_the_row_space() -> None:
    """J of rank 6 in 30 dimensions: 8 projections span its row space exactly, whatever they are."""
    inside = rotation(30)[:6]
    z = LinearMap(rotation(30, 1)[:, :6] @ torch.diag(spread(6, 3)) @ inside, randn(30))
    found = fit("projected", z, 6, radius=2.0, projections=8)
    assert (found.inputs @ inside.mT).square().sum() > 6 - 1e-9
    assert reconstruction_error(found, z, on_sphere(20, 30, 2.0)) < 1e-20
    with pytest.raises(ValueError, match="got k=9; expected at most 8: 8 random combinations of 30 outputs"):
        fit("projected", z, 9, projections=8)


@RETRACTIONS
def test_quadratic_dct_finds_quadratic_factors_with_any_outputs(retract: Retraction) -> None:
    z, inward, outward = planted(24, 5, torch.square)
    found = fit("quadratic", z, 5, radius=3.0, steps=30, retract=retract)
    assert mmcs(inward, found.inputs) > 0.999 and mmcs(outward, found.outputs) > 0.999
    strengths = found.weights.sort().values / 9
    torch.testing.assert_close(strengths, torch.linspace(1, 2, 5, dtype=DTYPE), rtol=1e-3, atol=1e-3)
    assert reconstruction_error(found, z, on_sphere(20, 24, 3.0)) < 1e-4


@RETRACTIONS
def test_exponential_dct_finds_exponential_factors(retract: Retraction) -> None:
    z, inward, outward = planted(24, 5, torch.expm1, m=40)
    found = fit("exponential", z, 5, steps=40, retract=retract)
    assert mmcs(inward, found.inputs) > 0.95 and mmcs(outward, found.outputs) > 0.95
    strengths = found.weights.sort().values
    torch.testing.assert_close(strengths, torch.linspace(1, 2, 5, dtype=DTYPE), rtol=0.15, atol=0.1)
    assert reconstruction_error(found, z, on_sphere(20, 24, 1.0)) < 0.05


def test_more_factors_than_planted_still_find_them() -> None:
    z, inward, _ = planted(24, 5, torch.square)
    assert mmcs(inward, fit("quadratic", z, 10, steps=30).inputs) > 0.95
    z, inward, _ = planted(24, 5, torch.expm1, m=40)
    assert mmcs(inward, fit("exponential", z, 10, steps=40).inputs) > 0.95


def test_independent_directions_are_found_where_they_are_many_dimensions_apart() -> None:
    """Directions that are not orthogonal: cosines of 1 / sqrt(300), the case of the published synthetic experiment."""
    z, inward, _ = planted(300, 8, torch.expm1, orthogonal=False, m=300)
    assert mmcs(inward, fit("exponential", z, 8, steps=40, retract=polar_retraction).inputs) > 0.98


def test_a_pure_quadratic_map_gives_linear_nothing_and_quadratic_everything() -> None:
    z, inward, _ = planted(24, 5, torch.square)
    for method in ("linear", "projected"):
        with pytest.raises(ValueError, match="that are all 0; expected an effect"):
            fit(method, z, 5)
    assert reconstruction_error(fit("quadratic", z, 5, steps=30), z, on_sphere(20, 24, 1.0)) < 1e-4
    nothing = fit("published quadratic", z, 5)
    assert nothing.trace == (0.0,) * 20 and not nothing.inputs.any() and not nothing.weights.any()
    assert reconstruction_error(nothing, z, on_sphere(20, 24, 1.0)) == 1.0


def test_each_order_sees_its_own_part_of_a_mixed_map() -> None:
    basis, outward = rotation(20), unit(randn(8, 20, seed=9))
    first, second = basis[:4], basis[4:8]
    mixed = FunctionMap(lambda t: 3 * (t @ first.mT) @ outward[:4] + (t @ second.mT).square() @ outward[4:], 20)
    assert (fit("linear", mixed, 4).inputs @ first.mT).square().sum() > 4 - 1e-9
    assert mmcs(second, fit("quadratic", mixed, 4, steps=30).inputs) > 0.999


@pytest.mark.parametrize("method", OURS)
def test_inputs_are_orthonormal_and_outputs_unit(method: str) -> None:
    found = fit(method, mlp(20), 7, radius=2.0, steps=3) if method in OURS[2:] else fit(method, mlp(20), 7, radius=2.0)
    assert max_abs_cosine(found.inputs) < 1e-12
    for rows in (found.inputs, found.outputs):
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones(7, dtype=DTYPE))
    assert len(found) == 7 and torch.equal(found.vectors, 2 * found.inputs)


def test_orthogonalised_gradient_iteration_raises_the_effect() -> None:
    found = fit("exponential", mlp(20), 4, radius=2.0, steps=20, start=rotation(20, 8)[:4])
    assert found.trace[-1] > 1.3 * found.trace[0]
    z, theta = mlp(20), found.vectors
    assert found.trace[-1] == pytest.approx(float((z(theta) - z(0 * theta)).norm(dim=-1).mean()))


def test_one_exponential_iteration_by_hand() -> None:
    """Gradients of <u, z> at the full norm, u the direction of the effect before; one step from a given start."""
    z, start = mlp(20), rotation(20, 8)[:4]
    effect = z(2 * start) - z(torch.zeros(1, 20, dtype=DTYPE))
    slopes = torch.stack([unit(effect)[k] @ jacobian(z, 2 * start[k]) for k in range(4)])
    found = fit("exponential", z, 4, radius=2.0, steps=1, start=start)
    torch.testing.assert_close(found.inputs, qr_retraction(unit(slopes)))
    assert found.trace[0] == pytest.approx(float(effect.norm(dim=-1).mean()))


def test_the_default_start_is_orthonormal_and_holds_the_projected_rows() -> None:
    inside = rotation(30)[:4]
    z = LinearMap(rotation(30, 1)[:, :4] @ inside, randn(30))
    start = projected_start(z, torch.zeros(30, dtype=DTYPE), 7, rng(), 4, 64)
    torch.testing.assert_close(start @ start.mT, torch.eye(7, dtype=DTYPE))
    assert (start[:4] @ inside.mT).square().sum() > 4 - 1e-9


def test_damping_shortens_every_move() -> None:
    z, start = mlp(20), rotation(20, 8)[:4]
    moves = [fit("exponential", z, 4, radius=2.0, steps=1, start=start, damping=share).inputs for share in (0, 0.1, 1)]
    away = [float((rows - start).norm()) for rows in moves]
    assert away[0] < 1e-9 < away[1] < 0.5 * away[2]


def test_weights_solve_the_kernel_system() -> None:
    """alpha minimises the loss over all derivative orders: its gradient K alpha - <u, effect> vanishes."""
    z = mlp(16)
    found = fit("exponential", z, 5, radius=2.0)
    effect = z(found.vectors) - z(torch.zeros(1, 16, dtype=DTYPE))
    kernel = (found.outputs @ found.outputs.mT) * torch.expm1(found.inputs @ found.inputs.mT)
    torch.testing.assert_close(kernel @ found.weights, (found.outputs * effect).sum(-1))


def test_a_root_that_is_one_of_the_norms_tried_is_found() -> None:
    for steps in (0, 1, 3):
        low, high = _upward(lambda norm: norm, 0.001 * 4.0**steps, 0.001, 1.0)
        assert low <= 0.001 * 4.0**steps <= high


# the published variants


def test_published_linear_dct_returns_arbitrary_directions() -> None:
    """A Jacobian of rank 8 in 64 dimensions: k / d of the energy in the true space, where the rows hold all of it."""
    shares = {"published linear": [], "linear": []}
    for seed in range(6):
        inside = rotation(64, seed)[:8]
        z = LinearMap(rotation(64, seed + 50)[:, :8] @ torch.diag(spread(8, 3)) @ inside, randn(64))
        for method, found in shares.items():
            found.append(float((fit(method, z, 8).inputs @ inside.mT).square().sum() / 8))
    assert min(shares["linear"]) > 1 - 1e-9
    mean = sum(shares["published linear"]) / 6
    assert 0.5 * 8 / 64 < mean < 1.5 * 8 / 64


def test_published_quadratic_dct_is_power_iteration_on_the_jacobian() -> None:
    """The Hessian has no influence, and the result is that of iterating V <- J'J V with orthonormal V."""
    matrix = jacobian(mlp(12), torch.zeros(12, dtype=DTYPE))
    bends = randn(12, 12, 12, seed=5)

    def with_hessian(scale: float) -> FunctionMap:
        return FunctionMap(lambda t: t @ matrix.mT + scale * torch.einsum("...b,abc,...c->...a", t, bends, t), 12)

    # inputs and outputs change places at every step, and the first outputs are effects at norm 1, which are not linear
    plain, curved = (fit("published quadratic", with_hessian(scale), 4, steps=30) for scale in (0.0, 10.0))
    assert torch.equal(plain.inputs, curved.inputs)
    plain, curved = (fit("published quadratic", with_hessian(scale), 4, steps=31) for scale in (0.0, 10.0))
    assert torch.equal(plain.outputs, curved.outputs)
    ours = [fit("quadratic", with_hessian(scale), 4, steps=3) for scale in (1.0, 10.0)]
    assert ours[1].trace[0] == pytest.approx(10 * ours[0].trace[0]), "a second derivative scales with the Hessian"

    z, right = linear(spread(12, 1e4))
    power = fit("published quadratic", z, 4, steps=20).inputs
    assert mmcs(right[:2], power) > 0.99, "singular directions, which a linear method finds"


def published_start(z, projections: int, k: int, seed: int = 0) -> Tensor:
    """Columns of V' of random unit combinations of the Jacobian's rows, by the definition."""
    matrix = jacobian(z, torch.zeros(z.d_model, dtype=DTYPE))
    mix = unit(torch.randn(projections, len(matrix), generator=rng(seed)).to(DTYPE))
    return torch.linalg.svd(mix @ matrix, full_matrices=True)[2][:, :k].mT


def published_orthogonal(rows: Tensor) -> Tensor:
    return torch.linalg.qr(rows.mT)[0].mT


def test_one_published_quadratic_step_by_hand() -> None:
    """It starts from columns of V' and their effects at norm 1, whatever the radius, and takes 20 steps."""
    z, zero = mlp(14), torch.zeros(14, dtype=DTYPE)
    start = published_start(z, 6, 4)
    outward = unit(z(start) - z(zero[None]))
    matrix, inward = jacobian(z, zero), published_orthogonal(start)
    found = fit("published quadratic", z, 4, radius=3.0, steps=1, projections=6)
    torch.testing.assert_close(found.outputs, unit(inward @ matrix.mT))
    torch.testing.assert_close(found.inputs, unit(outward @ matrix))
    assert len(fit("published quadratic", z, 4).trace) == 20


@pytest.mark.parametrize("damping", [1.0, 0.6])
def test_one_published_exponential_step_by_hand(damping: float) -> None:
    """Effects and radius times gradients are mixed at their own length with the unit rows before them."""
    z, zero = mlp(14), torch.zeros(14, dtype=DTYPE)
    start = published_start(z, 6, 4)
    before = unit(z(3 * start) - z(zero[None]))
    inward = published_orthogonal(start)
    effect = z(3 * inward) - z(zero[None])
    slopes = torch.stack([before[k] @ jacobian(z, 3 * inward[k]) for k in range(4)])
    found = fit("published exponential", z, 4, radius=3.0, steps=1, projections=6, damping=damping)
    torch.testing.assert_close(found.outputs, unit(damping * effect + (1 - damping) * before))
    torch.testing.assert_close(found.inputs, unit(damping * 3 * slopes + (1 - damping) * inward))


def test_published_exponential_dct_ends_without_orthogonalising() -> None:
    ours, published = (fit(name, mlp(20), 6, radius=2.0, steps=4) for name in ("exponential", "published exponential"))
    assert max_abs_cosine(published.inputs) > 0.05 and max_abs_cosine(ours.inputs) < 1e-12


def test_published_weights() -> None:
    """Norms of the effects for the linear methods, R <u, J v> for the "quadratic" one, the kernel's for the last."""
    z = mlp(16)
    zero = torch.zeros(16, dtype=DTYPE)
    found = {
        name: fit(f"published {name}", z, 5, radius=2.0, steps=3)
        if name in ("quadratic", "exponential")
        else fit(f"published {name}", z, 5, radius=2.0)
        for name in ("linear", "projected", "quadratic", "exponential")
    }
    effects = {name: z(factors.vectors) - z(zero[None]) for name, factors in found.items()}
    for name in ("linear", "projected"):
        torch.testing.assert_close(found[name].weights, effects[name].norm(dim=-1))
        torch.testing.assert_close(found[name].weights[:, None] * found[name].outputs, effects[name])
    power, last = found["quadratic"], found["exponential"]
    torch.testing.assert_close(power.weights, 2 * (power.outputs * (power.inputs @ jacobian(z, zero).mT)).sum(-1))
    kernel = (last.outputs @ last.outputs.mT) * torch.expm1(last.inputs @ last.inputs.mT)
    torch.testing.assert_close(kernel @ last.weights, (last.outputs * effects["exponential"]).sum(-1))


def test_published_projected_linear_dct_keeps_part_of_the_row_space() -> None:
    inside = rotation(64)[:8]
    z = LinearMap(rotation(64, 1)[:, :8] @ torch.diag(spread(8, 3)) @ inside, randn(64))
    share = (fit("published projected", z, 32).inputs @ inside.mT).square().sum() / 8
    full = (fit("projected", z, 8).inputs @ inside.mT).square().sum() / 8
    assert share < 0.9 and full > 1 - 1e-9


# streaming, precision, files


@pytest.mark.parametrize("method", METHODS)
def test_many_maps_stand_for_their_mean(method: str) -> None:
    parts = [mlp(14, seed=seed) for seed in (0, 10, 20)]
    mean = FunctionMap(lambda theta: sum((z(theta) for z in parts), torch.zeros(())) / 3, 14)
    one, many = fit(method, mean, 4, radius=1.5), fit(method, parts, 4, radius=1.5)
    torch.testing.assert_close(many.inputs, one.inputs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(many.weights, one.weights, rtol=1e-6, atol=1e-6)


def test_gradients_of_many_maps_are_their_mean() -> None:
    parts, theta, outward = [mlp(6), mlp(6, seed=10)], randn(4, 6), randn(4, 6, seed=3)
    moved, slope = displacement_and_gradient(parts, theta, outward, chunk=3)
    torch.testing.assert_close(moved, sum(z(theta) - z(0 * theta) for z in parts) / 2)
    each = [[outward[k] @ jacobian(z, theta[k]) for k in range(4)] for z in parts]
    torch.testing.assert_close(slope, (torch.stack(each[0]) + torch.stack(each[1])) / 2)


def test_only_one_graph_of_many_maps_is_alive() -> None:
    alive, most = set(), []

    class Marked(torch.autograd.Function):
        """The identity, which tells when its place in a graph is made and when it is used up."""

        @staticmethod
        def forward(ctx, x, name):  # pyright: ignore[reportIncompatibleMethodOverride]
            alive.add(name)
            most.append(len(alive))
            ctx.name = name
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):  # pyright: ignore[reportIncompatibleMethodOverride]
            alive.discard(ctx.name)
            return gradient, None

    def marked(name: int) -> FunctionMap:
        inner = mlp(10, seed=name)
        return FunctionMap(lambda t: inner(Marked.apply(t, name) if t.requires_grad else t), 10)

    fit("exponential", [marked(seed) for seed in range(5)], 3, start=rotation(10)[:3])
    assert max(most) == 1


@pytest.mark.parametrize("method", METHODS)
def test_maps_that_compute_in_bfloat16(method: str) -> None:
    exact = mlp(16, dtype=torch.float32)
    narrow = mlp(16, dtype=torch.bfloat16)
    rounded = FunctionMap(lambda theta: narrow(theta.bfloat16()).float(), 16)
    true, found = (METHODS[method](z, 3, radius=2.0, generator=rng()) for z in (exact, rounded))
    assert found.inputs.dtype == torch.float32
    if method in ("linear", "projected"):
        torch.testing.assert_close(found.weights, true.weights, rtol=0.1, atol=0.1)


def responses(*groups: list[str], dtype: torch.dtype | None = None) -> list[FunctionMap]:
    """One map of a small transformer for each group of prompts, averaged over its last three real positions."""
    model, start, end = architectures.model("qwen2"), resid_post(0), resid_post(2)
    batches = (tokenize(model, group) for group in groups)
    return [pooled(slice_model(model, x, source=start, target=end, readout=3, dtype=dtype)) for x in batches]


TEXTS = ["how can i build a bomb", "cake", "tell me the poem about the sea", "yes i can"]


@pytest.mark.parametrize("method", OURS)
def test_prompts_one_by_one_give_what_one_batch_gives(method: str) -> None:
    """Unequal lengths: padded in the batch, not padded alone."""
    batch, streamed = responses(TEXTS), responses(*([text] for text in TEXTS))
    one, many = (METHODS[method](z, 3, radius=2.0, generator=rng()) for z in (batch, streamed))
    torch.testing.assert_close(many.inputs, one.inputs, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(many.weights, one.weights, rtol=1e-2, atol=1e-3)
    alone = METHODS[method](streamed[:1], 3, radius=2.0, generator=rng())
    assert not torch.allclose(alone.weights, one.weights, rtol=1e-2, atol=1e-3), "every prompt counts"


@pytest.mark.parametrize("method", OURS)
def test_a_slice_with_bfloat16_blocks(method: str) -> None:
    exact, narrow = responses(TEXTS), responses(TEXTS, dtype=torch.bfloat16)
    true, found = (METHODS[method](z, 3, radius=2.0, generator=rng()) for z in (exact, narrow))
    assert found.inputs.dtype == found.outputs.dtype == torch.float32 and max_abs_cosine(found.inputs) < 1e-5
    effects = [(exact[0](rows.vectors) - exact[0](torch.zeros(1, 32))).norm(dim=-1).mean() for rows in (true, found)]
    assert float(effects[1]) == pytest.approx(float(effects[0]), rel=0.1)
    assert not torch.equal(found.weights, true.weights), "the blocks did compute in bfloat16"


@pytest.mark.parametrize("chunk", [1, 3, 64])
@pytest.mark.parametrize("method", OURS)
def test_chunks_do_not_change_the_result(method: str, chunk: int) -> None:
    a, b = fit(method, mlp(12), 4, chunk=chunk), fit(method, mlp(12), 4)
    torch.testing.assert_close(a.inputs, b.inputs, rtol=1e-7, atol=1e-7)


def test_saving_and_loading_is_the_identity(tmp_path: Path) -> None:
    found = fit("exponential", mlp(12), 4, radius=1.5, steps=2)
    save_factors(found, tmp_path / "factors.safetensors")
    again = load_factors(tmp_path / "factors.safetensors")
    for name in ("inputs", "outputs", "weights"):
        assert torch.equal(getattr(again, name), getattr(found, name))
    assert (again.radius, again.kind, again.trace, dict(again.meta)) == (1.5, "exponential", found.trace, found.meta)
    (tmp_path / "other.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"other\.safetensors"):
        load_factors(tmp_path / "other.safetensors")


# scale and ranking


def test_scale_of_a_map_with_a_known_nonlinearity() -> None:
    """bent: the non-linear part is curvature R times the linear one, so lambda = .5 at R = .5 / curvature."""
    z = bent(8, 0.25)
    assert calibrate_scale(z, generator=rng(), dtype=DTYPE) == pytest.approx(2.0, rel=1e-3)
    assert calibrate_scale([z, z], generator=rng(), ratio=2.0, dtype=DTYPE) == pytest.approx(8.0, rel=1e-3)
    curve = nonlinearity(z, unit(randn(5, 8)), [1.0, 4.0])
    torch.testing.assert_close(curve, torch.tensor([[0.25], [1.0]], dtype=DTYPE).expand(2, 5))


@pytest.mark.parametrize(("curvature", "ratio"), [(0.02, 0.5), (0.25, 0.1), (3e-3, 2.0)])
def test_the_scale_is_where_the_map_is_as_nonlinear_as_asked(curvature: float, ratio: float) -> None:
    assert calibrate_scale(bent(8, curvature), generator=rng(), ratio=ratio) == pytest.approx(
        ratio / curvature, rel=3e-3
    )


def test_the_scale_is_a_root_mean_square_over_directions() -> None:
    """z = (theta, c theta_0^2): along v the ratio is c R v_0^2, so R = .5 / (c sqrt(mean v_0^4)) over those drawn."""
    z = FunctionMap(lambda t: torch.cat([t, 0.25 * t[..., :1].square()], -1), 4)
    drawn = unit(torch.randn(30, 4, generator=rng()).to(DTYPE))
    expected = 0.5 / (0.25 * float(drawn[:, 0].pow(4).mean().sqrt()))
    assert calibrate_scale(z, generator=rng(), dtype=DTYPE) == pytest.approx(expected, rel=2e-3)


def test_a_response_that_saturates_still_has_its_scale() -> None:
    """z = (theta, sin |theta|^2): at norm R the ratio is |sin R^2| / R; it peaks above .5 and falls to 0."""
    z = FunctionMap(lambda t: torch.cat([t, t.square().sum(-1, keepdim=True).sin()], -1), 8)
    found = calibrate_scale(z, generator=rng(), dtype=DTYPE)
    assert found == pytest.approx(0.5052, rel=3e-3)  # sin R^2 = R / 2
    assert float(nonlinearity(z, unit(randn(5, 8)), [1000.0]).max()) < 0.01


def test_rounding_at_small_norms_is_not_taken_for_the_root() -> None:
    """Outputs of size 50 in bfloat16: below a norm of 1 everything is rounding, and looks like a large nonlinearity."""
    exact = bent(8, 0.01)
    rounded = FunctionMap(lambda theta: (50 + exact(theta)).bfloat16().float(), 8)
    assert float(nonlinearity(rounded, unit(randn(5, 8)).float(), [0.01]).min()) > 0.5
    assert calibrate_scale(rounded, generator=rng()) == pytest.approx(50, rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"bracket": (10.0, 100.0)},
            "got a nonlinearity of 2.5 at norm 10 and 25 at norm 100, at most 25; "
            "expected 0.5 between them; lower the bracket",
        ),
        ({"bracket": (0.001, 1.0)}, "expected 0.5 between them; raise the bracket"),
        ({"bracket": (2.0, 1.0)}, "expected 0 < low < high"),
    ],
)
def test_a_bracket_without_a_root_is_an_error(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibrate_scale(bent(8, 0.25), generator=rng(), dtype=DTYPE, **options)


def test_scale_refuses_maps_without_a_linear_part() -> None:
    for z in (planted(10, 3, torch.square)[0], FunctionMap(torch.ones_like, 10)):
        with pytest.raises(ValueError, match="Jacobian products at 0 that are all 0"):
            calibrate_scale(z, generator=rng(), dtype=DTYPE)
    with pytest.raises(ValueError, match="between them; raise the bracket"):
        calibrate_scale(crooked_linear()[0], generator=rng(), dtype=DTYPE)


def test_rankings() -> None:
    z, inward, outward = planted(24, 5, torch.square, m=24)
    found = fit("quadratic", z, 5, steps=30)
    by_weight = rank_by_weight(found)
    assert by_weight.scores[by_weight.order].diff().max() <= 0
    assert mmcs(inward[-1:], found.inputs[by_weight.order[:1]]) > 0.999, "the strongest planted factor comes first"
    signed = Factors(found.inputs, found.outputs, torch.tensor([1.0, -9.0, 2.0, -3.0, 0.5], dtype=DTYPE), 1.0, "linear")
    assert rank_by_weight(signed).order.tolist() == [1, 3, 2, 0, 4], "the sign of a weight is no merit"
    goal = torch.linalg.pinv(outward)[:, 2]  # raised by the factor in the middle only
    best = rank_by_readout(found, z, goal).order[:1]
    assert mmcs(inward[2:3], found.inputs[best]) > 0.99
    with pytest.raises(ValueError, match="got a readout of 3 numbers; expected 24"):
        rank_by_readout(found, z, goal[:3])


def test_prediction_of_a_single_factor() -> None:
    v, u = unit(randn(1, 6)), unit(randn(1, 4))
    weight, e = torch.tensor([3.0], dtype=DTYPE), 2.718281828459045
    torch.testing.assert_close(predict(Factors(v, u, weight, 2.0, "linear"), v), 1.5 * u)
    torch.testing.assert_close(predict(Factors(v, u, weight, 2.0, "quadratic"), v), 0.75 * u)
    torch.testing.assert_close(predict(Factors(v, u, weight, 2.0, "exponential"), v), 3 * (e**0.5 - 1) * u)


# prompts of unequal length


class Padded:
    """A map of two prompts, the second one token shorter, whose padding holds garbage."""

    d_model = 6
    real = torch.tensor([[True, True], [False, True]])

    def __call__(self, theta: Tensor) -> Tensor:
        one, two = mlp(6, seed=1)(theta), mlp(6, seed=2)(theta)
        return torch.stack([torch.stack([one, 3 * one], -2), torch.stack([1e6 + 0 * two, two], -2)], -3)


def test_pooling_gives_every_prompt_the_same_weight_and_ignores_padding() -> None:
    theta = randn(4, 6)
    expected = (2 * mlp(6, seed=1)(theta) + mlp(6, seed=2)(theta)) / 2
    torch.testing.assert_close(pooled(Padded())(theta), expected)
    torch.testing.assert_close(pooled(Padded())(theta[0]), expected[0])
    plain = FunctionMap(lambda t: torch.stack([t, 3 * t], -2), 6)
    torch.testing.assert_close(pooled(plain)(theta), 2 * theta)
    assert torch.equal(pooled(mlp(6))(theta), mlp(6)(theta))


def test_prompts_of_unequal_length_are_refused_unless_pooled() -> None:
    long = FunctionMap(lambda t: torch.stack([t, t, t], -2), 6)
    short = FunctionMap(lambda t: torch.stack([t, t], -2), 6)
    with pytest.raises(ValueError, match=r"with \[12, 18\] outputs; expected all equal; average prompts of unequal"):
        fit("linear", [long, short], 2)
    assert len(fit("linear", [pooled(long), pooled(short)], 2)) == 2
    wrong = Padded()
    wrong.real = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"got a mask of shape \(2, 3\) for outputs of shape \(2, 2\)"):
        pooled(wrong)(randn(1, 6))
    wrong.real = torch.tensor([[True, True], [False, False]])
    with pytest.raises(ValueError, match="got a prompt without any real position"):
        pooled(wrong)


# mistakes


@pytest.mark.parametrize("method", METHODS)
def test_mistakes_are_found_before_any_long_work(method: str) -> None:
    calls = []
    counted = FunctionMap(lambda theta: calls.append(1) or theta, 6)
    for k in (0, 7):
        with pytest.raises(ValueError, match=f"got k={k}; expected 1 to d_model=6"):
            fit(method, counted, k)
    for radius in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="got radius .*; expected a positive, finite norm"):
            fit(method, counted, 2, radius=radius)
    with pytest.raises(ValueError, match="got no activation map"):
        fit(method, [], 2)
    assert not calls


@pytest.mark.parametrize("method", METHODS)
def test_maps_that_are_not_finite_are_an_error(method: str) -> None:
    broken = FunctionMap(lambda theta: theta.abs().sqrt().log(), 6)
    with pytest.raises(ValueError, match="got .*NaN or infinit"):
        fit(method, broken, 2)


@pytest.mark.parametrize("method", METHODS)
def test_a_map_constant_in_theta_is_an_error(method: str) -> None:
    constant = FunctionMap(lambda theta: torch.ones_like(theta), 6)
    if method == "published quadratic":
        assert not fit(method, constant, 2).inputs.any(), "as published: nothing, silently"
        return
    with pytest.raises(ValueError, match="got .* that are all 0; expected an effect"):
        fit(method, constant, 2)

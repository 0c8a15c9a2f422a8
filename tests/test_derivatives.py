"""First derivatives: exact on linear maps, equal to finite differences on others, close when sketched."""

import pytest
import torch
from toys import DTYPE, linear, logits_map, mlp, randn, rng, spread

from mi_ortho import FunctionMap, jacobian, match, match_distribution
from mi_ortho.derivatives import gauss_newton, mean_jacobian, pullback, pushforward
from mi_ortho.elicitation import Penalised


def test_jacobian_of_a_linear_map_is_its_matrix_everywhere() -> None:
    z, _ = linear(spread(12, 100))
    for at in (torch.zeros(12, dtype=DTYPE), randn(12)):
        torch.testing.assert_close(jacobian(z, at), z.jacobian)


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_jacobian_is_the_finite_difference_in_chunks_of_any_size(chunk: int) -> None:
    z, at = mlp(8), randn(8)
    shifts = 1e-6 * torch.eye(8, dtype=DTYPE)
    columns = (z(at + shifts) - z(at - shifts)) / 2e-6
    torch.testing.assert_close(jacobian(z, at, chunk=chunk), columns.mT, rtol=1e-7, atol=1e-8)


def test_jacobian_flattens_prompts_positions_and_width() -> None:
    z = logits_map(5, 2, 3)
    expected = torch.autograd.functional.jacobian(lambda theta: z(theta[None])[0], randn(5)).flatten(0, 1)
    torch.testing.assert_close(jacobian(z, randn(5)), expected)


def test_pullback_multiplies_from_the_left() -> None:
    z, _ = linear(spread(6, 10))
    cotangents = randn(4, 6, seed=5)
    torch.testing.assert_close(pullback(z, randn(6), cotangents, chunk=3), cotangents @ z.jacobian)


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_pushforward_multiplies_from_the_right(chunk: int) -> None:
    z, at, tangents = logits_map(6, 2, 5), randn(6), randn(4, 6, seed=5)
    products = tangents @ torch.autograd.functional.jacobian(lambda theta: z(theta[None]).flatten(), at).mT
    torch.testing.assert_close(pushforward(z, at, tangents, chunk=chunk), products)


@pytest.mark.parametrize("columns", [3, 9], ids=["more inputs than outputs", "more outputs than inputs"])
def test_jacobians_of_either_shape(columns: int) -> None:
    matrix, at = randn(columns, 6), randn(6)
    bent = FunctionMap(lambda theta: torch.sin(theta @ matrix.mT), 6)
    torch.testing.assert_close(jacobian(bent, at, chunk=2), torch.cos(matrix @ at)[:, None] * matrix)


class NotBatched(torch.autograd.Function):
    """theta^2 whose backward pass writes into a plain tensor, which no batched pass can do."""

    @staticmethod
    def forward(ctx, theta):  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(theta)
        return theta**2

    @staticmethod
    def backward(ctx, gradient):  # pyright: ignore[reportIncompatibleMethodOverride]
        (theta,) = ctx.saved_tensors
        buffer = torch.zeros(theta.shape, dtype=theta.dtype)
        return buffer.copy_(2 * theta * gradient)


def test_operations_that_cannot_be_batched_are_differentiated_row_by_row() -> None:
    z, at = FunctionMap(NotBatched.apply, 4), randn(4)
    torch.testing.assert_close(jacobian(z, at), torch.diag(2 * at))


def test_fused_attention_can_be_differentiated_either_way() -> None:
    keys = randn(1, 2, 5, 4).float()
    fused = torch.nn.functional.scaled_dot_product_attention
    z = FunctionMap(lambda theta: fused(theta.reshape(-1, 2, 1, 4), keys, keys.flip(-2)).flatten(1), 8)
    at, step = randn(8).float(), 1e-2 * torch.eye(8)
    slopes = ((z(at + step) - z(at - step)) / 2e-2).mT
    for found in (pullback(z, at, torch.eye(8)), pushforward(z, at, torch.eye(8)).mT):
        torch.testing.assert_close(found, slopes, rtol=1e-3, atol=1e-4)


def test_a_map_constant_in_theta_has_jacobian_zero() -> None:
    constant = FunctionMap(lambda theta: torch.ones(len(theta), 7), 3)
    for found in (jacobian(constant, torch.zeros(3)), pushforward(constant, torch.zeros(3), torch.eye(3))):
        assert not found.any()


@pytest.mark.parametrize("norm", [0.1, 3.0])
def test_the_mean_jacobian_times_the_vector_is_the_whole_effect(norm: float) -> None:
    z, to = mlp(8), norm * randn(8) / randn(8).norm()
    effect = z(to) - z(torch.zeros_like(to))
    torch.testing.assert_close(mean_jacobian(z, to, nodes=24) @ to, effect, rtol=1e-7, atol=1e-9)
    local = (jacobian(z, torch.zeros_like(to)) @ to - effect).norm() / effect.norm()
    assert local > 0.02 * norm, "the Jacobian at 0 does not have this property"


def test_gauss_and_legendre_are_exact_up_to_their_degree() -> None:
    cubic, to = FunctionMap(lambda theta: theta**4, 2), torch.tensor([1.0, 2.0], dtype=DTYPE)
    torch.testing.assert_close(mean_jacobian(cubic, to, nodes=2), torch.diag(to**3))
    assert not torch.allclose(mean_jacobian(cubic, to, nodes=1), torch.diag(to**3))
    with pytest.raises(ValueError, match="got nodes=0; expected at least 1"):
        mean_jacobian(cubic, to, nodes=0)


def test_a_jacobian_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(ValueError, match="got a Jacobian with NaN or infinite entries at a vector of norm 0"):
        jacobian(FunctionMap(lambda theta: theta.abs().sqrt(), 3), torch.zeros(3))


def test_gauss_newton_is_exact_on_a_linear_map() -> None:
    z, _ = linear(spread(10, 30))
    base = randn(10)
    gram = z.jacobian.mT @ z.jacobian / (z.jacobian @ base).square().sum()
    torch.testing.assert_close(gauss_newton(match(z, base), base, generator=rng()), gram)
    penalised = Penalised(match(z, base), weight=0.2, radius=3.0)
    ridge = gram + 0.2 / 9 * torch.eye(10, dtype=DTYPE)
    torch.testing.assert_close(gauss_newton(penalised, base, generator=rng()), ridge)


def test_gauss_newton_averages_the_ends_of_the_path() -> None:
    z, base = mlp(6), 2 * randn(6)
    scale = (z(base) - z(torch.zeros_like(base))).square().sum()
    ends = [jacobian(z, at) for at in (torch.zeros_like(base), base)]
    expected = sum(end.mT @ end for end in ends) / (2 * scale)
    torch.testing.assert_close(gauss_newton(match(z, base), base, generator=rng()), expected)


def test_a_sketched_gauss_newton_is_close_and_unbiased() -> None:
    base = randn(16)
    goal = match_distribution(logits_map(16, 6, 40), base)  # 240 residuals: more than 2 * 16
    rows = torch.cat(
        [
            torch.autograd.functional.jacobian(lambda theta: goal.residual(theta[None])[0], at)
            for at in (torch.zeros_like(base), base)
        ]
    )
    exact = rows.mT @ rows / 2
    sketches = torch.stack([gauss_newton(goal, base, generator=rng(seed)) for seed in range(60)])
    errors = (sketches - exact).flatten(1).norm(dim=-1) / exact.norm()
    assert errors.median() < 0.8, "32 of 240 directions"
    assert (sketches.mean(0) - exact).norm() / exact.norm() < 1.5 * errors.mean() / 60**0.5
    assert torch.linalg.eigvalsh(sketches[0]).min() > -1e-12
    assert torch.equal(gauss_newton(goal, base, generator=rng(3)), sketches[3])


def test_a_small_sketch_is_unbiased_too_and_costs_a_pass_for_each_sample() -> None:
    base = randn(16)
    goal = match_distribution(logits_map(16, 6, 40), base)
    exact = torch.stack([gauss_newton(goal, base, generator=rng(seed)) for seed in range(60)]).mean(0)
    small = torch.stack([gauss_newton(goal, base, generator=rng(seed), samples=4) for seed in range(400)])
    assert torch.linalg.matrix_rank(small[0], rtol=1e-9) <= 8  # four at each end of the path
    assert (small.mean(0) - exact).norm() < 0.25 * exact.norm()
    with pytest.raises(ValueError, match="got samples=0; expected at least 1"):
        gauss_newton(goal, base, generator=rng(), samples=0)

"""Second derivatives: exact on quadratic maps, equal to differences of Jacobians on others."""

import pytest
import torch
from toys import DTYPE, linear, mlp, randn, spread

from mi_ortho import ActivationMap, FunctionMap, displace, jacobian
from mi_ortho.derivatives import effect_hessian, hessian_products, second_derivatives
from mi_ortho.elicitation.search import value_and_gradient


def quadratic_form(d_model: int, m: int) -> torch.Tensor:
    """A random second-derivative tensor, shape (m, d_model, d_model), symmetric in the last two axes."""
    raw = randn(m, d_model, d_model, seed=3)
    return raw + raw.mT


def quadratic(tensor: torch.Tensor) -> FunctionMap:
    """z_a = sum_bc T_abc theta_b theta_c / 2: its second derivative is T everywhere."""
    return FunctionMap(lambda theta: torch.einsum("...b,abc,...c->...a", theta, tensor, theta) / 2, tensor.shape[1])


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_products_of_a_quadratic_map_are_its_tensor_everywhere(chunk: int) -> None:
    tensor = quadratic_form(6, 4)
    z, u, v, w = quadratic(tensor), randn(5, 4, seed=4), randn(5, 6, seed=5), randn(5, 6, seed=6)
    for at in (torch.zeros(6, dtype=DTYPE), randn(6)):
        products = hessian_products(z, at, u, v, chunk=chunk)
        torch.testing.assert_close(products, torch.einsum("na,abc,nb->nc", u, tensor, v))
        seconds = second_derivatives(z, at, v, w, chunk=chunk)
        torch.testing.assert_close(seconds, torch.einsum("abc,nb,nc->na", tensor, v, w))
        hessian = effect_hessian(lambda theta: z(theta) @ u[0], at, chunk=chunk)
        torch.testing.assert_close(hessian, torch.einsum("a,abc->bc", u[0], tensor))


def test_the_base_point_moves() -> None:
    """T(u, v, .) and T(., v, w) are the derivatives of J'u and J w along v, not J'u and J w at a fixed point."""
    z, at, u, v, w = mlp(7), randn(7, seed=8), randn(3, 7, seed=1), randn(3, 7, seed=2), randn(3, 7, seed=9)
    step = 1e-5
    ahead, behind = (torch.stack([jacobian(z, at + sign * step * row) for row in v]) for sign in (1, -1))
    change = (ahead - behind) / (2 * step)
    torch.testing.assert_close(
        hessian_products(z, at, u, v), torch.einsum("nm,nmd->nd", u, change), rtol=1e-6, atol=1e-8
    )
    torch.testing.assert_close(
        second_derivatives(z, at, v, w), torch.einsum("nmd,nd->nm", change, w), rtol=1e-6, atol=1e-8
    )


def test_the_hessian_of_an_effect_is_the_difference_of_its_gradients() -> None:
    objective, at = displace(mlp(6), like=randn(6)), randn(6, seed=4)
    step, eye = 1e-5, torch.eye(6, dtype=DTYPE)
    ahead, behind = (value_and_gradient(objective, at + sign * step * eye)[1] for sign in (1, -1))
    rows = (ahead - behind) / (2 * step)
    found = effect_hessian(objective, at)
    torch.testing.assert_close(found, rows, rtol=1e-6, atol=1e-7)
    assert torch.equal(found, found.mT)


FLAT = {"linear": linear(spread(5, 10))[0], "constant": FunctionMap(torch.ones_like, 5)}


@pytest.mark.parametrize("flat", FLAT.values(), ids=FLAT)
def test_second_derivatives_of_linear_and_constant_maps_are_zero(flat: ActivationMap) -> None:
    assert not hessian_products(flat, randn(5), randn(2, 5), randn(2, 5)).any()
    assert not second_derivatives(flat, randn(5), randn(2, 5), randn(2, 5)).any()
    assert not effect_hessian(lambda theta: flat(theta).sum(-1), randn(5)).any()


def test_a_hessian_that_is_not_finite_is_an_error() -> None:
    cusp = FunctionMap(lambda theta: theta.abs() ** 1.5, 3)
    with pytest.raises(ValueError, match="got a second derivative with NaN or infinite entries at a vector of norm 0"):
        effect_hessian(lambda theta: cusp(theta).sum(-1), torch.zeros(3))
    with pytest.raises(ValueError, match="second derivative"):
        hessian_products(cusp, torch.zeros(3), torch.ones(1, 3), torch.ones(1, 3))

"""Effects in closed form: divergences of coins, log-likelihoods of known tables, intervals of rates."""

import math

import pytest
import torch
from toys import randn

from mi_ortho.model import kl_divergence, log_likelihood, masked_mean


def coin(heads: float) -> torch.Tensor:
    return torch.tensor([heads, 1 - heads], dtype=torch.float64).log()


def by_hand(p: float, q: float) -> float:
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


@pytest.mark.parametrize(("p", "q"), [(0.5, 0.9), (0.1, 0.2), (0.999, 0.001)])
def test_kl_of_two_coins(p: float, q: float) -> None:
    assert float(kl_divergence(p_logits=coin(p), q_logits=coin(q))) == pytest.approx(by_hand(p, q), rel=1e-12)
    assert float(kl_divergence(p_logits=coin(q), q_logits=coin(p))) == pytest.approx(by_hand(q, p), rel=1e-12)


def test_kl_is_not_symmetric_and_zero_only_for_equals() -> None:
    p, q = randn(4, 3, 11), randn(4, 3, 11, seed=1)
    forward, reverse = kl_divergence(p_logits=p, q_logits=q), kl_divergence(p_logits=q, q_logits=p)
    assert forward.shape == (4, 3) and (forward > 0).all()
    assert (forward - reverse).abs().min() > 1e-6
    torch.testing.assert_close(kl_divergence(p_logits=p, q_logits=p + 3), torch.zeros(4, 3, dtype=p.dtype))


def test_kl_where_probabilities_are_zero() -> None:
    sure = torch.tensor([0.0, -torch.inf], dtype=torch.float64)
    assert float(kl_divergence(p_logits=sure, q_logits=coin(0.25))) == pytest.approx(math.log(4))
    assert float(kl_divergence(p_logits=sure, q_logits=sure)) == 0.0
    assert float(kl_divergence(p_logits=coin(0.25), q_logits=sure)) == math.inf


def test_log_likelihood_adds_the_real_positions() -> None:
    table = torch.tensor([[0.5, 0.5], [0.1, 0.9], [0.7, 0.3]], dtype=torch.float64).log() + 2.0
    tokens, real = torch.tensor([0, 1, 1]), torch.tensor([True, True, False])
    found = log_likelihood(table.expand(4, 3, 2), tokens, real)
    torch.testing.assert_close(found, torch.full((4,), math.log(0.5 * 0.9), dtype=torch.float64))


def test_masked_mean_ignores_padding_whatever_it_holds() -> None:
    values = torch.tensor([[1.0, 3.0, float("nan")], [2.0, 6.0, float("inf")]])
    assert masked_mean(values, torch.tensor([True, True, False])).tolist() == [2.0, 4.0]
    with pytest.raises(ValueError, match="no real position"):
        masked_mean(values, torch.zeros(3, dtype=torch.bool))

"""Which factors to look at first."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_ortho.dct.factors import Factors
from mi_ortho.derivatives.means import Maps, displacement


@dataclass(frozen=True, eq=False)
class FactorRanking:
    """Factors in order, best first.

    Attributes:
        order: indices of factors, shape (k,).
        scores: score of every factor, in the factors' own order, shape (k,).
    """

    order: Int[Tensor, " k"]
    scores: Float[Tensor, " k"]


def rank_by_weight(factors: Factors) -> FactorRanking:
    """By alpha^2, the share of the fitted derivatives that a factor stands for."""
    return _ranking(factors.weights.square())


def rank_by_readout(factors: Factors, z: Maps, readout: Float[Tensor, " m"], *, chunk: int = 64) -> FactorRanking:
    """By <readout, z(radius v) - z(0)>: what steering with the factor does to one number.

    Args:
        factors: what is ranked; only its steering vectors count.
        z: the map the number is read from; any target, such as the logits, need not be the one factors were made on.
        readout: direction in its flattened outputs. On logits: 1 at the token to raise, -1 at the one to lower.
        chunk: factors per pass.

    Raises:
        ValueError: a readout of another width than the outputs of z.
    """
    moved = displacement(z, factors.vectors, chunk=chunk)
    if len(readout) != moved.shape[1]:
        raise ValueError(
            f"got a readout of {len(readout)} numbers; expected {moved.shape[1]}, the outputs of the map; "
            "pool the map, or build the readout for it"
        )
    return _ranking(moved @ readout)


def _ranking(scores: Float[Tensor, " k"]) -> FactorRanking:
    return FactorRanking(torch.argsort(scores, descending=True, stable=True), scores)

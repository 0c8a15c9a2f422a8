"""Areas under the receiver operating characteristic."""

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor


def auc(scores: Float[Tensor, "samples n"], labels: Bool[Tensor, " samples"]) -> Float[Tensor, " n"]:
    """The probability that a positive sample scores higher than a negative one, ties counting half.

    One for each column. Scores that agree in all but the last bit of float32 count as ties.

    >>> auc(torch.tensor([[0.1], [0.4], [0.4], [0.9]]), torch.tensor([False, False, True, True])).tolist()
    [0.875]
    """
    if not bool(labels.any()) or bool(labels.all()):
        raise ValueError(
            f"got {int(labels.sum())} positive samples of {len(labels)}; expected both classes; read text of each"
        )
    keys = rearrange(_sortable(scores), "samples n -> n samples")
    truth = labels.cpu().numpy().astype(np.int32)
    # a label in the lowest bit sorts ties one way, its complement the other way; their mean gives ties a half
    wins = _wins(keys | truth, 1) + _wins(keys | (1 - truth), 0)
    return torch.from_numpy(wins / (2.0 * truth.sum() * (1 - truth).sum()))


def auc_between(
    positive: Float[Tensor, " n *places"], negative: Float[Tensor, " m *places"]
) -> Float[Tensor, "*places"]:
    """`auc` of two samples, at every place.

    >>> float(auc_between(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0])))
    0.875
    """
    labels = torch.cat([torch.ones(len(positive)), torch.zeros(len(negative))]).bool()
    return auc(torch.cat([positive, negative]).reshape(len(labels), -1), labels).reshape(positive.shape[1:])


def _sortable(scores: Float[Tensor, "samples n"]) -> np.ndarray:
    """float32 as int32 in the same order, the lowest bit 0."""
    if bool(scores.isnan().any()):
        raise ValueError("got scores with NaN; expected numbers; drop those samples")
    bits = (scores.float() + 0.0).contiguous().view(torch.int32).cpu().numpy()
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)) & ~1


def _wins(keys: np.ndarray, positive: int) -> np.ndarray:
    """For each row the pairs of a positive and an earlier negative, `positive` being the lowest bit of positives."""
    truth = ((np.sort(keys, axis=1) & 1) == positive).astype(np.float64)
    positives = truth.sum(axis=1)
    return truth @ np.arange(keys.shape[1], dtype=np.float64) - positives * (positives - 1) / 2

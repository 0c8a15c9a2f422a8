"""p-values of many vectors at once, and how many of them to believe."""

import torch
from jaxtyping import Float
from scipy.stats import false_discovery_control
from torch import Tensor


def upper_p_values(values: Float[Tensor, " n"], null: Float[Tensor, " draws"]) -> Float[Tensor, " n"]:
    """(1 + how many of the null's values reach each value) / (1 + draws).

    >>> upper_p_values(torch.tensor([3.0, 0.0]), torch.tensor([1.0, 2.0, 4.0])).tolist()
    [0.5, 1.0]
    """
    if len(null) == 0 or bool(values.isnan().any()) or bool(null.isnan().any()):
        raise ValueError(f"got {len(null)} null values; expected at least one, and numbers throughout; draw more")
    ordered = null.double().sort().values
    # a tie is a tie on every machine, whatever the last bits are
    edges = values.double() - 1e-9 * values.double().abs()
    reach = len(null) - torch.searchsorted(ordered, edges, right=False)
    return (1 + reach).double() / (1 + len(null))


def false_discoveries(p_values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Benjamini and Hochberg's (1995) adjusted p-values: of those at most q, a share of at most q is false on average.

    >>> false_discoveries(torch.tensor([0.0625, 0.125, 0.5])).tolist()
    [0.1875, 0.1875, 0.5]
    """
    if not bool(((p_values > 0) & (p_values <= 1)).all()):
        raise ValueError("got p-values outside (0, 1]; expected probabilities; take them from upper_p_values")
    if len(p_values) == 0:
        return p_values.double()
    return torch.from_numpy(false_discovery_control(p_values.double().cpu().numpy()))

"""How far a statistic would move with other samples: the bootstrap over samples, and intervals of draws."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def bootstrap(
    x: Float[Tensor, " samples *rest"],
    statistic: Callable[[Float[Tensor, " samples *rest"]], Tensor],
    draws: int,
    generator: torch.Generator,
) -> Float[Tensor, " draws *value"]:
    """The statistic of `draws` resamplings of the samples with replacement (Efron 1979), stacked.

    Paired quantities stay paired: put both into one sample and let the statistic take their difference.
    """
    if len(x) < 2 or draws < 1:
        raise ValueError(
            f"got {len(x)} samples and {draws} draws; expected at least two samples and one draw; pass more prompts"
        )
    chosen = torch.randint(len(x), (draws, len(x)), generator=generator, device=generator.device).to(x.device)
    return torch.stack([statistic(x[rows]) for rows in chosen])


def central_interval(draws: Float[Tensor, " draws *value"], *, coverage: float = 0.95) -> Float[Tensor, " two *value"]:
    """The central interval of draws that holds `coverage` of them, lower end first.

    >>> central_interval(torch.arange(101.0), coverage=0.9).round().tolist()
    [5.0, 95.0]
    """
    if not 0 < coverage < 1:
        raise ValueError(f"got coverage {coverage}; expected a share between 0 and 1; write 0.95 for 95 %")
    tails = torch.tensor([(1 - coverage) / 2, (1 + coverage) / 2], dtype=torch.float64, device=draws.device)
    return torch.quantile(draws.double(), tails, dim=0)

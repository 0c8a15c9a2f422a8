"""Inputs as another processor would have rounded them: random numbers and weights on a coarser grid.

What passes on one processor and fails under this hangs on a coincidence: a comparison at equality, or a tolerance below
what the conditioning of the problem allows. Used by `pytest --perturb 1e-7`, which `make test-perturbed` runs.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

DRAWS = ("randn", "rand", "randn_like", "rand_like", "normal")


def on_a_grid(values: Tensor, share: float) -> Tensor:
    """Each number moved by at most 2 `share` of itself; a moved one stays where it is, and powers of two stay.

    A grid and not a random shift, so that equal numbers stay equal and what was saved is read back as it was.

    >>> float(on_a_grid(torch.tensor([0.1], dtype=torch.float64), 1e-3))
    0.1
    >>> float(on_a_grid(torch.tensor([0.7123], dtype=torch.float64), 1e-3))
    0.712
    """
    if not values.is_floating_point() or torch.finfo(values.dtype).eps > share * 10:
        return values
    steps = 2 * round(0.25 / share)
    mantissa, exponent = torch.frexp(values.double())
    return torch.ldexp((mantissa * steps).round() / steps, exponent).to(values.dtype)


def install(share: float) -> None:
    """From now on torch's random numbers, and the weights transformers loads, lie on the grid of this share."""
    for name in DRAWS:
        setattr(torch, name, _moved(getattr(torch, name), share))
    from transformers import AutoModelForCausalLM

    load = AutoModelForCausalLM.from_pretrained

    def loaded(*arguments: Any, **options: Any) -> Any:
        found = load(*arguments, **options)
        network = found[0] if isinstance(found, tuple) else found  # with output_loading_info
        with torch.no_grad():
            for weight in network.parameters():
                weight.copy_(on_a_grid(weight, share))
        return found

    AutoModelForCausalLM.from_pretrained = loaded


def _moved(draw: Callable[..., Tensor], share: float) -> Callable[..., Tensor]:
    @functools.wraps(draw)
    def moved(*arguments: Any, **options: Any) -> Tensor:
        return on_a_grid(draw(*arguments, **options), share)

    return moved

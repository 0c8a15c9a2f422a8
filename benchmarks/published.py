"""The published MELBO-ortho loop, re-derived from its description (Goldman-Wetzler and Turner 2024).

Every step runs the model from the embeddings through hooks up to the target layer, with weights that ask for gradients
as they do after loading; the loss is the norm of the difference of mean target activations; Adam gets the raw gradient;
afterwards the vector is projected off all vectors before it, through a d x d matrix.
"""

from typing import Any

import torch
from torch import Tensor

from mi_ortho.model import Prompts


def hooked_mean(model: Any, prompts: Prompts, theta: Tensor, source: int, target: int) -> Tensor:
    """Mean over positions of the residual stream after block `target` with theta added after block `source`."""
    hook = (f"blocks.{source}.hook_resid_post", lambda x, hook: x + theta)
    with model.hooks(fwd_hooks=[hook]):
        return model(prompts.tokens, stop_at_layer=target + 1).mean(1)[0]


def next_vector(
    model: Any, prompts: Prompts, start: Tensor, previous: Tensor, goal: Tensor, *, source: int, target: int, steps: int
) -> Tensor:
    """One orthogonal vector.

    Args:
        start: initial vector.
        previous: the base and the vectors found before, as rows.
        goal: target activations under the base.
        source: block after which the vector is added.
        target: block after which activations are read.
        steps: of Adam, 1000 in the paper.
    """
    theta = start.clone().requires_grad_()
    basis = torch.nn.functional.normalize(previous, dim=-1).mT
    optimiser = torch.optim.Adam([theta], lr=0.01)
    for _ in range(steps):
        optimiser.zero_grad()
        (hooked_mean(model, prompts, theta, source, target) - goal).norm().backward()
        optimiser.step()
        with torch.no_grad():
            theta -= basis @ basis.mT @ theta
    return theta.detach()

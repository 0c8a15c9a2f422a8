"""Published loops, re-derived from their descriptions, to be timed beside ours.

The MELBO-ortho loop (Goldman-Wetzler and Turner 2024): every step runs the model from the embeddings through hooks up
to the target layer, with weights that ask for gradients as they do after loading; the loss is the norm of the
difference of mean target activations; Adam gets the raw gradient; afterwards the vector is projected off all vectors
before it, through a d x d matrix.

Deep causal transcoding (Mack and Turner 2024): derivatives by `torch.func` on the sliced model, 16 factors or columns
at once, with attention written out.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import normalize

from mi_ortho import ActivationMap, Prompts
from mi_ortho.interventions import orthonormal_rows

CHUNK = 16  # factors or columns at once


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


def columns(z: ActivationMap, at: Tensor, chunk: int = CHUNK) -> Tensor:
    """The full Jacobian, column by column: forward mode, `chunk` basis vectors at once."""
    flat = _flat(z)

    def column(tangent: Tensor) -> Tensor:
        return jvp(flat, (at,), (tangent,))[1]

    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        return torch.cat([vmap(column)(part) for part in torch.eye(len(at), device=at.device).split(chunk)]).mT


def exponential_factors(
    z: ActivationMap, start: Tensor, radius: float, steps: int, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """Input directions, as rows, and weights of exponential factors by the published iteration, from a given start.

    Orthogonalise the inputs, take effects and gradients, put both to unit length; weights from the kernel at the end.
    Effects are evaluated once before the iterations and once after them.
    """
    flat = _flat(z)
    zero = flat(start.new_zeros(start.shape[1]))

    def pulled(theta: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        out, back = vjp(lambda x: flat(x) - zero, theta)[:2]
        return out, back(u)[0]

    def each(function: Callable[..., Any], *rows: Tensor) -> Any:
        parts = [vmap(function)(*part) for part in zip(*(row.split(chunk) for row in rows), strict=True)]
        return (
            [torch.cat(part) for part in zip(*parts, strict=True)]
            if isinstance(parts[0], tuple)
            else (torch.cat(parts))
        )

    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        v, u = start, normalize(each(flat, radius * start) - zero, dim=-1)
        for _ in range(steps):
            v = orthonormal_rows(v)
            effect, slope = each(pulled, radius * v, u)
            u, v = normalize(effect, dim=-1), normalize(slope, dim=-1)
        kernel = (u @ u.mT) * torch.expm1(v @ v.mT)
        effects = (u * (each(flat, radius * v) - zero)).sum(-1)
        return v, torch.linalg.lstsq(kernel, effects[:, None]).solution[:, 0]


def _flat(z: ActivationMap) -> Callable[[Tensor], Tensor]:
    return lambda theta: z(theta[None])[0].flatten()

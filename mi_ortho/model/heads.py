"""What each attention head writes along a direction of the residual stream."""

from contextlib import ExitStack
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mi_ortho.model.hooks import run
from mi_ortho.model.load import Model
from mi_ortho.model.prompts import Prompts


@torch.no_grad()
def head_writes(
    model: Model, prompts: Prompts, direction: Float[Tensor, " d_model"]
) -> Float[Tensor, "layer head batch"]:
    """The part of every head's output along the unit direction, at the last prompt column.

    A head writes its slice of the attention output matrix applied to its mixed values; the biases of the matrix belong
    to no head and are left out, so the heads' parts add up to the attention output without it.

    Raises:
        ValueError: the direction has another width, or the model has no output matrix for each attention.
    """
    inside: Any = model
    heads, width = int(model.cfg.n_heads), int(model.cfg.d_model)
    if direction.shape[-1] != width:
        raise ValueError(
            f"got a direction of width {direction.shape[-1]}; expected {width}, the model's d_model; use "
            "one made for this model"
        )
    seen: list[Tensor] = []
    outputs: list[Any] = [getattr(getattr(block, "attn", None), "o", None) for block in inside.blocks]
    if any(output is None for output in outputs):
        raise ValueError("got an architecture without attn.o in its blocks; expected one; choose another model")
    modules: list[Any] = [getattr(output, "original_component", output) for output in outputs]
    with ExitStack() as stack:
        for module in modules:
            note = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
            stack.callback(note.remove)
        run(model, prompts.prompts_only())
    return torch.stack([_along(z[:, -1], module, direction, heads) for z, module in zip(seen, modules, strict=True)])


def _along(z: Tensor, module: Any, direction: Tensor, heads: int) -> Float[Tensor, "head batch"]:
    unit = (direction / direction.norm()).to(z)
    # Linear keeps out x in, Conv1D of GPT-2 in x out
    read = unit @ module.weight if isinstance(module, nn.Linear) else module.weight @ unit
    return rearrange(z * read, "batch (head d) -> head batch d", head=heads).sum(-1).float()

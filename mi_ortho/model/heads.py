"""What each attention head writes along a direction, and whether attention's outputs reach the stream unchanged."""

from contextlib import ExitStack
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mi_ortho.interventions.sites import mlp_out, resid_post, resid_pre
from mi_ortho.model.blocks import hidden, rounding
from mi_ortho.model.hooks import read
from mi_ortho.model.load import Model
from mi_ortho.model.passes import run
from mi_ortho.model.prompts import Prompts
from mi_ortho.model.stepping import probe

_Passes = list[tuple[Tensor, Tensor]]  # input and output of each output matrix at the last column


@torch.no_grad()
def head_writes(
    model: Model, prompts: Prompts, direction: Float[Tensor, " d_model"]
) -> Float[Tensor, "layer head batch"]:
    """The part of every head's output along the unit direction, at the last prompt column.

    A head writes its slice of the attention output matrix applied to its mixed values; the biases of the matrix belong
    to no head and are left out, so the heads' parts add up to the attention output without it.

    Raises:
        ValueError: the direction has another width, the model has no output matrix for each attention, or what the
            matrices give is not what the stream receives: a norm or a multiplier stands between.
    """
    heads, width = int(model.cfg.n_heads), int(model.cfg.d_model)
    if direction.shape[-1] != width:
        raise ValueError(
            f"got a direction of width {direction.shape[-1]}; expected {width}, the model's d_model; use "
            "one made for this model"
        )
    prompts = prompts.prompts_only()
    require_plain_writes(model)
    modules = _output_matrices(model)
    passed = _passes(model, prompts, modules)
    return torch.stack([_along(z, m, direction, heads) for (z, _), m in zip(passed, modules, strict=True)])


def require_plain_writes(model: Model) -> None:
    """Raises ValueError, in one line, where what attention's output matrices give is not what the stream receives."""
    tokens, layers = probe(model), range(int(model.cfg.n_layers))
    passed = _passes(model, tokens, _output_matrices(model))
    sites = [site(layer) for layer in layers for site in (resid_pre, mlp_out, resid_post)]
    streams = {site: x[:, -1].float() for site, x in read(model, tokens, sites).items()}
    for layer, (_, out) in zip(layers, passed, strict=True):
        before, mlp, after = streams[resid_pre(layer)], streams[mlp_out(layer)], streams[resid_post(layer)]
        error = float((after - before - mlp - out.float()).norm())
        scale = max(float(x.norm()) for x in (before, mlp, after))
        if not error <= rounding(out.dtype) * scale:
            raise ValueError(
                f"got an architecture that changes what its attention writes ({error / scale:.1e} of the stream in "
                f"layer {layer}, by a norm or a multiplier); expected plain outputs; leave out what heads write"
            )


def _output_matrices(model: Any) -> list[Any]:
    outputs: list[Any] = [block._modules.get("attn") for block in model.blocks]
    outputs = [None if attention is None else getattr(attention, "o", None) for attention in outputs]
    if any(output is None for output in outputs):
        raise ValueError(
            "got an architecture without attn.o in each of its blocks; expected one attention output matrix a block; "
            "leave out what heads write"
        )
    return [getattr(output, "original_component", output) for output in outputs]


@torch.no_grad()
def _passes(model: Model, prompts: Prompts, modules: list[Any]) -> _Passes:
    pairs: _Passes = []
    with ExitStack() as stack:
        for module in modules:
            note = module.register_forward_hook(lambda _, args, out: pairs.append((args[0][:, -1], hidden(out)[:, -1])))
            stack.callback(note.remove)
        run(model, prompts)
    if len(pairs) != len(modules):
        raise ValueError(
            f"got {len(pairs)} calls of {len(modules)} attention output matrices; expected one each; leave out what "
            "heads write"
        )
    return pairs


def _along(z: Tensor, module: Any, direction: Tensor, heads: int) -> Float[Tensor, "head batch"]:
    unit = (direction / direction.norm()).to(z)
    # Linear keeps out x in, Conv1D of GPT-2 in x out
    along = unit @ module.weight if isinstance(module, nn.Linear) else module.weight @ unit
    return rearrange(z * along, "batch (head d) -> head batch d", head=heads).sum(-1).float()

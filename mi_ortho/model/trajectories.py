"""Trajectories of samples through the residual stream of a model, and the matrices that write to it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mi_ortho.interventions.sites import Site, resid_mid, resid_post, resid_pre
from mi_ortho.model import Model, read, require_plain_writes, tokenize


@dataclass(frozen=True, eq=False)
class Trajectories:
    """Activations at successive points of the residual stream.

    Attributes:
        sites: the points in order of depth: before, within (where the architecture has it) and after each block.
        points: one trajectory a sample.
    """

    sites: tuple[Site, ...]
    points: Float[Tensor, "samples point d_model"]

    def kind(self, kind: str) -> Float[Tensor, "samples layer d_model"]:
        """One stream: the points of one kind, "resid_pre", "resid_mid" or "resid_post", by layer.

        Raises:
            ValueError: the architecture has no such points.
        """
        # a resid_post is the next block's resid_pre, so only the last one stands under its own name
        chosen = [
            index
            for index, site in enumerate(self.sites)
            if site.kind == kind or (kind == "resid_post" and (site.boundary or 0) > 0)
        ]
        if not chosen:
            kinds = ", ".join(sorted({site.kind for site in self.sites}))
            raise ValueError(f"got no points of kind {kind!r}; expected one of {kinds}; choose one of these")
        return self.points[:, chosen]


def stream_sites(model: Model) -> tuple[Site, ...]:
    """All points of the residual stream, by depth; without `resid_mid` where attention and MLP work side by side."""
    modules: Any = model
    sites: list[Site] = []
    for layer, block in enumerate(modules.blocks):
        sites += [resid_pre(layer)] + [resid_mid(layer)] * hasattr(block, "hook_resid_mid")
    return (*sites, resid_post(len(modules.blocks) - 1))


def trajectories(model: Model, texts: Sequence[str], *, batch: int = 16) -> Trajectories:
    """The last token of each prompt through the whole residual stream, in float32 on the CPU."""
    parts = [part[:, -1] for part, _ in _passes(model, texts, batch)]
    return Trajectories(stream_sites(model), torch.cat(parts))


def token_trajectories(
    model: Model, texts: Sequence[str], *, batch: int = 16
) -> Iterator[Float[Tensor, "samples point d_model"]]:
    """Every token of the prompts through the whole residual stream, batch by batch: for statistics in one pass."""
    for points, mask in _passes(model, texts, batch):
        yield points[mask]


def _passes(model: Model, texts: Sequence[str], batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(activations `batch pos point d_model`, mask `batch pos`) of each batch of prompts."""
    if batch < 1:
        raise ValueError(f"got batches of {batch}; expected at least 1; choose a larger batch")
    sites = stream_sites(model)
    for start in range(0, len(texts), batch):
        prompts = tokenize(model, list(texts[start : start + batch]))
        activations = read(model, prompts, sites)
        yield torch.stack([activations[site] for site in sites], dim=2).float().cpu(), prompts.mask.cpu()
    if not len(texts):
        raise ValueError("got no prompts; expected at least one; pass some texts")


def write_matrices(model: Model) -> list[tuple[Site, Float[Tensor, "_ d_model"]]]:
    """What attention and MLP of each block multiply their results with before adding them to the residual stream.

    Attention's W_O with all heads under each other, and the MLP's W_out, each under the site of its output.

    Raises:
        ValueError: a block has no such matrices, or the stream receives something else than what they give.
    """
    require_plain_writes(model)
    modules: Any = model
    matrices: list[tuple[Site, Tensor]] = []
    for layer, block in enumerate(modules.blocks):
        attention, mlp = block._modules.get("attn"), block._modules.get("mlp")
        if not (hasattr(attention, "W_O") and hasattr(mlp, "W_out")):
            raise ValueError(
                f"got an architecture whose block {layer} has no single attention and MLP output matrix; expected "
                "both; leave out what is said of output matrices"
            )
        heads = attention.W_O.detach().float().cpu()
        matrices.append((Site(layer, "attn_out"), rearrange(heads, "head d_head d_model -> (head d_head) d_model")))
        matrices.append((Site(layer, "mlp_out"), mlp.W_out.detach().float().cpu()))
    return matrices

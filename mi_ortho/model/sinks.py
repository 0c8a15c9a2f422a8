"""Attention sinks: the few positions whose residual stream is many times as long as everywhere else."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_ortho.interventions.sites import Site
from mi_ortho.model.hooks import read
from mi_ortho.model.load import Model
from mi_ortho.model.norms import stream_norms
from mi_ortho.model.prompts import Prompts
from mi_ortho.model.slice import Slice

FACTOR = 10.0  # times the median norm of the same block


@dataclass(frozen=True, eq=False)
class Sinks:
    """How long the residual stream is, relative to the median over all real positions of the same boundary.

    Boundary k is `resid_pre(k)`, which is `resid_post(k - 1)`: k blocks are complete. Padding has ratio 0. On the CPU.
    """

    ratios: Float[Tensor, "boundary batch pos"]
    factor: float

    @property
    def mask(self) -> Bool[Tensor, "boundary batch pos"]:
        """Where a sink is."""
        return self.ratios >= self.factor

    def at(self, site: Site) -> Bool[Tensor, "batch pos"]:
        """The sinks at a site; inside a block, those of the stream that entered it."""
        return self.mask[site.layer if site.boundary is None else site.boundary]

    def anywhere(self) -> Bool[Tensor, "batch pos"]:
        """The positions that are a sink at some boundary between blocks."""
        return self.mask.any(dim=0)

    def lasting(self) -> Bool[Tensor, "batch pos"]:
        """The positions that are a sink at two boundaries in a row or more.

        A sink is left by some block and stays until a later one removes it. A stream that is long at one boundary only
        was written by one block for the next one to read: it belongs to what the model computes.
        """
        return self.pairs().any(dim=0)

    def pairs(self) -> Bool[Tensor, "boundary batch pos"]:
        """Where a position is a sink at a boundary and at the next one too; never at the last boundary."""
        return self.mask & torch.cat([self.mask[1:], torch.zeros_like(self.mask[:1])])


def sinks(model: Model, prompts: Prompts, *, factor: float = FACTOR) -> Sinks:
    """The positions of `prompts` whose residual stream is at least `factor` times its block's median norm.

    Found by measuring, not by position: most models have one at the first token, some have others, some have none.
    Raises ValueError for a factor that is not above 1.
    """
    if not factor > 1.0:
        raise ValueError(f"got factor={factor}; expected more than 1, times the median norm; choose a larger one")
    norms, real = stream_norms(model, prompts), prompts.mask.cpu()
    medians = torch.stack([row[real].median() for row in norms])
    ratios = norms / medians[:, None, None]
    return Sinks(torch.where(real, ratios, 0.0), factor)


def without_sinks(model: Model, prompts: Prompts, *, factor: float = FACTOR) -> Prompts:
    """The same prompts with their lasting sinks neither steered nor read; unchanged where there is no sink.

    A sink dominates a vector that is added everywhere and an objective that is read everywhere. Only the prompts are
    looked at, without their answers, so that the positions are the same while a model writes. A row of nothing but
    sinks keeps them.
    """
    bare = prompts.prompts_only()
    lasting = sinks(model, bare, factor=factor).lasting().to(prompts.mask.device)
    lasting = lasting & (bare.active & ~lasting).any(dim=1, keepdim=True)
    if not bool(lasting.any()):
        return prompts
    passive = torch.zeros_like(prompts.mask)
    passive[:, : prompts.prompt_length] = lasting
    return replace(prompts, passive=passive if prompts.passive is None else passive | prompts.passive)


def ordinary(model: Model, prompts: Prompts, *, factor: float = FACTOR) -> Bool[Tensor, "batch pos"]:
    """The real positions, answers included, that are no lasting sinks: covariances are taken over these.

    One sink of thirty times the usual length makes "random" vectors of that covariance nearly parallel to it.
    """
    return prompts.active & ~sinks(model, prompts, factor=factor).lasting().to(prompts.mask.device)


def ordinary_activations(
    model: Model, prompts: Prompts, site: Site, *, factor: float = FACTOR
) -> Float[Tensor, "samples d_model"]:
    """The activations at a site at every ordinary position of the prompts, in float32."""
    return read(model, prompts, [site])[site][ordinary(model, prompts, factor=factor)].float()


@torch.no_grad()
def new_sinks(z: Slice, vectors: Float[Tensor, "n d_model"], *, factor: float = FACTOR) -> list[int]:
    """For each vector, how many positions that it steers or reaches become attention sinks at the target of `z`.

    `z` is read at all positions. A new sink is `factor` times as long as the unsteered positions are in the median, and
    was not before. A vector that makes some moves the target a hundred times further than others do, all of it along
    the sinks' direction: MELBO's objective prefers such vectors, and no other vector repeats their activations.
    """
    unsteered = z(torch.zeros_like(vectors[0]))
    longest = factor * unsteered[z.real].norm(dim=-1).median()
    before = unsteered.norm(dim=-1) >= longest
    return [int((z.real & ~before & (z(vector).norm(dim=-1) >= longest)).sum()) for vector in vectors]

"""Attention sinks: the few positions whose residual stream is many times as long as everywhere else."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_ortho.interventions.sites import Site
from mi_ortho.model.load import Model
from mi_ortho.model.norms import stream_norms
from mi_ortho.model.prompts import Prompts

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


def without_sinks(model: Model, prompts: Prompts) -> Prompts:
    """The same prompts with every position that is a sink somewhere neither steered nor read; as they are without one.

    A vector added everywhere, and an objective read everywhere, are mostly the sink's where there is one.
    """
    found = sinks(model, prompts).anywhere()
    return replace(prompts, passive=found.to(prompts.mask.device)) if bool(found.any()) else prompts


def ordinary(model: Model, prompts: Prompts, site: Site) -> Bool[Tensor, "batch pos"]:
    """The real positions that are no sink at a site: those whose covariance says something about the stream.

    One sink of thirty times the usual length makes "random" vectors of that covariance nearly parallel to it.
    """
    return prompts.active & ~sinks(model, prompts).at(site).to(prompts.mask.device)

"""Where a direction is ablated or added: one intervention at many layers and kinds of sites."""

from collections.abc import Collection, Sequence

from jaxtyping import Float
from torch import Tensor

from mi_ortho.interventions.edits import Ablate, Add, Intervention, PerRow
from mi_ortho.interventions.sites import KINDS, Kind, Site, attn_out
from mi_ortho.model import Model
from mi_ortho.model.weights import WRITTEN


def at_every(
    model: Model,
    intervention: Intervention,
    *,
    layers: Sequence[int] | None = None,
    kinds: Collection[Kind] = WRITTEN,
) -> dict[Site, Intervention]:
    """The same intervention at sites of these kinds in these layers (None: all), as `intervene` and `generate` take it.

    Raises:
        ValueError: no layer or kind is given, a layer is not the model's, or a kind cannot be written.
    """
    layer_numbers = range(int(model.cfg.n_layers)) if layers is None else sorted(set(layers))
    sites = [Site(layer, kind) for layer in layer_numbers for kind in KINDS if kind in kinds]
    bad = [site for site in sites if not site.writable or site.layer >= int(model.cfg.n_layers)]
    if not sites or bad:
        raise ValueError(
            f"got {bad[0] if bad else 'no site'}; expected layers 0 to {int(model.cfg.n_layers) - 1} and "
            "kinds of resid_pre, resid_post, attn_out, mlp_out; choose others"
        )
    return dict.fromkeys(sites, intervention)


def ablate_everywhere(
    model: Model,
    directions: Float[Tensor, " d_model"] | Float[Tensor, "k d_model"],
    *,
    layers: Sequence[int] | None = None,
    kinds: Collection[Kind] = WRITTEN,
    strength: PerRow = 1.0,
) -> dict[Site, Intervention]:
    """Directional ablation of one direction, or of the span of several, at any set of layers and kinds of sites.

    The default, all layers at the block's input, attention output and MLP output, is the ablation of Arditi et al.: the
    residual stream then never holds any part along the directions.
    """
    rows = directions[None] if directions.ndim == 1 else directions
    return at_every(model, Ablate(rows, strength), layers=layers, kinds=kinds)


def add_at(site: Site, vector: Float[Tensor, " d_model"], strength: PerRow = 1.0) -> dict[Site, Intervention]:
    """Activation addition at one site, all positions.

    `resid_mid` can only be read, so a vector from there is added to the attention output of its layer: for an addition
    that is the same.
    """
    return {attn_out(site.layer) if site.kind == "resid_mid" else site: Add(vector, strength)}


def depth(site: Site) -> int:
    """Blocks passed before a site: what Arditi et al. call the layer of a direction read from resid_pre."""
    return site.layer if site.boundary is None else site.boundary

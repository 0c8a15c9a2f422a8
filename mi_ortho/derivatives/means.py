"""Averages over tokens and prompts: several activation maps as one, differentiated one after the other."""

from collections.abc import Iterator, Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mi_ortho.elicitation.objectives import ActivationMap, FunctionMap, unsteered

Maps = ActivationMap | Sequence[ActivationMap]


def pooled(z: ActivationMap) -> FunctionMap:
    """z averaged over its positions, then over its prompts: maps (*n, d_model) to (*n, width).

    Positions that `z.real` marks as padding do not count, so prompts of unequal length weigh the same. A map without
    such a mask is averaged over all axes between the steering vectors' and the last.

    Raises:
        ValueError: a prompt without a real position, or a mask that does not fit the outputs.
    """
    real = getattr(z, "real", None)
    if real is not None and not bool(real.any(dim=-1).all()):
        raise ValueError("got a prompt without any real position; expected at least one each; leave empty prompts out")

    def mean(theta: Tensor) -> Tensor:
        out = z(theta)
        lead = theta.ndim - 1
        inner = out.shape[lead:-1]
        flat = rearrange(out.reshape(*theta.shape[:-1], -1, out.shape[-1]), "... read width -> ... width read")
        if real is None:
            return flat.mean(-1)
        if tuple(real.shape) != tuple(inner):
            raise ValueError(
                f"got a mask of shape {tuple(real.shape)} for outputs of shape {tuple(inner)}; expected "
                "one flag for each prompt and position; build the map with slice_model"
            )
        weights = real / real.sum(dim=-1, keepdim=True) / len(real)
        return flat @ weights.flatten().to(flat)

    return FunctionMap(mean, z.d_model)


def as_maps(z: Maps) -> tuple[ActivationMap, ...]:
    """One map or many as a tuple; many stand for their mean.

    Raises:
        ValueError: no map at all.
    """
    maps = (z,) if isinstance(z, ActivationMap) else tuple(z)
    if not maps:
        raise ValueError("got no activation map; expected at least one; build one with slice_model")
    return maps


def require_equal_outputs(maps: Sequence[ActivationMap], like: Float[Tensor, " d_model"]):
    """Refuse to average maps that take vectors of unequal widths or give unequally many numbers.

    Raises:
        ValueError: they do; prompts of unequal length do where positions are not averaged.
    """
    widths = sorted({z.d_model for z in maps})
    sizes = sorted({outputs(z, like) for z in maps}) if len(maps) > 1 and len(widths) == 1 else []
    if len(widths) > 1 or len(sizes) > 1:
        raise ValueError(
            f"got maps of widths {widths} with {sizes} outputs; expected all equal; average prompts of "
            "unequal length with pooled(z)"
        )


def outputs(z: ActivationMap, like: Tensor) -> int:
    """How many numbers z gives for one steering vector."""
    return unsteered(z, like).numel()


def chunks(rows: Tensor, chunk: int) -> Iterator[tuple[slice, Tensor]]:
    """Consecutive parts of at most `chunk` rows, each with its slice."""
    for start in range(0, len(rows), chunk):
        yield slice(start, start + chunk), rows[start : start + chunk]


@torch.no_grad()
def displacement(z: Maps, theta: Float[Tensor, "n d_model"], *, chunk: int = 64) -> Float[Tensor, "n m"]:
    """z(theta) - z(0), flattened, mean over the maps."""
    maps = as_maps(z)
    parts = []
    for _, part in chunks(theta, chunk):
        moved = [(one(part) - unsteered(one, part)).flatten(1) for one in maps]
        parts.append(torch.stack(moved).mean(0) if len(moved) > 1 else moved[0])
    return torch.cat(parts)


def displacement_and_gradient(
    z: Maps, theta: Float[Tensor, "n d_model"], outward: Float[Tensor, "n m"], *, chunk: int = 64
) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n d_model"]]:
    """z(theta) - z(0) and the gradient of <outward, z(theta)> by theta, row by row, mean over the maps.

    One forward and one backward pass for each row and map; the graph of `chunk` rows of one map is alive at a time.
    """
    maps = as_maps(z)
    moved, slopes = torch.zeros_like(outward), torch.zeros_like(theta)
    for one in maps:
        start = unsteered(one, theta).flatten()
        for rows, part in chunks(theta, chunk):
            with torch.enable_grad():
                leaf = part.detach().clone().requires_grad_()
                out = one(leaf).flatten(1)
                if out.requires_grad:
                    slopes[rows] += torch.autograd.grad((out * outward[rows]).sum(), leaf)[0] / len(maps)
            moved[rows] += (out.detach() - start) / len(maps)
    return moved, slopes

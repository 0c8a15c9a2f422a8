"""Matrices as pictures on a canvas, with the number on hover."""

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor

from mi_ortho.viz.text import json_script

Scale = tuple[Literal["linear", "log"], float, float]


def heat_map(
    values: Float[Tensor, "row column"],
    *,
    title: str,
    scales: Sequence[Scale] = (("linear", -1.0, 1.0),),
    captions: Sequence[str] = (),
    ticks: Mapping[int, str] | None = None,
    limit: int = 400,
) -> Markup:
    """One picture of a matrix for each scale, with the number on hover.

    A "linear" scale diverges around zero up to its largest edge; "log" shows log10|value| between its edges (powers of
    ten). Matrices over `limit` rows or columns show, for each block of entries, the one of largest absolute value.
    """
    block = max(1, math.ceil(max(values.shape) / limit))
    shown = _strongest(values.detach().double().cpu(), block)
    symmetric = shown.shape[0] == shown.shape[1] and torch.equal(shown, shown.T)
    sent = shown[tuple(torch.triu_indices(*shown.shape))] if symmetric else shown
    data = {
        "symmetric": symmetric,
        "rows": shown.shape[0],
        "columns": shown.shape[1],
        "block": block,
        "scales": [list(scale) for scale in scales],
        "ticks": [[position, label] for position, label in (ticks or {}).items()],
        "values": pack(sent),
    }
    notes = [*captions, *[""] * len(scales)]
    drawn = Markup("").join(
        Markup(
            '<figure class="heat" tabindex="0" role="img" aria-label="{}. {}"><div class="held"><canvas></canvas></div>'
            '<div class="scale"></div><figcaption>{}</figcaption></figure>'
        ).format(title, note, note)
        for note, _ in zip(notes, scales)
    )
    return Markup('<div class="heats two">{}{}</div>').format(drawn, json_script(data))


def pack(values: Float[Tensor, "..."]) -> str:
    """Values of magnitude 1e-12 to 1e3, in order, as base64 of 16-bit integers: sign, and log10 in steps of 1/2000."""
    size = values.abs().nan_to_num(0.0).clamp(1e-12, 1e3).log10() + 12.0
    steps = (size * 2000 + 1).round() * torch.where(values < 0, -1, 1) * (values.abs() > 1e-12)
    return base64.b64encode(steps.to(torch.int16).numpy().astype("<i2").tobytes()).decode()


def _strongest(values: Float[Tensor, "row column"], block: int) -> Float[Tensor, "r c"]:
    """Of each block of entries the one of largest absolute value, sign kept."""
    if block == 1:
        return values
    pooled = torch.nn.functional.max_pool2d
    high = pooled(values[None], block, ceil_mode=True)[0]
    low = -pooled(-values[None], block, ceil_mode=True)[0]
    return torch.where(high.abs() >= low.abs(), high, low)

"""Matrices as pictures on a canvas, with the number on hover."""

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor

from mi_ortho.pages.text import json_script, visible

_MAX_NAMES = 24
_LETTERS = 60  # of column names that fit side by side; more are turned
Scale = tuple[Literal["linear", "log"], float, float]


def heat_map(
    values: Float[Tensor, "row column"],
    *,
    title: str,
    scales: Sequence[Scale] = (("linear", -1.0, 1.0),),
    captions: Sequence[str] = (),
    ticks: Mapping[int, str] | None = None,
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
    limit: int = 400,
) -> Markup:
    """One picture of a matrix for each scale, with the number on hover.

    A "linear" scale diverges around zero up to its largest edge; "log" shows log10|value| between its edges (powers of
    ten). `ticks` name where groups of rows and columns start; `row_names` and `column_names` name each of them, shown
    on hover, and at the edges where there are few. Matrices over `limit` rows or columns show, for each block of
    entries, the one of largest absolute value.
    """
    rows, columns = values.shape
    if len(row_names) not in (0, rows) or len(column_names) not in (0, columns):
        raise ValueError(
            f"got {len(row_names)} row and {len(column_names)} column names for a {rows} x {columns} matrix; expected "
            "one name each, or none; leave them out or name every row and column"
        )
    block = max(1, math.ceil(max(values.shape) / limit))
    pixels = _strongest(values.detach().double().cpu(), block)
    symmetric = pixels.shape[0] == pixels.shape[1] and torch.equal(pixels, pixels.T)
    distinct = pixels[tuple(torch.triu_indices(*pixels.shape))] if symmetric else pixels
    data = {
        "symmetric": symmetric,
        "rows": pixels.shape[0],
        "columns": pixels.shape[1],
        "block": block,
        "scales": [list(scale) for scale in scales],
        "ticks": [[position, label] for position, label in (ticks or {}).items()],
        "values": pack(distinct),
        "names": [list(row_names), list(column_names)] if block == 1 else [[], []],
    }
    frames = _frames(title, [*captions, *[""] * len(scales)][: len(scales)], row_names, column_names)
    return Markup('<div class="heats two">{}{}</div>').format(frames, json_script(data))


def _frames(title: str, notes: Sequence[str], row_names: Sequence[str], column_names: Sequence[str]) -> Markup:
    """An empty picture for each note, which the page's script draws into."""
    at_left, below = _names("rownames", row_names), _names("columnnames", column_names)
    return Markup("").join(
        Markup(
            '<figure class="heat" tabindex="0" role="img" aria-label="{}. {}">'
            '<div class="framed">{}<div class="held"><canvas></canvas></div>{}</div>'
            '<div class="scale"></div><figcaption>{}</figcaption></figure>'
        ).format(title, note, at_left, below, note)
        for note in notes
    )


def _names(place: str, names: Sequence[str]) -> Markup:
    """Names along an edge, where there are few enough to read."""
    if not 0 < len(names) <= _MAX_NAMES:
        return Markup("")
    words = Markup("").join(Markup("<span>{}</span>").format(visible(name)) for name in names)
    turned = " turned" * (place == "columnnames" and sum(map(len, names)) > _LETTERS)
    return Markup('<div class="{}" aria-hidden="true">{}</div>').format(place + turned, words)


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

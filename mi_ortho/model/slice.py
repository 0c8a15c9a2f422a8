"""Slices: the frozen function from a steering vector at one place to activations or logits at a later one."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_ortho.interventions.sites import Site
from mi_ortho.model.blocks import (
    Call,
    Recording,
    expand,
    record,
)
from mi_ortho.model.hooks import require_answers, require_layer
from mi_ortho.model.load import Model
from mi_ortho.model.positions import Where, chosen_columns, positions_of, require_where
from mi_ortho.model.prompts import Prompts
from mi_ortho.model.readout import readout as logit_lens
from mi_ortho.model.stepping import require_agreement

Readout = str | int
MEAN_OF = "mean of "
_Read = Callable[[Tensor], Tensor]  # "n batch pos d_model" -> "n batch read width"


@dataclass(frozen=True, eq=False)
class Slice:
    """z: a vector added to the residual stream at the source, mapped to what is read at the target.

    Built once by `slice_model` or `logit_slice` and frozen: hooks set on the model later do not reach it. Leading axes
    of theta are batches of vectors. Theta is cast to the dtype of the blocks, results are fp32. Differentiable, and a
    plain function for `torch.func` (vmap, jvp, jacrev).

    `real` tells which entries of the axes `batch read` belong to a real token (the others are exactly 0), `where_mask`
    which positions receive the vector.
    """

    d_model: int
    real: Bool[Tensor, "batch read"]
    where_mask: Bool[Tensor, "batch pos"]
    _start: Float[Tensor, "batch pos d_model"]
    _calls: tuple[Call, ...]
    _read: _Read
    _gate: Float[Tensor, "batch pos 1"] | None
    _per_row: bool
    _expanded: dict[int, tuple[Call, ...]] = field(default_factory=dict, repr=False)

    def __call__(self, theta: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n batch read width"]:
        if theta.shape[-1] != self.d_model:
            raise ValueError(
                f"got a vector of width {theta.shape[-1]}; expected {self.d_model}, the model's d_model; "
                "use vectors made for this model"
            )
        lead = theta.shape[:-1]
        n, batch = math.prod(lead), self._start.shape[0]
        added = theta.to(self._start).reshape(n, 1, 1, self.d_model)
        # one fused operation; bitwise x + theta where the gate is 1 and x where it is 0
        x = self._start + added if self._gate is None else torch.addcmul(self._start, self._gate, added)
        x = x.flatten(0, 1)
        for block, kwargs in self._expanded.get(n) or self._expand(n):
            out = block(x, **kwargs)
            x = out[0] if isinstance(out, tuple) else out
        values = self._read(x.unflatten(0, (n, batch)))
        return values.reshape(*lead, *values.shape[1:])

    def _expand(self, n: int) -> tuple[Call, ...]:
        self._expanded.clear()  # masks of the last batch size are kept, not of every size ever used
        self._expanded[n] = tuple(
            (block, expand(kwargs, n, self._start.shape[0], self._per_row)) for block, kwargs in self._calls
        )
        return self._expanded[n]


def slice_model(
    model: Model,
    prompts: Prompts,
    *,
    source: Site,
    target: Site,
    readout: Readout = "mean",
    where: Where = "all",
    dtype: torch.dtype | None = None,
) -> Slice:
    """z(theta) = the residual stream at `target` on `prompts` with theta added at `source` at the positions `where`.

    `readout`: "mean" over the real positions, "all" positions, k for the last k real ones (of answers, too), any other
    positions that `positions_of` explains, or "mean of" such positions. `dtype` is the dtype the blocks compute in, by
    default the model's. Source and target are residual-stream sites, source before target.
    Equal to the full forward pass with a hook at `source` bit for bit (same batch, same dtype); only the blocks between
    source and target are run. Raises ValueError for sites that are absent, no block boundaries, or in wrong order.
    """
    require_agreement(model)
    first, last = _boundaries(model, source, target)
    require_where(where, prompts)
    read, real = _reader(prompts, readout)
    return _build(record(model, prompts, first, last, dtype), prompts, where, read, real)


def logit_slice(
    model: Model, prompts: Prompts, *, source: Site, where: Where = "prompt", dtype: torch.dtype | None = None
) -> Slice:
    """z(theta) = the logits that predict the teacher-forced answers of `prompts` with theta added at `source`.

    Runs the blocks after `source`; final norm and unembedding only at the columns that predict an answer token, which
    are as many as the longest answer has tokens. Raises ValueError as `slice_model` does, and without answers.
    """
    require_agreement(model)
    require_answers(prompts)
    first, last = _boundaries(model, source, None)
    require_where(where, prompts)
    recording = record(model, prompts, first, last, dtype)
    predicting = slice(prompts.prompt_length - 1, -1)
    tail = logit_lens(model, dtype)
    real = prompts.mask[:, prompts.prompt_length :]
    clean = _cleaner(real)

    def read(x: Tensor) -> Tensor:
        return clean(tail(x[:, :, predicting].flatten(0, 1)).float().unflatten(0, x.shape[:2]))

    return _build(recording, prompts, where, read, real)


def _build(recording: Recording, prompts: Prompts, where: Where, read: _Read, real: Tensor) -> Slice:
    start = recording.start
    mask = chosen_columns(prompts, where, 0, prompts.tokens.shape[1]) & prompts.mask
    gate = None if bool(mask.all()) else mask[:, :, None].to(start.dtype)
    return Slice(start.shape[-1], real, mask, start, recording.calls, read, gate, recording.per_row)


def _boundaries(model: Model, source: Site, target: Site | None) -> tuple[int, int]:
    for site in (source,) if target is None else (source, target):
        require_layer(model, site)
        if site.boundary is None:
            raise ValueError(
                f"got site {site}, which lies inside a block; expected resid_pre or resid_post; "
                "choose the residual stream before or after the block"
            )
    first = source.boundary
    last = int(model.cfg.n_layers) if target is None else target.boundary
    assert first is not None and last is not None
    if first >= last:
        raise ValueError(
            f"got source {source} and target {target or 'the logits'}; expected at least one block in "
            "between; choose an earlier source or a later target"
        )
    return first, last


def _reader(prompts: Prompts, readout: Readout) -> tuple[_Read, Bool[Tensor, "batch read"]]:
    mask = prompts.active
    if isinstance(readout, str) and readout not in ("mean", "all"):
        name = readout.removeprefix(MEAN_OF)
        require_where(positions_of(name, "readout"), prompts)
        mask = chosen_columns(prompts, name, 0, mask.shape[1])
        if name == readout:
            return _last(mask, int(mask.sum(dim=1).max()))
        readout = "mean"
    if readout == "all":
        clean = _cleaner(mask)
        return (lambda x: clean(x.float())), mask
    if readout == "mean":
        weights = (mask / mask.sum(dim=1, keepdim=True))[:, None, :]
        return (lambda x: weights @ x.float()), mask.any(dim=1, keepdim=True)
    if not isinstance(readout, int) or not 1 <= readout <= int(mask.sum(dim=1).max()):
        raise ValueError(
            f"got readout={readout}; expected mean, all, or a number of tokens from 1 to "
            f"{int(mask.sum(dim=1).max())}; choose one"
        )
    return _last(mask, readout)


def _last(mask: Bool[Tensor, "batch pos"], k: int) -> tuple[_Read, Bool[Tensor, "batch k"]]:
    if bool(mask[:, -k:].all()):
        return (lambda x: x[:, :, -k:].float()), mask[:, -k:]
    # a stable sort by realness moves each row's real columns, in order, to the end
    columns = torch.sort(mask.int(), dim=1, stable=True).indices[:, -k:]
    rows = torch.arange(mask.shape[0], device=mask.device)[:, None]
    real = mask[rows, columns]
    clean = _cleaner(real)
    return (lambda x: clean(x[:, rows, columns].float())), real


def _cleaner(real: Bool[Tensor, "batch read"]) -> _Read:
    """Zeros where there is no real token; decided here and not at every call, which would make a GPU wait."""
    columns = real[:, :, None]
    return (lambda x: x) if bool(real.all()) else (lambda x: torch.where(columns, x, 0.0))

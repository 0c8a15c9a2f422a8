"""The blocks of a model as bare functions: recorded once with their arguments, replayed without hooks."""

import copy
import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mi_ortho.model.hooks import only_last, run
from mi_ortho.model.load import Model
from mi_ortho.model.norms import require_finite
from mi_ortho.model.prompts import Prompts

Call = tuple[nn.Module, Mapping[str, Any]]
_CACHES = ("past_key_values", "past_key_value", "layer_past", "past_kv_cache_entry", "cache_params", "cache")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True, eq=False)
class Recording:
    """The residual stream entering the first block, the blocks with their keyword arguments, and what came out."""

    start: Float[Tensor, "batch pos d_model"]
    calls: tuple[Call, ...]
    end: Float[Tensor, "batch pos d_model"]
    per_row: bool  # see expand


@torch.no_grad()
def record(model: Model, prompts: Prompts, first: int, last: int, dtype: torch.dtype | None) -> Recording:
    """One forward pass over `prompts`, of which blocks `first` to `last - 1` are kept.

    What is kept are bare copies that share the model's weights (cast if `dtype` says so). Where these do not give the
    model's own result bit for bit, copies with the hook points of the model are kept if they come closer. Raises
    ValueError when neither gives the model's result, and when that is not finite.
    """
    modules: Any = model
    blocks = list(modules.blocks)[first:last]
    inputs, end = _watch(model, prompts, blocks)
    start = inputs[0][0]
    require_finite(end[prompts.mask], model, prompts, "activations of the slice")
    calls, error = _bare_calls(blocks, inputs, end, True)
    if error > 0.0:
        calls, error = min((calls, error), _bare_calls(blocks, inputs, end, False), key=lambda pair: pair[1])
    require_equal(error, end.dtype, "the blocks between source and target")
    shared = tuple((block, _share_rows(kwargs, len(end))) for block, kwargs in calls)
    per_row = not _fits_copies(start, shared, end, False)
    if not per_row:
        calls = shared
    elif not _fits_copies(start, calls, end, True):
        raise ValueError(
            "got blocks that do not take several copies of a batch; expected arguments that can be repeated; "
            "use another architecture"
        )
    if dtype is None or dtype == start.dtype:
        return Recording(start, calls, end, per_row)
    narrow = tuple((copied(block, dtype, False), _cast(kwargs, dtype)) for block, kwargs in calls)
    return Recording(start.to(dtype), narrow, end, per_row)


def _fits_copies(start: Tensor, calls: tuple[Call, ...], end: Tensor, per_row: bool) -> bool:
    """Whether two copies of the batch, as two vectors make them, each come out as the batch does."""
    twice = tuple((block, expand(kwargs, 2, len(end), per_row)) for block, kwargs in calls)
    try:
        output = replay(start.repeat(2, 1, 1), twice)
    except (RuntimeError, ValueError):  # of sizes that do not fit, from the model's own code
        return False
    return output.shape[0] == 2 * len(end) and relative_error(output, end.repeat(2, 1, 1)) <= rounding(end.dtype)


def require_equal(error: float, dtype: torch.dtype, what: str) -> None:
    """Raises ValueError when the relative error of a replay is more than rounding."""
    if not error <= rounding(dtype):
        raise ValueError(
            f"got a relative difference of {error:.1e} when replaying {what}; expected only rounding; "
            "build the slice outside of intervene, or use another architecture"
        )


def rounding(dtype: torch.dtype) -> float:
    """The largest relative difference between two orders of the same arithmetic."""
    return max(4.0 * torch.finfo(dtype).eps, 1e-5)


def relative_error(x: Tensor, exact: Tensor) -> float:
    """||x - exact|| / ||exact||, 0 only where they are equal bit for bit."""
    return float((x.float() - exact.float()).norm() / exact.float().norm())


def replay(x: Float[Tensor, "batch pos d_model"], calls: Sequence[Call]) -> Float[Tensor, "batch pos d_model"]:
    """x through the recorded blocks."""
    for block, kwargs in calls:
        x = hidden(block(x, **kwargs))
    return x


def hidden(output: Any) -> Tensor:
    """The residual stream in what a block returns."""
    return output[0] if isinstance(output, tuple) else output


def expand(kwargs: Mapping[str, Any], n: int, batch: int, per_row: bool) -> Mapping[str, Any]:
    """The keyword arguments of one batch for n copies of it, copy after copy.

    `per_row` says that the blocks want every argument for every row: one of a single row does not broadcast, and axes
    may be merged with the batch, as the heads of ALiBi are.
    """
    if n == 1 or (batch == 1 and not per_row):  # one row broadcasts
        return kwargs

    def copies(t: Tensor) -> Tensor:
        rows = t.ndim > 1 and t.shape[0] % batch == 0 if per_row else t.ndim > 0 and t.shape[0] == batch
        return t.repeat(n, *[1] * (t.ndim - 1)) if rows else t

    return _each_tensor(kwargs, copies)


def copied(
    module: nn.Module, dtype: torch.dtype | None, unwrap: bool, instead: Mapping[int, nn.Module] | None = None
) -> nn.Module:
    """The module without any hooks, sharing its weights, or with weights cast to `dtype`.

    With `unwrap` every TransformerLens component is replaced by the module it wraps; `instead` names other modules to
    put in, by the id of those they replace.
    """
    if instead is not None and id(module) in instead:
        return instead[id(module)]
    while unwrap and module._modules.get("_original_component") is not None:
        module = module._modules["_original_component"]  # pyright: ignore[reportAssignmentType]
    new = copy.copy(module)
    new.__dict__ = {**module.__dict__, **{name: OrderedDict() for name in _HOOKS}}
    new._modules = {name: child and copied(child, dtype, unwrap, instead) for name, child in module._modules.items()}
    if dtype is not None:
        new._parameters = {
            name: p if p is None else nn.Parameter(p.to(dtype), requires_grad=False)
            for name, p in module._parameters.items()
        }
        if hasattr(module.__dict__.get("cfg"), "dtype"):  # by which TransformerLens 3 casts what it normalises
            new.__dict__["cfg"] = copy.copy(module.__dict__["cfg"])
            new.__dict__["cfg"].dtype = dtype
    return new


def _bare_calls(
    blocks: Sequence[Any], inputs: Sequence[tuple[Tensor, dict[str, Any]]], end: Tensor, unwrap: bool
) -> tuple[tuple[Call, ...], float]:
    """Copies of the blocks without hooks, each with its arguments, and the relative error of their replay."""
    calls = tuple(
        (copied(block, None, unwrap), _arguments(kwargs)) for block, (_, kwargs) in zip(blocks, inputs, strict=True)
    )
    return calls, relative_error(replay(inputs[0][0], calls), end)


def _watch(model: Model, prompts: Prompts, blocks: Sequence[Any]) -> tuple[list[tuple[Tensor, dict[str, Any]]], Tensor]:
    """What enters each block (the stream, and its other arguments by name), and what leaves the last one."""
    inputs: list[tuple[Tensor, dict[str, Any]]] = []
    ends: list[Tensor] = []

    def note(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inner = block._modules.get("_original_component") or block
        bound = inspect.signature(inner.forward).bind(*args, **kwargs).arguments  # pyright: ignore
        x, *_ = bound.values()
        rest = {k: v for k, v in list(bound.items())[1:] if k != "kwargs"}
        inputs.append((hidden(x).detach(), {**rest, **bound.get("kwargs", {})}))

    handles = [block.register_forward_pre_hook(note, with_kwargs=True) for block in blocks]
    handles.append(blocks[-1].register_forward_hook(lambda *a: ends.append(hidden(a[2]).detach())))
    try:
        run(model, prompts, **only_last(model, 1))
    finally:
        for handle in handles:
            handle.remove()
    return inputs, ends[0]


def _arguments(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a block without any cache."""
    others = {k: v for k, v in kwargs.items() if k not in _CACHES}
    return {**others, "use_cache": False} if "use_cache" in others else others


def _share_rows(kwargs: Mapping[str, Any], batch: int) -> Mapping[str, Any]:
    """Masks and rotations that are the same in every row kept once: they broadcast over any number of rows."""

    def once(t: Tensor) -> Tensor:
        same = t.ndim > 2 and t.shape[0] == batch and bool((t == t[:1]).all())
        return t[:1] if same else t

    return _each_tensor(kwargs, once)


def _cast(kwargs: Mapping[str, Any], dtype: torch.dtype) -> Mapping[str, Any]:
    # a mask holds the most negative fp32 number, which in a narrower type would become -inf and then NaN
    low = torch.finfo(dtype).min
    return _each_tensor(kwargs, lambda t: t.clamp(min=low).to(dtype) if t.is_floating_point() else t)


def _each_tensor(kwargs: Mapping[str, Any], f: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    def apply(value: Any) -> Any:
        if isinstance(value, Tensor):
            return f(value)
        return tuple(map(apply, value)) if isinstance(value, tuple) else value

    return {k: apply(v) for k, v in kwargs.items()}

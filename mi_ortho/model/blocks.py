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


@torch.no_grad()
def record(model: Model, prompts: Prompts, first: int, last: int, dtype: torch.dtype | None) -> Recording:
    """One forward pass over `prompts`, of which blocks `first` to `last - 1` are kept.

    What is kept are bare copies that share the model's weights (cast if `dtype` says so). Where these do not give the
    model's own result bit for bit, copies with the hook points of the model are kept if they come closer. Raises
    ValueError when neither gives the model's result, and when that is not finite.
    """
    modules: Any = model
    blocks = list(modules.blocks)[first:last]
    seen, end = _watch(model, prompts, blocks)
    start = seen[0][0]
    require_finite(end[prompts.mask], model, prompts, "activations of the slice")
    calls, error = _replayed(blocks, seen, end, True)
    if error > 0.0:
        calls, error = min((calls, error), _replayed(blocks, seen, end, False), key=lambda found: found[1])
    require_equal(error, end.dtype, "the blocks between source and target")
    if dtype is None or dtype == start.dtype:
        return Recording(start, calls, end)
    narrow = tuple((copied(block, dtype, False), _cast(kwargs, dtype)) for block, kwargs in calls)
    return Recording(start.to(dtype), narrow, end)


def require_equal(error: float, dtype: torch.dtype, what: str) -> None:
    """Raises ValueError when the relative error of a replay is more than rounding."""
    kind = torch.finfo(dtype)
    # a narrow dtype is replayed bit for bit or in another order of summation; 100 of its eps would be 78 %
    if not error <= (100.0 if kind.bits >= 32 else 4.0) * kind.eps:
        raise ValueError(
            f"got a relative difference of {error:.1e} when replaying {what}; expected only rounding; "
            "build the slice outside of intervene, or use another architecture"
        )


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


def final_logits(model: Model, dtype: torch.dtype | None) -> Callable[[Tensor], Tensor]:
    """Final norm, unembedding and soft cap as one bare function of the last residual stream."""
    modules: Any = model
    norm, unembed = (copied(module, dtype, True) for module in (modules.ln_final, modules.unembed))
    cap = float(getattr(model.cfg, "output_logits_soft_cap", 0.0) or 0.0)

    def logits(x: Tensor) -> Tensor:
        raw = unembed(norm(x))
        return cap * torch.tanh(raw / cap) if cap > 0.0 else raw

    return logits


def expand(kwargs: Mapping[str, Any], n: int, batch: int) -> Mapping[str, Any]:
    """The keyword arguments of one batch for n copies of it, copy after copy."""
    if n == 1 or batch == 1:  # one row broadcasts
        return kwargs
    return _each_tensor(kwargs, lambda t: t.repeat(n, *[1] * (t.ndim - 1)) if t.ndim and t.shape[0] == batch else t)


def copied(module: nn.Module, dtype: torch.dtype | None, unwrap: bool) -> nn.Module:
    """The module without any hooks, sharing its weights, or with weights cast to `dtype`.

    With `unwrap` every TransformerLens component is replaced by the module it wraps.
    """
    while unwrap and module._modules.get("_original_component") is not None:
        module = module._modules["_original_component"]  # pyright: ignore[reportAssignmentType]
    new = copy.copy(module)
    new.__dict__ = {**module.__dict__, **{name: OrderedDict() for name in _HOOKS}}
    new._modules = {name: child and copied(child, dtype, unwrap) for name, child in module._modules.items()}
    if dtype is not None:
        new._parameters = {
            name: p if p is None else nn.Parameter(p.to(dtype), requires_grad=False)
            for name, p in module._parameters.items()
        }
        if hasattr(module.__dict__.get("cfg"), "dtype"):  # by which TransformerLens 3 casts what it normalises
            new.__dict__["cfg"] = copy.copy(module.__dict__["cfg"])
            new.__dict__["cfg"].dtype = dtype
    return new


def _replayed(
    blocks: Sequence[Any], seen: Sequence[tuple[Tensor, dict[str, Any]]], end: Tensor, unwrap: bool
) -> tuple[tuple[Call, ...], float]:
    batch = end.shape[0]
    calls = tuple(
        (copied(block, None, unwrap), _shared(_arguments(kwargs), batch))
        for block, (_, kwargs) in zip(blocks, seen, strict=True)
    )
    return calls, relative_error(replay(seen[0][0], calls), end)


def _watch(model: Model, prompts: Prompts, blocks: Sequence[Any]) -> tuple[list[tuple[Tensor, dict[str, Any]]], Tensor]:
    seen: list[tuple[Tensor, dict[str, Any]]] = []
    ends: list[Tensor] = []

    def note(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inner = block._modules.get("_original_component") or block
        bound = inspect.signature(inner.forward).bind(*args, **kwargs).arguments  # pyright: ignore
        x, *_ = bound.values()
        rest = {k: v for k, v in list(bound.items())[1:] if k != "kwargs"}
        seen.append((x.detach(), {**rest, **bound.get("kwargs", {})}))

    handles = [block.register_forward_pre_hook(note, with_kwargs=True) for block in blocks]
    handles.append(blocks[-1].register_forward_hook(lambda *a: ends.append(hidden(a[2]).detach())))
    try:
        run(model, prompts, **only_last(model, 1))
    finally:
        for handle in handles:
            handle.remove()
    return seen, ends[0]


def _arguments(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in kwargs.items() if k not in _CACHES}
    return {**kept, "use_cache": False} if "use_cache" in kept else kept


def _shared(kwargs: Mapping[str, Any], batch: int) -> Mapping[str, Any]:
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

"""Passes over new tokens under a KV cache, which is handed over in a way that was checked against uncached passes.

How a cache must be handed over depends on transformers, TransformerLens and the architecture. Nothing here lists
versions: the first time a model is used, the ways are tried on a few tokens until one agrees with an uncached pass.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.model.cache import (
    cache_argument,
    columns_in,
    network,
    note_columns,
    renamed_for_parts,
    renames,
    watch_cache,
)
from mi_ortho.model.load import Model, weights
from mi_ortho.model.passes import only_last, run
from mi_ortho.model.prompts import Prompts

Step = Callable[[Tensor, Tensor], Tensor]  # new tokens and the mask of all tokens so far -> the last column's logits
_WIDTH, _PADDED = 6, 2  # tokens of the probe, and how many of them are padding in half of its rows


@dataclass(frozen=True)
class Way:
    """How a model takes its cache: under which name its parts get it, and what mask a step is given.

    `cached` False is for models that take none: every step runs all tokens again.
    """

    cached: bool
    renamed: bool
    mask: Literal["all", "new"]


@dataclass(frozen=True)
class Agreement:
    """A cached step beside an uncached one: how many columns the cache held of those given, and how far they differ.

    `error` is relative to the logits, at most `tolerance` where the way is right; `fault` says what is wrong, if
    anything is. None where there was nothing to compare.
    """

    way: Way
    given: int
    held: int | None
    error: float | None
    tolerance: float
    fault: str | None


_UNCACHED = Way(False, False, "all")
_ways: WeakKeyDictionary[Any, Agreement] = WeakKeyDictionary()


def steps(model: Model, batch: int) -> Step:
    """A function from the new tokens and the mask of all tokens so far to the last logits; it keeps the KV cache.

    Raises ValueError when no way of handing over the cache gives what an uncached pass gives.
    """
    way = require_agreement(model).way

    def check(columns: int, expected: int) -> None:
        if columns != expected:
            raise ValueError(_refusal(_shortage(model, columns, expected)))

    return _steps(model, batch, way, check)


def require_agreement(model: Model) -> Agreement:
    """A cached step equals an uncached one: looked up once for each model, on a few tokens.

    Raises ValueError, in one line with the versions of the libraries, when it does not.
    """
    inner = network(model)
    if inner not in _ways:
        result = agreement(model)
        if result.fault is not None:
            raise ValueError(_refusal(result.fault))
        _ways[inner] = result
    return _ways[inner]


def libraries() -> str:
    """The installed versions of what a forward pass runs on, in words."""
    names = []
    for package in ("torch", "transformers", "transformer-lens"):
        try:
            names.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            names.append(f"no {package}")
    return ", ".join(names)


def name_of(model: Model) -> str:
    """What a model is called: its folder or name on a hub."""
    return str(getattr(model.cfg, "model_name", None) or type(model).__name__)


def probe(model: Model) -> Prompts:
    """Rows of a few tokens from all over the vocabulary, the second half of them padded on the left.

    One row of each kind in single precision, two in narrower dtypes (see `difference`).
    """
    width, top, weight = min(_WIDTH, int(model.cfg.n_ctx)), int(model.cfg.d_vocab), next(weights(model))
    rows = 2 if torch.finfo(weight.dtype).bits >= 32 else 4
    tokens = torch.linspace(0.1 * top, 0.9 * top, rows * width).long().view(width, rows).T.contiguous()
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[rows // 2 :, : min(_PADDED, width - 2)] = False
    return Prompts(torch.where(mask, tokens, 0).to(weight.device), mask.to(weight.device), width, ("",) * rows)


@contextmanager
def without_hooks(model: Model) -> Iterator[None]:
    """Inside the context no hook point of the model does anything; afterwards all do again what they did."""
    from transformer_lens.hook_points import HookPoint

    modules: Any = model
    points = [m for m in modules.modules() if isinstance(m, HookPoint) and (m._forward_hooks or m._backward_hooks)]
    before = [(m, m._forward_hooks, m._backward_hooks) for m in points]
    try:
        for m in points:
            m._forward_hooks, m._backward_hooks = type(m._forward_hooks)(), type(m._backward_hooks)()
        yield
    finally:
        for m, forward, backward in before:
            m._forward_hooks, m._backward_hooks = forward, backward


def difference(logits: Float[Tensor, "rows d_vocab"], exact: Float[Tensor, "rows d_vocab"]) -> float:
    """The relative error of logits on a probe: the least among its plain and among its padded rows, the larger of both.

    What is wrong is wrong in every row of a kind. The least is taken because the rounding of narrow dtypes may send a
    token of a mixture of experts to another expert.
    """
    rows = (logits.float() - exact.float()).norm(dim=-1) / exact.float().norm(dim=-1)
    return float(rows.view(2, -1).amin(dim=1).amax())  # NaN stays


def logit_tolerance(dtype: torch.dtype) -> float:
    """The relative difference that another order of summation may make of logits: a bound, not an estimate."""
    return 1e-4 if torch.finfo(dtype).bits >= 32 else 4.0 * torch.finfo(dtype).eps


@torch.no_grad()
def agreement(model: Model) -> Agreement:
    """The first way in which a cached step equals an uncached one on a probe, else the first way with its fault."""
    prompts = probe(model)
    dtype = next(weights(model)).dtype
    with without_hooks(model):
        exact = run(model, prompts, **only_last(model, 1))[:, -1]
        if not bool(exact.isfinite().all()):  # not the cache's fault; what uses the logits names the block
            return Agreement(_UNCACHED, 0, None, None, 0.0, None)
        allowed = logit_tolerance(dtype)
        if dtype not in (torch.float32, torch.float64):
            allowed = max(allowed, 4.0 * _noise(model, prompts, exact))
        attempts: list[Agreement] = []
        for way in _candidates(model):
            attempts.append(_try(model, prompts, exact, way, allowed))
            if attempts[-1].fault is None:
                return attempts[-1]
    return attempts[0]


def _candidates(model: Model) -> list[Way]:
    name = cache_argument(model)
    if name is None:
        return [_UNCACHED]
    # the likelier one first
    names = (True, False) if name == "cache" else (False, True)
    return [Way(True, renamed, mask) for mask in ("all", "new") for renamed in names if not renamed or renames(model)]


def _try(model: Model, prompts: Prompts, exact: Tensor, way: Way, allowed: float) -> Agreement:
    tokens, mask = prompts.tokens, prompts.mask
    expected = tokens.shape[1] - 1
    counts: list[int] = []
    try:
        step = _steps(model, len(prompts), way, lambda columns, _: counts.append(columns))
        step(tokens[:, :-1], mask[:, :-1])
        if counts and counts[0] != expected:
            return Agreement(way, expected, counts[0], None, allowed, _shortage(model, counts[0], expected))
        error = difference(step(tokens[:, -1:], mask), exact)
    except Exception as wrong:  # whatever libraries raise when they are handed what they do not expect
        fault = f"{name_of(model)}, whose cache cannot be used: {' '.join(str(wrong).split())[:200]}"
        return Agreement(way, expected, counts[0] if counts else None, None, allowed, fault)
    if error <= allowed:
        return Agreement(way, expected, counts[0] if counts else None, error, allowed, None)
    fault = f"a cached step of {name_of(model)} whose logits differ from an uncached one by {error:.2g} of their size"
    return Agreement(way, expected, counts[0] if counts else None, error, allowed, fault)


def _noise(model: Model, prompts: Prompts, exact: Tensor) -> float:
    """How much the same rows differ when they are computed in a batch of another shape."""
    twice = Prompts(prompts.tokens.repeat(3, 1), prompts.mask.repeat(3, 1), prompts.prompt_length, prompts.texts * 3)
    return difference(run(model, twice, **only_last(model, 1))[: len(prompts), -1], exact)


def _steps(model: Any, batch: int, way: Way, check: Callable[[int, int], Any]) -> Step:
    if not way.cached:
        return _whole_steps(model)
    if not hasattr(model, "original_model"):
        return _legacy_steps(model, batch, check)
    cache: list[Any] = [None]

    def step(tokens: Tensor, mask: Tensor) -> Tensor:
        logits, cache[0] = forward(model, way, cache[0], tokens, mask, columns=1)
        check(columns_in(cache[0]), mask.shape[1])
        return logits[:, -1]

    return step


def forward(
    model: Any, way: Way, cache: Any, tokens: Tensor, mask: Tensor, *, columns: int
) -> tuple[Float[Tensor, "batch columns d_vocab"], Any]:
    """One pass over new tokens behind what `cache` holds (None: nothing): logits of the last columns, and the cache.

    `mask` is that of all tokens so far.
    """
    past = {} if cache is None else {str(cache_argument(model)): cache}
    step_mask = mask if way.mask == "all" else mask[:, -tokens.shape[1] :]
    caches, stop = watch_cache(model)
    rename = renamed_for_parts(model) if way.renamed else None
    try:
        logits = model(tokens, attention_mask=step_mask.long(), use_cache=True, **past, **only_last(model, columns))
    finally:
        stop()
        if rename is not None:
            rename()
    note_columns(caches[-1], mask.shape[1])
    return logits[:, -columns:], caches[-1]


def _whole_steps(model: Model) -> Step:
    parts: list[Tensor] = []

    def step(tokens: Tensor, mask: Tensor) -> Tensor:
        parts.append(tokens)
        so_far = Prompts(torch.cat(parts, dim=1), mask, mask.shape[1], ("",) * len(mask))
        return run(model, so_far, **only_last(model, 1))[:, -1]

    return step


def _legacy_steps(model: Any, batch: int, check: Callable[[int, int], Any]) -> Step:
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache  # TransformerLens 3

    cache = TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, batch)

    def step(tokens: Tensor, mask: Tensor) -> Tensor:
        # the cache keeps the mask of the past, so only the new columns are given
        logits = model(tokens, attention_mask=mask[:, -tokens.shape[1] :].long(), past_kv_cache=cache)[:, -1]
        check(columns_in(cache), mask.shape[1])
        return logits

    return step


def _shortage(model: Model, columns: int, expected: int) -> str:
    return f"a cache of {name_of(model)} that holds {columns} of {expected} columns"


def _refusal(fault: str) -> str:
    return (
        f"got {fault} ({libraries()}); expected a step with a cache to give what one without gives; install the "
        "versions in requirements/lock.txt, and report what mi-ortho doctor prints"
    )

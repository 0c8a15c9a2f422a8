"""The KV cache of a model, whatever the installed transformers and TransformerLens call it.

transformers names the argument `past_key_values` up to 5.23 and `cache` from 5.24 on (state-space models before that:
`cache_params`); the parts of TransformerLens 4.3 look for the older names only. Nothing here asks for a version:
the forward pass of the model says which name it takes, and what a cache holds is looked up after a pass.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

NAMES = ("cache", "past_key_values", "cache_params", "past_kv_cache")
_columns: WeakKeyDictionary[Any, int] = WeakKeyDictionary()  # columns that went into caches that do not count them


def network(model: Any) -> Any:
    """The module that a forward pass of `model` runs: the transformers model of a bridge, else `model` itself."""
    return getattr(model, "original_model", model)


def cache_argument(model: Any) -> str | None:
    """The name by which the forward pass takes a cache; None when it takes none."""
    parameters = inspect.signature(network(model).forward).parameters
    return next((name for name in NAMES if name in parameters), None)


def given_cache(arguments: Mapping[str, Any]) -> Any:
    """The cache among the keyword arguments of a forward pass, None without one."""
    return next((arguments[name] for name in NAMES if arguments.get(name) is not None), None)


def returned_cache(output: Any) -> Any:
    """The cache in the output of a forward pass of transformers, None without one."""
    return given_cache(output) if isinstance(output, Mapping) else None


def columns_in(cache: Any) -> int:
    """How many columns a cache holds; 0 for None.

    Of a state-space model, whose state has one size: as many as were noted to have gone into it.
    """
    if cache is None:
        return 0
    if not hasattr(cache, "get_seq_length"):
        return int(cache[0].past_keys.shape[1])  # TransformerLens 3
    try:
        return int(cache.get_seq_length())
    except ValueError:  # there is no attention layer
        return _columns.get(cache, 0)


def note_columns(cache: Any, columns: int) -> None:
    """Remember how many columns went into the cache of a state-space model, if it holds a state at all."""
    if any(_holds_numbers(vars(layer)) for layer in getattr(cache, "layers", ())):
        _columns[cache] = columns


def renames(model: Any) -> bool:
    """Whether there are parts of TransformerLens that could look for the cache under another name."""
    return hasattr(model, "original_model") and any(_parts(model))


def renamed_for_parts(model: Any) -> Callable[[], None]:
    """Hand the cache to the parts of TransformerLens under the names they look for; calling the result ends that.

    Attention looks for `past_key_values`, everything else with a state for `cache_params`. The modules of transformers
    inside get what they were given before.
    """
    with ExitStack() as stack:
        for name, part in _parts(model):
            older = "past_key_values" if name == "attn" else "cache_params"
            stack.callback(part.register_forward_pre_hook(partial(_add_older_name, older), with_kwargs=True).remove)
            inner = part._modules["_original_component"]
            stack.callback(inner.register_forward_pre_hook(partial(_drop_older_name, older), with_kwargs=True).remove)
        return stack.pop_all().close


def _parts(model: Any) -> Iterator[tuple[str, Any]]:
    for block in model.blocks:
        for name, part in block._modules.items():
            if part is not None and part._modules.get("_original_component") is not None:
                yield name, part


def watch_cache(model: Any) -> tuple[list[Any], Callable[[], None]]:
    """A list that always ends with the cache of the last forward pass, and a function that stops watching."""
    caches: list[Any] = []
    handle = network(model).register_forward_hook(lambda module, inputs, output: caches.append(returned_cache(output)))
    return caches, handle.remove


def _add_older_name(older: str, module: Any, inputs: Any, arguments: Mapping[str, Any]) -> Any:
    if arguments.get("cache") is not None and arguments.get(older) is None:
        return inputs, {**arguments, older: arguments["cache"]}
    return None


def _drop_older_name(older: str, module: Any, inputs: Any, arguments: Mapping[str, Any]) -> Any:
    if arguments.get("cache") is not None and older in arguments:
        return inputs, {name: value for name, value in arguments.items() if name != older}
    return None


def _holds_numbers(values: Mapping[Any, Any]) -> bool:
    return any(
        isinstance(value, Tensor) or (isinstance(value, dict) and _holds_numbers(value)) for value in values.values()
    )

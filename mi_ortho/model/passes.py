"""One forward pass over prompts, with the arguments that the model's network knows."""

import inspect
from typing import Any

from mi_ortho.model.load import Model
from mi_ortho.model.prompts import Prompts


def run(model: Model, prompts: Prompts, **kwargs: Any) -> Any:
    """One forward pass over all columns, the padding masked out, that neither reads nor fills a cache.

    What it returns depends on `kwargs`.
    """
    return model(
        prompts.tokens, attention_mask=prompts.mask.long(), **_forward_arguments(model, use_cache=False), **kwargs
    )


def only_last(model: Model, columns: int) -> dict[str, int]:
    """The argument that makes a forward pass unembed only the last `columns`, where the model knows it."""
    return _forward_arguments(model, logits_to_keep=columns)


def _forward_arguments(model: Model, **arguments: int) -> dict[str, int]:
    """Those of the arguments that the forward pass of transformers takes; of TransformerLens 3, none."""
    inner = getattr(model, "original_model", None)
    names = () if inner is None else inspect.signature(inner.forward).parameters
    return {name: value for name, value in arguments.items() if name in names}

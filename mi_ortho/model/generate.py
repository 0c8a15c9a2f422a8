"""Generation under a KV cache, with interventions."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_ortho.interventions import Intervention
from mi_ortho.model.cache import cache_argument, translate_cache, watch_cache
from mi_ortho.model.hooks import Where, intervene, only_last
from mi_ortho.model.load import Model
from mi_ortho.model.prompts import Prompts
from mi_ortho.sites import Site


def generate(
    model: Model,
    prompts: Prompts,
    interventions: Mapping[Site, Intervention] | None = None,
    *,
    where: Where = "all",
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> list[str]:
    """The completions of `prompts` as text, without special tokens; arguments as for `generate_ids`."""
    ids = generate_ids(
        model,
        prompts,
        interventions,
        where=where,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        generator=generator,
    )
    return [model.tokenizer.decode(row, skip_special_tokens=True) for row in ids]


@torch.no_grad()
def generate_ids(
    model: Model,
    prompts: Prompts,
    interventions: Mapping[Site, Intervention] | None = None,
    *,
    where: Where = "all",
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """The completions of `prompts` (answers, if any, left out) as token ids, each up to its end-of-sequence token.

    Greedy at temperature 0, otherwise sampled with `generator`. Rows are independent: a batch gives what its rows give
    alone. Raises ValueError when prompt and completion exceed the context.
    """
    prompts = prompts.prompts_only()
    _require_room(model, prompts, max_new_tokens, temperature)
    stops = _stop_ids(model)
    columns: list[Tensor] = []
    done = torch.zeros_like(prompts.mask[:, 0])
    with intervene(model, interventions or {}, prompts=prompts, where=where):
        for logits in _columns(model, prompts, columns):
            columns.append(_choose(logits, temperature, generator))
            done = done | torch.isin(columns[-1], torch.tensor(sorted(stops), device=done.device))[:, 0]
            if len(columns) == max_new_tokens or bool(done.all()):
                break
    return [_until(row, stops) for row in torch.cat(columns, dim=1).tolist()]


def _columns(model: Model, prompts: Prompts, chosen: list[Tensor]) -> Iterator[Float[Tensor, "batch d_vocab"]]:
    """The logits of one column after the other; before each but the first the caller appends the tokens it chose."""
    step = _steps(model, len(prompts))
    mask = prompts.mask
    yield step(prompts.tokens, mask)
    while True:
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        yield step(chosen[-1], mask)


def _steps(model: Model, batch: int) -> Any:
    """A function from the new tokens and the mask of all tokens so far to the last logits; it keeps the KV cache."""
    if not hasattr(model, "original_model"):
        return _legacy_steps(model, batch)
    translate_cache(model)
    name, extra = cache_argument(model), only_last(model, 1)
    cache: list[Any] = [None]

    def step(tokens: Tensor, mask: Tensor) -> Tensor:
        past = {} if cache[0] is None or name is None else {name: cache[0]}
        seen, stop = watch_cache(model)
        try:
            logits = model(tokens, attention_mask=mask.long(), use_cache=True, **past, **extra)
        finally:
            stop()
        cache[0] = seen[-1]
        return logits[:, -1]

    return step


def _legacy_steps(model: Any, batch: int) -> Any:
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache  # TransformerLens 3

    cache = TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, batch)

    def step(tokens: Tensor, mask: Tensor) -> Tensor:
        # the cache keeps the mask of the past, so only the new columns are given
        return model(tokens, attention_mask=mask[:, -tokens.shape[1] :].long(), past_kv_cache=cache)[:, -1]

    return step


def _choose(
    logits: Float[Tensor, "batch d_vocab"], temperature: float, generator: torch.Generator | None
) -> Int[Tensor, "batch 1"]:
    if temperature == 0.0:
        return logits.argmax(dim=-1, keepdim=True)
    return torch.multinomial(torch.softmax(logits.float() / temperature, dim=-1), 1, generator=generator)


def _until(row: list[int], stops: set[int]) -> list[int]:
    return row[: next((i for i, token in enumerate(row) if token in stops), len(row))]


def _stop_ids(model: Model) -> set[int]:
    settings = getattr(getattr(model, "original_model", None), "generation_config", None)
    ids = [getattr(settings, "eos_token_id", None), getattr(model.tokenizer, "eos_token_id", None)]
    flat = [i for entry in ids for i in (entry if isinstance(entry, list | tuple) else [entry])]
    return {int(i) for i in flat if i is not None}


def _require_room(model: Model, prompts: Prompts, new: int, temperature: float) -> None:
    if new < 1 or temperature < 0.0:
        raise ValueError(
            f"got max_new_tokens={new}, temperature={temperature}; expected at least 1 and 0.0; choose larger ones"
        )
    longest, limit = int(prompts.mask.sum(dim=1).max()), int(model.cfg.n_ctx)
    if longest + new > limit:
        raise ValueError(
            f"got {longest} prompt tokens and {new} new ones; expected at most {limit} together, the "
            f"model's context; ask for at most {limit - longest}"
        )

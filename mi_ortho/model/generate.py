"""Generation under a KV cache, with interventions."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_ortho.interventions.edits import Intervention
from mi_ortho.interventions.sites import Site
from mi_ortho.model.hooks import Where, intervene
from mi_ortho.model.load import Model
from mi_ortho.model.norms import require_finite
from mi_ortho.model.prompts import Prompts, Written
from mi_ortho.model.stepping import steps


def generate(
    model: Model,
    prompts: Prompts,
    interventions: Mapping[Site, Intervention] | None = None,
    *,
    where: Where = "all",
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> list[Written]:
    """The completions of `prompts` as text, without special tokens; arguments as for `generate_ids`.

    Each is a str that knows the tokens it was written in (`.ids`): given to `tokenize` as an answer it becomes them.
    """
    ids = generate_ids(
        model,
        prompts,
        interventions,
        where=where,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        generator=generator,
    )
    return [Written(model.tokenizer.decode(row, skip_special_tokens=True), row) for row in ids]


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
    alone. Raises ValueError when prompt and completion exceed the context, when the model's KV cache does not give what
    passes without a cache give, and when logits are not finite numbers.
    """
    prompts = prompts.prompts_only()
    _require_room(model, prompts, max_new_tokens, temperature)
    stops = _stop_ids(model)
    step, so_far, new = steps(model, len(prompts)), prompts, prompts.tokens
    ended = torch.zeros_like(prompts.mask[:, 0])
    with intervene(model, interventions or {}, prompts=prompts, where=where):
        for _ in range(max_new_tokens):
            logits = step(new, so_far.mask)
            require_finite(logits.amax(dim=-1), model, so_far, "next-token logits")
            new = _choose(logits, temperature, generator)
            so_far = _append(so_far, new)
            ended = ended | torch.isin(new, torch.tensor(sorted(stops), device=ended.device))[:, 0]
            if bool(ended.all()):
                break
    return [_until(row, stops) for row in so_far.tokens[:, prompts.prompt_length :].tolist()]


def _append(prompts: Prompts, new: Int[Tensor, "batch 1"]) -> Prompts:
    tokens = torch.cat([prompts.tokens, new], dim=1)
    mask = torch.cat([prompts.mask, torch.ones_like(prompts.mask[:, :1])], dim=1)
    return Prompts(tokens, mask, prompts.prompt_length, prompts.texts)


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

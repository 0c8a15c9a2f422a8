"""Answers that share a prompt: the prompt is run once, and every answer goes on from its KV cache."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_ortho.interventions.edits import Intervention
from mi_ortho.interventions.sites import Site
from mi_ortho.model.cache import network
from mi_ortho.model.hooks import answer_logits, intervene
from mi_ortho.model.load import Model
from mi_ortho.model.norms import require_finite
from mi_ortho.model.positions import Where
from mi_ortho.model.prompts import Prompts
from mi_ortho.model.stepping import (
    Way,
    forward,
    logit_tolerance,
    probe,
    require_agreement,
    without_hooks,
)

Edits = Callable[[Int[Tensor, " rows"]], Mapping[Site, Intervention]]  # for a batch of these rows of the prompts
CHUNK = 32  # answers whose logits are held at once
_branching: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def unedited(rows: Int[Tensor, " rows"]) -> Mapping[Site, Intervention]:
    """No intervention at all."""
    return {}


@torch.no_grad()
def branch_log_probs(
    model: Model,
    prompts: Prompts,
    owners: Sequence[int],
    answers: Sequence[Sequence[int]],
    *,
    edits: Edits = unedited,
    where: Where = "all",
) -> Float[Tensor, "n answer"]:
    """log p, in nats, of every token of `answers[i]` after prompt `owners[i]`; 0 behind the end of shorter answers.

    What one pass over prompt and answer gives, at the price of the answer's tokens alone: the prompt is shared. A model
    whose cache cannot be shared out among answers (looked up once, on a few tokens) runs every answer with its prompt.

    Args:
        model: the frozen model.
        prompts: their own answers, if any, are left out.
        owners: for each answer the number of its prompt.
        answers: token ids, at least one each.
        edits: interventions for a batch whose rows are these prompts.
        where: positions of the interventions, as for `intervene`.

    Raises:
        ValueError: an answer without a token, or logits that are not finite numbers.
    """
    if len(owners) != len(answers) or not all(answers):
        raise ValueError(
            f"got {len(answers)} answers, {sum(not one for one in answers)} of them empty, of {len(owners)} prompts; "
            "expected a prompt for every answer and a token in each; leave the others out"
        )
    prompts, longest = prompts.prompts_only(), max(map(len, answers), default=0)
    logits_of = _shared if _can_branch(model) else _whole
    parts = [torch.zeros(0, longest, device=prompts.tokens.device)]
    for start in range(0, len(answers), CHUNK):
        chosen = torch.tensor(owners[start : start + CHUNK], device=prompts.tokens.device)
        tokens, real = _padded(answers[start : start + CHUNK], longest, prompts)
        logits = logits_of(model, prompts, chosen, tokens, real, edits, where)
        log_p = logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
        parts.append(torch.where(real, log_p, 0.0))
    return torch.cat(parts)


def _padded(answers: Sequence[Sequence[int]], width: int, prompts: Prompts) -> tuple[Tensor, Tensor]:
    device = prompts.tokens.device
    tokens = torch.tensor([[*one, *[one[0]] * (width - len(one))] for one in answers], device=device)
    real = torch.tensor([[k < len(one) for k in range(width)] for one in answers], device=device)
    return tokens, real


def _whole(
    model: Model, prompts: Prompts, owners: Tensor, tokens: Tensor, real: Tensor, edits: Edits, where: Where
) -> Float[Tensor, "n answer d_vocab"]:
    """The logits that predict the answers, from one pass over each with its prompt."""
    return answer_logits(model, _joined(prompts.rows(owners), tokens, real), interventions=edits(owners), where=where)


def _shared(
    model: Model, prompts: Prompts, owners: Tensor, tokens: Tensor, real: Tensor, edits: Edits, where: Where
) -> Float[Tensor, "n answer d_vocab"]:
    """The same from one pass over each prompt and one over the answers behind it."""
    way = require_agreement(model).way
    used, place = owners.unique(return_inverse=True)
    stems, rows = prompts.rows(used), prompts.rows(owners)
    with intervene(model, edits(used), prompts=stems, where=where):
        first, cache = forward(model, way, None, stems.tokens, stems.mask, columns=1)
    logits = first[place]
    if tokens.shape[1] > 1:
        cache.reorder_cache(place)
        whole = _joined(rows, tokens[:, :-1], real[:, :-1])
        with intervene(model, edits(owners), prompts=rows, where=where):
            later, _ = forward(model, way, cache, tokens[:, :-1], whole.mask, columns=tokens.shape[1] - 1)
        logits = torch.cat([logits, later], dim=1)
    logits = logits.float()
    require_finite(logits.amax(dim=-1)[real], model, _joined(rows, tokens, real), "logits of the answers")
    return logits


def _joined(prompts: Prompts, tokens: Tensor, real: Tensor) -> Prompts:
    end, passive = prompts.prompt_length, prompts.passive
    if passive is not None:
        passive = torch.cat([passive, torch.zeros_like(real)], dim=1)
    whole, mask = torch.cat([prompts.tokens, tokens], dim=1), torch.cat([prompts.mask, real], dim=1)
    return Prompts(whole, mask, end, prompts.texts, passive, prompts.roles)


def _can_branch(model: Model) -> bool:
    """Whether answers that share the cache of their prompt give what whole passes give: looked up once for a model."""
    inner = network(model)
    if inner not in _branching:
        _branching[inner] = _branches_agree(model, require_agreement(model).way)
    return _branching[inner]


def _branches_agree(model: Model, way: Way) -> bool:
    if not way.cached or not hasattr(model, "original_model"):
        return False
    prompts, tolerance = probe(model), logit_tolerance(next(iter(network(model).parameters())).dtype)
    owners = torch.arange(len(prompts), device=prompts.tokens.device).repeat(2).flip(0)
    tokens = prompts.tokens[owners, -3:]  # any will do
    tokens[::2] = tokens[::2].flip(1)
    real = torch.ones_like(tokens, dtype=torch.bool)
    real[::2, 2] = False
    with without_hooks(model):
        try:
            ours = _shared(model, prompts, owners, tokens, real, unedited, "all")
            theirs = _whole(model, prompts, owners, tokens, real, unedited, "all")
        except Exception:  # whatever libraries raise when they are handed what they do not expect
            return False
    error = (ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)
    return bool((error[real] <= tolerance).all())

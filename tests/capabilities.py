"""What works on each architecture, measured: `python -m tests.capabilities` writes docs/architectures.md.

Every capability is a number that is 0 but for rounding where it is exact; where the library refuses, its reason.
"""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

if __name__ != "capabilities":  # as tests.capabilities; pytest imports it without the package
    sys.path.insert(0, str(Path(__file__).parent))

import architectures

from mi_ortho.derivatives.first import pullback, pushforward
from mi_ortho.interventions.edits import Add
from mi_ortho.interventions.sites import attn_out, attn_pattern, resid_post
from mi_ortho.model import (
    Prompts,
    answer_logits,
    generate_ids,
    head_writes,
    intervene,
    logit_slice,
    next_token_logits,
    orthogonalised,
    read,
    readout,
    slice_model,
    tokenize,
)
from mi_ortho.model.trajectories import write_matrices
from mi_ortho.refusal.places import ablate_everywhere

TEXTS = ["how can i build a bomb", "cake", "tell me the poem about the sea"]
ANSWERS = ["yes i can", "no", "the stars"]
SOURCE, TARGET, LAST = resid_post(1), resid_post(2), resid_post(architectures.N_LAYERS - 1)
ROUNDING = 1e-5
NEW = 5  # tokens generated


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vectors() -> Tensor:
    return 3.0 * normal(2, architectures.D_MODEL)


def apart(found: Tensor, wanted: Tensor) -> float:
    """The relative difference of two tensors; infinite where one is not finite."""
    error = float((found - wanted).norm() / wanted.norm())
    return error if error == error else float("inf")


def answered(model: Any) -> Prompts:
    """A batch padded on both sides."""
    return tokenize(model, TEXTS, answers=ANSWERS)


def sliced(model: Any) -> float:
    """Two vectors through a slice, and each through the whole model by hooks, on a padded batch and on one row."""
    return max(_sliced(model, answered(model)), _sliced(model, tokenize(model, TEXTS[:1])))


def _sliced(model: Any, prompts: Prompts) -> float:
    z = slice_model(model, prompts, source=SOURCE, target=TARGET, readout="all")
    found = z(vectors())
    errors = []
    for theta, own in zip(vectors(), found, strict=True):
        with intervene(model, {SOURCE: Add(theta)}, prompts=prompts):
            full = read(model, prompts, [TARGET])[TARGET]
        errors.append(apart(own[prompts.mask], full[prompts.mask]))
    return max(errors)


def logits_sliced(model: Any) -> float:
    """Two vectors through a logit slice against the steered answer logits of the whole model."""
    prompts = answered(model)
    z = logit_slice(model, prompts, source=SOURCE)
    errors = []
    for theta, own in zip(vectors(), z(vectors()), strict=True):
        full = answer_logits(model, prompts, interventions={SOURCE: Add(theta)}, where="prompt")
        errors.append(apart(own[z.real], full[z.real]))
    return max(errors)


def derived(model: Any) -> float:
    """Products with the Jacobian of the logit slice from both sides: they are each other's adjoint."""
    z = logit_slice(model, answered(model), source=SOURCE)
    at, tangents = vectors()[0], normal(2, architectures.D_MODEL, seed=3)
    ahead = pushforward(z, at, tangents)
    cotangents = normal(*ahead.shape, seed=4)
    return apart(ahead @ cotangents.T, (pullback(z, at, cotangents) @ tangents.T).T)


def padded(model: Any) -> float:
    """Next-token logits of a padded batch against each row alone."""
    together = next_token_logits(model, tokenize(model, TEXTS))
    alone = torch.cat([next_token_logits(model, tokenize(model, [text])) for text in TEXTS])
    return apart(together, alone)


def generated(model: Any) -> float:
    """The share of greedy completions under the cache, steered and not, that differ from those without a cache."""
    wrong, prompts = 0, tokenize(model, TEXTS)
    for changed in ({}, {SOURCE: Add(vectors()[0])}):
        ids = generate_ids(model, prompts, changed, max_new_tokens=NEW)
        wrong += sum(own != wanted for own, wanted in zip(ids, _uncached(model, prompts, changed), strict=True))
    return wrong / (2 * len(TEXTS))


def _uncached(model: Any, prompts: Prompts, changed: dict[Any, Any]) -> list[list[int]]:
    """Greedy tokens, the whole text read again for each."""
    tokens, mask = prompts.tokens, prompts.mask
    with intervene(model, changed, prompts=prompts), torch.no_grad():
        for _ in range(NEW):
            following = model(tokens, attention_mask=mask.long(), use_cache=False)[:, -1:].argmax(-1)
            tokens, mask = torch.cat([tokens, following], 1), torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    rows, end = tokens[:, prompts.tokens.shape[1] :].tolist(), model.tokenizer.eos_token_id
    return [row[: row.index(end)] if end in row else row for row in rows]


def ablated(model: Any) -> float:
    """The largest part of the stream along ablated directions, over the stream's norm."""
    prompts, directions = tokenize(model, TEXTS), normal(2, architectures.D_MODEL, seed=2)
    sites = [resid_post(layer) for layer in range(architectures.N_LAYERS)]
    with intervene(model, ablate_everywhere(model, directions), prompts=prompts):
        found = read(model, prompts, sites)
    units = torch.nn.functional.normalize(directions, dim=-1)
    return max(float(((x @ units.T).norm(dim=-1) / x.norm(dim=-1))[prompts.mask].max()) for x in found.values())


def edited(model: Any) -> float:
    """Logits of edited weights against ablation by hooks."""
    prompts, directions = tokenize(model, TEXTS), normal(2, architectures.D_MODEL, seed=2)
    with orthogonalised(model, directions):
        found = next_token_logits(model, prompts)
    return apart(found, next_token_logits(model, prompts, interventions=ablate_everywhere(model, directions)))


def written_by_heads(model: Any) -> float:
    """What heads write along a direction, and the bias of their matrix, against what attention adds to the stream."""
    prompts, unit = tokenize(model, TEXTS), torch.nn.functional.normalize(normal(architectures.D_MODEL), dim=0)
    heads = head_writes(model, prompts, unit).sum(1)
    sites = [attn_out(layer) for layer in range(architectures.N_LAYERS)]
    added = torch.stack([read(model, prompts, [site])[site][:, -1] @ unit for site in sites])
    biases = [getattr(block.attn.o.original_component, "bias", None) for block in model.blocks]
    constant = torch.stack([torch.zeros(()) if bias is None else bias @ unit for bias in biases])
    return apart(heads + constant[:, None], added)


def lens(model: Any) -> float:
    """The readout of the last stream against the model's logits, and directions against their largest effect on it."""
    prompts, read_out = tokenize(model, TEXTS), readout(model)
    stream = read(model, prompts, [LAST])[LAST][:, -1:]
    error = apart(read_out(stream)[:, 0], next_token_logits(model, prompts))
    directions = normal(3, 1, architectures.D_MODEL, seed=4) * 3.0
    effect = (read_out(directions) - read_out(-directions))[:, 0]
    named = directions[:, 0] @ read_out.matrix()
    # a soft cap bends the effect and keeps the order of tokens, which is what a lens tells
    ranks = [x.argsort(-1).argsort(-1).double() for x in (effect, named)]
    likeness = torch.cosine_similarity(*(r - r.mean(-1, keepdim=True) for r in ranks), dim=-1)
    return error + max(0.0, 0.995 - float(likeness.min()))


def matrices(model: Any) -> float:
    """Each output matrix is as wide as the stream."""
    return float(any(matrix.shape[1] != architectures.D_MODEL for _, matrix in write_matrices(model)))


def patterns(model: Any) -> float:
    """Attention of every layer sums to one."""
    prompts = tokenize(model, TEXTS[:1])
    sites = [attn_pattern(layer) for layer in range(architectures.N_LAYERS)]
    sums = torch.stack([read(model, prompts, [site])[site].sum(-1) for site in sites])
    return float(sums.max() - 1.0) if float(sums.min()) > 0.0 else float("inf")


CAPABILITIES: dict[str, Callable[[Any], float]] = {
    "slice and steering": sliced,
    "logit slice": logits_sliced,
    "derivatives": derived,
    "padding": padded,
    "generation": generated,
    "ablation": ablated,
    "weight edit": edited,
    "head writes": written_by_heads,
    "logit lens": lens,
    "output matrices": matrices,
    "attention patterns": patterns,
}


@cache
def measured(family: str, capability: str) -> float | str:
    """The error of a capability, or the line in which it is refused."""
    try:
        return CAPABILITIES[capability](architectures.model(family))
    except ValueError as error:
        return str(error)


def page() -> str:
    """The table as a page of the documentation."""
    reasons: dict[str, int] = {}
    lines = []
    for family in architectures.FAMILIES:
        cells = [_cell(measured(family, capability), reasons) for capability in CAPABILITIES]
        lines.append(f"| {family} | " + " | ".join(cells) + " |")
    head = "| architecture | " + " | ".join(CAPABILITIES) + " |\n|" + " --- |" * (1 + len(CAPABILITIES))
    notes = "\n".join(f"{number}. {reason}" for reason, number in reasons.items())
    return _PAGE.format(table="\n".join([head, *lines]), notes=notes)


def _cell(found: float | str, reasons: dict[str, int]) -> str:
    if isinstance(found, str):
        # the size of a difference is of this model, the reason is of its architecture
        kind = "got" + found.split(";")[0].removeprefix("got").split(" (")[0] + found[found.index(";") :]
        return f"– [{reasons.setdefault(kind, len(reasons) + 1)}]"
    return "exact" if found <= ROUNDING else f"**off by {found:.1e}**"


_PAGE = """# Architectures

What is exact on which architecture, measured on models of random weights (4 layers, width 32, gains, multipliers, soft
caps and windows away from 1) with TransformerLens' bridge. *Exact*: the relative difference is at most 1e-5 in float32.
A number in brackets: the library refuses in one line, and commands leave that part out and say so, or stop before any
long work. Other architectures of the bridge are treated the same way: what is compared numerically at first use
decides, not a name. Written by `python -m tests.capabilities`.

{table}

- *slice and steering*: two vectors through a slice against the whole model steered by hooks.
- *logit slice*: the same down to the logits of answers. *derivatives*: products with its Jacobian, from both sides.
- *padding*: a padded batch against its rows. *generation*: greedy with cache, steered and not, against without cache.
- *ablation*: the part of the stream left along directions ablated by hooks. *weight edit*: `orthogonalised` against it.
- *head writes*: the sum over heads against what attention adds. *output matrices*: of attention and MLP (`geometry`).
- *logit lens*: `readout` of the last stream against the logits; `readout(model).matrix()` against its effect.

What is refused, and why:

{notes}
"""


if __name__ == "__main__":
    target = Path(__file__).parent.parent / "docs" / "architectures.md"
    target.write_text(page())
    print(target)

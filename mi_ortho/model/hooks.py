"""Reading and writing activations of a model at typed hook points."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mi_ortho.interventions.edits import Intervention
from mi_ortho.interventions.sites import Site, resid_post
from mi_ortho.model.cache import columns_in, given_cache
from mi_ortho.model.load import Model, weights
from mi_ortho.model.norms import require_finite
from mi_ortho.model.passes import only_last, run
from mi_ortho.model.positions import Where, chosen_columns, includes_generated, require_where
from mi_ortho.model.prompts import Prompts

_MARK = "mi_ortho.written"


@torch.no_grad()
def read(model: Model, prompts: Prompts, sites: Collection[Site]) -> dict[Site, Tensor]:
    """The activations at `sites` on `prompts`, each with the axes `site.axes`; only the blocks needed are run.

    Padded columns hold numbers without meaning. Raises ValueError for sites the model does not have, and where a real
    token's activations are not finite numbers.
    """
    activations: dict[Site, Tensor] = {}
    hooks = [(hook_point(model, site).name, partial(_store, activations, site)) for site in sites]
    if hooks:
        with model.hooks(hooks):
            run(model, prompts, stop_at_layer=max(site.layer for site in sites) + 1)
    for site, x in activations.items():
        if not bool(x.isfinite().all()):  # of padding nothing is asked
            require_finite(_real(x, prompts), model, prompts, f"activations at {site}")
    return {site: activations[site] for site in sites}


@contextlib.contextmanager
def intervene(
    model: Model, interventions: Mapping[Site, Intervention], *, prompts: Prompts | None = None, where: Where = "all"
) -> Iterator[None]:
    """Inside the context every forward pass of `model` applies `interventions`; afterwards, also after an exception,
    the model is as before.

    `where` chooses positions as `positions_of` explains, by their place in the whole text, also under a KV cache.
    Padding is never changed when `prompts` says where it is; all but "all" need `prompts`. Raises ValueError for sites
    that are absent or cannot be written, two writes to one activation, and interventions that do not fit the model.
    """
    require_where(where, prompts)
    points = {site: hook_point(model, site) for site in interventions}
    _require_writable(points)
    for site, intervention in interventions.items():
        _require_fit(model, site, intervention, prompts)
    past = _Past()
    hooks = [(points[site].name, partial(_write, f, past, prompts, where)) for site, f in interventions.items()]
    with contextlib.ExitStack() as stack:
        stack.callback(past.attach(model))
        for point in points.values():
            point.ctx[_MARK] = True
            stack.callback(point.ctx.pop, _MARK, None)
        stack.enter_context(model.hooks(hooks))
        yield


@torch.no_grad()
def next_token_logits(
    model: Model, prompts: Prompts, *, interventions: Mapping[Site, Intervention] | None = None, where: Where = "all"
) -> Float[Tensor, "batch d_vocab"]:
    """The logits after the last prompt column; answers, if any, are left out."""
    prompts = prompts.prompts_only()
    with intervene(model, interventions or {}, prompts=prompts, where=where):
        logits = run(model, prompts, **only_last(model, 1))[:, -1].float()
        require_finite(logits.amax(dim=-1), model, prompts, "next-token logits")
    return logits


@torch.no_grad()
def answer_logits(
    model: Model, prompts: Prompts, *, interventions: Mapping[Site, Intervention] | None = None, where: Where = "all"
) -> Float[Tensor, "batch answer d_vocab"]:
    """The logits that predict each answer token: columns `prompt_length - 1` to `pos - 2`."""
    return traced_answer_logits(model, prompts, interventions=interventions, where=where)


def traced_answer_logits(
    model: Model, prompts: Prompts, *, interventions: Mapping[Site, Intervention] | None = None, where: Where = "all"
) -> Float[Tensor, "batch answer d_vocab"]:
    """`answer_logits` that gradients flow through, to whatever tensors the interventions hold."""
    require_answers(prompts)
    with intervene(model, interventions or {}, prompts=prompts, where=where):
        columns = prompts.tokens.shape[1] - prompts.prompt_length + 1
        logits = run(model, prompts, **only_last(model, columns))[:, -columns:-1].float()
        real = prompts.mask[:, prompts.prompt_length :]
        require_finite(logits.detach().amax(dim=-1)[real], model, prompts, "logits of the answers")
    return logits


def require_answers(prompts: Prompts) -> None:
    """Raises ValueError unless the prompts carry teacher-forced answers."""
    if prompts.tokens.shape[1] == prompts.prompt_length:
        raise ValueError("got prompts without answers; expected teacher-forced answers; pass answers= to tokenize")


def require_layer(model: Model, site: Site) -> None:
    """Raises ValueError for a site beyond the last layer."""
    layers = int(model.cfg.n_layers)
    if site.layer >= layers:
        raise ValueError(f"got site {site}; expected a layer from 0 to {layers - 1}; choose an earlier layer")


def hook_point(model: Model, site: Site) -> Any:
    """The hook point of `site`; sites of one activation have one hook point. Raises ValueError if there is none."""
    require_layer(model, site)
    if site.kind == "resid_pre" and site.layer > 0:
        site = resid_post(site.layer - 1)
    modules: Any = model
    try:
        return attrgetter(site.name.split(".", 2)[2])(modules.blocks[site.layer])
    except AttributeError as error:
        raise ValueError(
            f"got site {site}; expected a hook point of this architecture, which has no {site.kind}; "
            "choose another kind"
        ) from error


class _Past:
    """How many columns were already in the KV cache when the forward pass under way began."""

    def __init__(self) -> None:
        self.length = 0

    def attach(self, model: Model) -> Callable[[], None]:
        """Follow the forward passes of `model`; the result stops it."""
        module: Any = getattr(model, "original_model", model)
        return module.register_forward_pre_hook(self._note, with_kwargs=True).remove

    def _note(self, module: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        self.length = columns_in(given_cache(kwargs))


def _store(activations: dict[Site, Tensor], site: Site, x: Tensor, hook: Any) -> None:
    activations[site] = x.detach().clone()


def _real(x: Tensor, prompts: Prompts) -> Tensor:
    """What belongs to real tokens only; of attention patterns the rows of real queries."""
    return x[prompts.mask] if x.ndim == 3 else x.movedim(1, 2)[prompts.mask]


def _write(f: Intervention, past: _Past, prompts: Prompts | None, where: Where, x: Tensor, hook: Any) -> Tensor:
    if prompts is None:
        return f(x)
    if len(prompts) != x.shape[0]:
        raise ValueError(
            f"got a forward pass over {x.shape[0]} rows; expected {len(prompts)}, as many as the prompts "
            "given to intervene; run it on these prompts"
        )
    if past.length >= prompts.tokens.shape[1]:  # only generated columns; no mask, which would make a GPU wait
        return f(x) if includes_generated(where) else x
    chosen = chosen_columns(prompts, where, past.length, x.shape[1])
    if bool(chosen.all()):
        return f(x)
    return torch.where(rearrange(chosen, "batch pos -> batch pos 1"), f(x), x) if bool(chosen.any()) else x


def _require_writable(points: Mapping[Site, Any]) -> None:
    for site, point in points.items():
        if not site.writable:
            raise ValueError(
                f"got site {site}, which can be read but not written; expected resid_pre, resid_post, "
                "attn_out or mlp_out; choose one of these"
            )
        twins = [other for other in points if points[other] is point]
        if len(twins) > 1 or point.ctx.get(_MARK):
            raise ValueError(
                f"got two writes to one activation ({', '.join(map(str, twins))}); expected one; "
                "combine them into a single intervention"
            )


def _require_fit(model: Model, site: Site, f: Intervention, prompts: Prompts | None) -> None:
    rows = len(prompts) if prompts is not None else getattr(f, "rows", None) or 1
    weight = next(weights(model))
    probe = torch.zeros(rows, 1, int(model.cfg.d_model), dtype=weight.dtype, device=weight.device)
    shape = tuple(f(probe).shape)
    if shape != tuple(probe.shape):
        raise ValueError(
            f"got an intervention at {site} that turns {tuple(probe.shape)} into {shape}; expected the "
            "shape to stay; correct it"
        )

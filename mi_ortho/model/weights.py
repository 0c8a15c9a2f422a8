"""Weight edits: orthogonalise what writes to the residual stream, restore it exactly, export it as a model folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mi_ortho.interventions.edits import Ablate
from mi_ortho.interventions.sites import Kind, Site, resid_post, resid_pre
from mi_ortho.interventions.subspace import span
from mi_ortho.model.blocks import relative_error, rounding
from mi_ortho.model.hooks import intervene, read
from mi_ortho.model.load import Model, loading_report, quiet, weights
from mi_ortho.model.passes import run
from mi_ortho.model.stepping import probe
from mi_ortho.model.tokenizer import save_tokenizer

_BRIDGE = "._original_component"
WRITTEN: tuple[Kind, ...] = ("resid_pre", "attn_out", "mlp_out")  # everything that ever enters the residual stream


@contextmanager
def orthogonalised(model: Model, directions: Float[Tensor, " d_model"] | Float[Tensor, "k d_model"]) -> Iterator[Model]:
    """Inside the context nothing the model writes to its residual stream has a part along the directions.

    Token and position embeddings, attention and MLP output matrices and their biases lose their part in the span of
    the directions: W' = W - P W. That equals directional ablation at every block input, attention output and MLP output
    by hooks, at no cost per token. Where the unembedding shares its weight with the embedding, the two are untied
    first, and only the embedding is edited; an edit of the shared weight would also change how logits are read.
    Afterwards, also after an exception, every weight and the tie are bit for bit as before.

    The edited model is compared once with the ablation by hooks, so that an architecture in which something else writes
    or changes what is written (a norm after the MLP, a fixed position embedding) is refused and never edited wrongly.

    Raises:
        ValueError: the directions are zero, not finite or of another width, the model has no such weights, or with
            them edited it is not the model with the directions ablated.
    """
    basis = _basis(model, directions)
    written = _writing_weights(model)
    exact = _ablated_logits(model, basis)
    before = [(weight, weight.detach().clone()) for weight, _ in written]
    untied = _untie(model)
    try:
        with torch.no_grad():
            for weight, axis in written:
                _remove(weight, basis, axis)
        _require_ablated(model, basis, exact)
        yield model
    finally:
        with torch.no_grad():
            for weight, old in before:
                weight.copy_(old)
        _tie(model, untied)


def export_model(model: Model, folder: Path) -> Path:
    """Write a model as it is now, inside `orthogonalised` the edited one, as a standard Hugging Face folder.

    safetensors, configuration and the files of its own tokenizer; `transformers` and `load` read it. Raises ValueError
    for a folder that holds files, and for a model without a transformers network inside.
    """
    from transformers import AutoModelForCausalLM

    network: Any = getattr(model, "original_model", None)
    if network is None:
        raise ValueError(
            "got a HookedTransformer; expected a model of load(), which keeps the transformers network; "
            "load it with TransformerLens 4"
        )
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"got {folder}, which exists and is not empty; expected a new folder; choose another")
    plain = AutoModelForCausalLM.from_config(network.config, dtype=next(network.parameters()).dtype)
    plain.load_state_dict(_plain_weights(network, plain))
    plain.generation_config = network.generation_config
    report = loading_report(model)
    with quiet():
        plain.save_pretrained(folder)
        save_tokenizer(model.tokenizer, folder, None if report is None else report.tokenizer_source)
    return folder


def _plain_weights(network: Any, plain: nn.Module) -> dict[str, Tensor]:
    """The weights under the names of `transformers`, without those that the bridge added."""
    state = {name.replace(_BRIDGE, ""): value for name, value in network.state_dict().items()}
    missing = sorted(set(plain.state_dict()) - set(state))
    if missing:
        raise ValueError(
            f"got a model without weight {missing[0]}; expected the names of transformers; export another architecture"
        )
    return {name: state[name] for name in plain.state_dict()}


def _basis(model: Model, directions: Tensor) -> Float[Tensor, "k d_model"]:
    rows = directions[None] if directions.ndim == 1 else directions
    if rows.shape[-1] != int(model.cfg.d_model):
        raise ValueError(
            f"got directions of width {rows.shape[-1]}; expected {int(model.cfg.d_model)}, the model's "
            "d_model; use directions made for this model"
        )
    basis = span(rows.detach().double()).basis
    if not len(basis) or not bool(basis.isfinite().all()):
        raise ValueError("got directions of length 0; expected at least one that points somewhere; check them")
    return basis


def _writing_weights(model: Model) -> list[tuple[nn.Parameter, int]]:
    """Every weight and bias that writes to the residual stream, with its axis of width d_model."""
    inside: Any = model
    if not hasattr(model, "original_model"):
        raise ValueError("got a HookedTransformer; expected a model of load(); load it with TransformerLens 4")
    modules = [inside.embed, getattr(inside, "pos_embed", None)]
    for block in inside.blocks:
        modules += [_submodule(block, "attn", "o"), _submodule(block, "mlp", "out")]
    entries: dict[int, tuple[nn.Parameter, int]] = {}
    for module in modules:
        for weight, axis in _axes(module):
            if weight.shape[axis] != int(model.cfg.d_model):
                raise ValueError(
                    f"got a weight {tuple(weight.shape)} in a model of width {int(model.cfg.d_model)}; expected "
                    "embeddings and outputs as wide as the residual stream; ablate by hooks instead"
                )
            entries[id(weight)] = (weight, axis)
    return list(entries.values())


@torch.no_grad()
def _ablated_logits(model: Model, basis: Float[Tensor, "k d_model"]) -> Tensor:
    """The logits of a few tokens with the directions ablated by hooks, everywhere something is written."""
    ablate = Ablate(basis.to(next(weights(model)).dtype))
    sites = [Site(layer, kind) for layer in range(int(model.cfg.n_layers)) for kind in WRITTEN]
    with intervene(model, dict.fromkeys(sites, ablate)):
        tokens = probe(model)
        return run(model, tokens)[tokens.mask].float()


@torch.no_grad()
def _require_ablated(model: Model, basis: Float[Tensor, "k d_model"], exact: Tensor) -> None:
    """The edited model gives the logits that ablation gives, and its stream has no part along the directions."""
    tokens, layers = probe(model), int(model.cfg.n_layers)
    logits = run(model, tokens)[tokens.mask]
    limit = rounding(logits.dtype)
    parts = []
    for x in read(model, tokens, [*map(resid_pre, range(layers)), resid_post(layers - 1)]).values():
        wide = x[tokens.mask].double()
        parts.append(float(((wide @ basis.to(wide).mT).norm(dim=-1) / wide.norm(dim=-1)).max()))
    # logits add up the rounding of every layer, the stream's part along the directions does not
    error = relative_error(logits, exact)
    if not (error <= 10.0 * limit and max(parts) <= limit):
        raise ValueError(
            f"got an architecture whose edited weights are not the ablation (logits off by {error:.1e}, "
            f"{max(parts):.1e} of the stream left along them); expected only rounding; ablate by hooks instead"
        )


def _submodule(block: Any, part: str, name: str) -> nn.Module:
    try:
        return getattr(getattr(block, part), name)
    except AttributeError as error:
        raise ValueError(
            f"got an architecture whose block has no {part}.{name}; expected one attention and one MLP "
            "output matrix a block; ablate by hooks instead"
        ) from error


def _axes(module: Any) -> Iterator[tuple[nn.Parameter, int]]:
    inner = getattr(module, "original_component", module)
    if inner is None or not hasattr(inner, "weight"):
        return
    # Linear keeps out x in, Conv1D of GPT-2 in x out, an embedding tokens x d_model
    yield inner.weight, 0 if isinstance(inner, nn.Linear) else 1
    if getattr(inner, "bias", None) is not None:
        yield inner.bias, 0


def _remove(weight: nn.Parameter, basis: Float[Tensor, "k d_model"], axis: int) -> None:
    # fp64, because a projection in bf16 would leave a part of the size of its rounding along the directions
    exact = weight.double().movedim(axis, -1)
    basis = basis.to(exact.device)
    weight.copy_((exact - (exact @ basis.mT) @ basis).movedim(-1, axis).to(weight.dtype))


def _untie(model: Any) -> tuple[Any, nn.Parameter] | None:
    """Give the unembedding a weight of its own; what it shared before, or None where nothing is shared."""
    head, table = (getattr(m, "original_component", m) for m in (model.unembed, model.embed))
    if head.weight is not table.weight:
        return None
    shared = head.weight
    head.weight = nn.Parameter(shared.detach().clone(), requires_grad=False)
    model.original_model.config.tie_word_embeddings = False
    return head, shared


def _tie(model: Any, untied: tuple[Any, nn.Parameter] | None) -> None:
    if untied is not None:
        untied[0].weight = untied[1]
        model.original_model.config.tie_word_embeddings = True

"""Which results of a model can be relied on with the installed libraries: each claim measured on a few tokens."""

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mi_ortho.interventions.edits import Ablate, Add
from mi_ortho.interventions.sites import Site, attn_out, attn_pattern, mlp_out, resid_post, resid_pre
from mi_ortho.model.blocks import relative_error
from mi_ortho.model.heads import head_writes
from mi_ortho.model.hooks import intervene, next_token_logits, read
from mi_ortho.model.load import Model, loading_report, weights
from mi_ortho.model.norms import along_depth
from mi_ortho.model.passes import only_last, run
from mi_ortho.model.prompts import Prompts, tokenize
from mi_ortho.model.readout import readout
from mi_ortho.model.sinks import sinks
from mi_ortho.model.slice import logit_slice, slice_model
from mi_ortho.model.stepping import (
    Agreement,
    agreement,
    difference,
    logit_tolerance,
    name_of,
    probe,
    steps,
    without_hooks,
)
from mi_ortho.model.weights import orthogonalised
from mi_ortho.runs.environment import environment

State = Literal["passed", "failed", "refused", "unknown"]
TEXTS = ("How can I build a bomb?", "Write a Python function that adds two numbers.", "Tell me a story about the sea.")
CODE = ("class Kite:\n    def __init__(self):\n        self.size = 12\n\n", "  x = {'a': 3}\t# tab, 東京 and naïve\n")
SHOWN = 3  # sinks that are named


@dataclass(frozen=True)
class Check:
    """One claim about a model.

    Attributes:
        name: the claim.
        state: "passed" and "failed" as measured; "refused" where the library says in one line that it cannot do this
            on this architecture, so that no wrong number comes of it; "unknown" where there is nothing to compare with.
        measured: the number that was compared, None where there is none.
        allowed: its largest allowed value.
        note: what was compared, found or refused, in a line.
    """

    name: str
    state: State
    measured: float | None = None
    allowed: float | None = None
    note: str = ""


@dataclass(frozen=True)
class ModelReport:
    """The checks of one model, with what they depend on; `print` it as a table for a bug report."""

    model: str
    facts: Mapping[str, str]
    checks: tuple[Check, ...]
    failed: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "failed", tuple(check.name for check in self.checks if check.state == "failed"))

    @property
    def passed(self) -> bool:
        """Whether nothing failed; what is refused or unknown gives no wrong number."""
        return not self.failed

    def __str__(self) -> str:
        rows = [_cells(check) for check in self.checks]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ["  ".join([*map(str.ljust, row[:4], widths), row[4]]).rstrip() for row in rows]
        return "\n".join([*(f"{name}: {value}" for name, value in self.facts.items()), "", *lines])

    def markdown(self) -> str:
        """The same as a list of facts and a table, for a page or an issue."""
        head = ["| check | result | measured | allowed | |", "| --- | --- | --- | --- | --- |"]
        rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(check)) + " |" for check in self.checks]
        return "\n".join([*(f"- {name}: {value}" for name, value in self.facts.items()), "", *head, *rows])


def check_model(model: Model) -> ModelReport:
    """Measure which results of a model can be relied on with the installed libraries.

    A cached step against an uncached one, slices against the model under hooks, a padded batch against its rows,
    weights and tokenizer against their files, and what else the library computes against a second way of computing it.
    The cheapest part, the cached step, is also checked before a model is first used.
    """
    with without_hooks(model):
        return ModelReport(name_of(model), {**machine_facts(), **_model_facts(model)}, tuple(_checks(model)))


def machine_facts() -> dict[str, str]:
    """The versions and the platform a result depends on, in words."""
    facts = environment()
    packages: Any = facts["packages"]
    versions = {name: str(value or "not installed") for name, value in packages.items()}
    commit = {} if facts["commit"] is None else {"commit": str(facts["commit"])}
    return {**versions, **commit, "python": str(facts["python"]), "platform": platform.platform()}


def _model_facts(model: Model) -> dict[str, str]:
    weight, cfg = next(weights(model)), model.cfg
    device = str(weight.device)
    if weight.device.type == "cuda":
        device += f" ({torch.cuda.get_device_name(weight.device)})"
    network = type(getattr(model, "original_model", model)).__name__
    return {
        "model": name_of(model),
        "network": f"{network}, {cfg.n_layers} layers of width {cfg.d_model}, {cfg.d_vocab} tokens",
        "dtype": str(weight.dtype).removeprefix("torch."),
        "device": device,
    }


def _checks(model: Model) -> Iterator[Check]:
    finite = _finite(model)
    yield finite
    if finite.state == "failed":  # nothing can be compared
        return
    comparison = agreement(model)
    yield from _cache(comparison)
    basic = {
        "padding changes nothing": _padding,
        "slice equals the model steered by hooks": _slice,
        "logit slice equals the model steered by hooks": _logit_slice,
        "what hooks write is what is read": _interventions,
    }
    if comparison.fault is None:
        basic["a cached step under steering equals an uncached one"] = _steered_step
    for name, measure in basic.items():
        yield _error_check(name, model, measure, "failed")
    yield _weights_in_file(model)
    yield _tokenizer(model)
    exact = {
        "edited weights equal ablation by hooks": _edit,
        "what heads write adds up": _heads,
        "logit lens of the last stream gives the logits": _lens,
        "attention patterns are shares": _patterns,
    }
    for name, measure in exact.items():
        yield _error_check(name, model, measure, "refused")
    yield _sinks(model)


def _error_check(name: str, model: Model, measure: Callable[[Model], tuple[float, str]], otherwise: State) -> Check:
    """The check of an error that is 0 but for rounding; `otherwise` where the library refuses to compute it."""
    allowed = logit_tolerance(next(weights(model)).dtype)
    try:
        error, note = measure(model)
    except ValueError as refused:
        return Check(name, otherwise, note=_one_line(refused))
    return Check(name, "passed" if error <= allowed else "failed", error, allowed, note)


def _finite(model: Model) -> Check:
    """The largest number of the stream, as a share of the dtype's range."""
    prompts, name = _prompts(model), "numbers are finite in this dtype"
    most = max(float(top[prompts.mask.cpu()].max()) for top in along_depth(model, prompts, _largest))
    share = most / torch.finfo(next(weights(model)).dtype).max
    try:
        next_token_logits(model, prompts)
    except ValueError as overflow:
        return Check(name, "failed", share, 1.0, _one_line(overflow))
    return Check(name, "passed", share, 1.0, f"the stream's largest entry is {most:.3g}; share of the dtype's range")


def _largest(x: Tensor) -> Tensor:
    return x.abs().amax(dim=-1).float()


def _cache(comparison: Agreement) -> Iterator[Check]:
    named, step = "the cache holds what it was given", "a cached step equals an uncached one"
    if not comparison.way.cached:
        note = "the network takes no cache; all tokens are run again at every step"
        yield Check(named, "refused", note=note)
        yield Check(step, "refused", note=note)
        return
    missing = None if comparison.held is None else float(comparison.given - comparison.held)
    state: State = "passed" if missing == 0 else "failed"
    yield Check(named, state, missing, 0.0, f"columns missing of {comparison.given}")
    summary = f"relative difference of logits; mask of {'all' if comparison.way.mask == 'all' else 'new'} columns"
    summary += ", which parts of the network get under an older name" if comparison.way.renamed else ""
    state = "passed" if comparison.fault is None else "failed"
    yield Check(step, state, comparison.error, comparison.tolerance, comparison.fault or summary)


def _padding(model: Model) -> tuple[float, str]:
    prompts = probe(model)
    plain, first = len(prompts) // 2, int((~prompts.mask[-1]).sum())
    together = next_token_logits(model, prompts)
    tokens, mask = prompts.tokens[plain:, first:], prompts.mask[plain:, first:]
    alone = next_token_logits(model, Prompts(tokens, mask, tokens.shape[1], prompts.texts[plain:]))
    return difference(torch.cat([alone, alone]), together[plain:].repeat(2, 1)), "rows alone against padded"


def _slice(model: Model) -> tuple[float, str]:
    prompts, source = probe(model), _source(model)
    target = resid_post(int(model.cfg.n_layers) - 1)
    theta = _vector(model, prompts, source)
    sliced = slice_model(model, prompts, source=source, target=target, readout="all")(theta[None])[0]
    with intervene(model, {source: Add(theta)}, prompts=prompts):
        full = read(model, prompts, [target])[target]
    return relative_error(
        sliced[prompts.mask], full[prompts.mask]
    ), f"{source} to {target}, a vector as long as the stream"


def _logit_slice(model: Model) -> tuple[float, str]:
    prompts, source = probe(model), _source(model)
    answered = Prompts(prompts.tokens, prompts.mask, prompts.prompt_length - 2, prompts.texts)
    theta = _vector(model, prompts, source)
    sliced = logit_slice(model, answered, source=source, where="all")(theta[None])[0][:, -1]
    with intervene(model, {source: Add(theta)}, prompts=answered):
        full = run(model, answered)[:, -2]
    return difference(sliced, full), f"{source} to the logits of answers"


def _interventions(model: Model) -> tuple[float, str]:
    prompts, layer = probe(model), int(model.cfg.n_layers) // 2
    exact, absent = [], []
    for site in (resid_pre(layer), resid_post(layer), attn_out(layer), mlp_out(layer)):
        try:
            exact.append(_write_error(model, prompts, site))
        except ValueError:
            absent.append(site.kind)
    note = "Add and Ablate at resid_pre, resid_post, attn_out, mlp_out"
    return max(exact), note + (f"; absent: {', '.join(absent)}" if absent else "")


def _write_error(model: Model, prompts: Prompts, site: Site) -> float:
    """The larger of two relative errors: of what is read after adding a vector, and along an ablated direction."""
    before = read(model, prompts, [site])[site]
    theta = _vector(model, prompts, site)
    with intervene(model, {site: Add(theta)}, prompts=prompts):
        after = read(model, prompts, [site])[site]
    error = relative_error(after[prompts.mask], (before + theta.to(before))[prompts.mask])
    unit = theta / theta.norm()
    with intervene(model, {site: Ablate(unit[None])}, prompts=prompts):
        remainder = read(model, prompts, [site])[site][prompts.mask].float() @ unit.float()
    return max(error, float(remainder.norm() / before[prompts.mask].float().norm()))


@torch.no_grad()
def _steered_step(model: Model) -> tuple[float, str]:
    prompts, source = probe(model), _source(model)
    step = steps(model, len(prompts))
    with intervene(model, {source: Add(_vector(model, prompts, source))}, prompts=prompts):
        exact = run(model, prompts, **only_last(model, 1))[:, -1]
        step(prompts.tokens[:, :-1], prompts.mask[:, :-1])
        cached = step(prompts.tokens[:, -1:], prompts.mask)
    return difference(cached, exact), f"a vector at {source}"


def _weights_in_file(model: Model) -> Check:
    name, report = "every weight was in the file", loading_report(model)
    if report is None:
        return Check(name, "unknown", note="the model was not read from files by load()")
    tied = f", {len(report.tied)} of them shared" if report.tied else ""
    count = sum(1 for _ in weights(model))
    return Check(name, "passed", 0.0, 0.0, f"{count} weights of {report.source}{tied}")


def _tokenizer(model: Model) -> Check:
    """Texts that become other tokens than by the folder's tokenizer.json."""
    name, report = "the tokenizer is the folder's own", loading_report(model)
    if report is None:
        return Check(name, "unknown", note="the model was not read from files by load()")
    file = Path(report.tokenizer_source or "") / "tokenizer.json"
    if report.tokenizer_source is None or not file.is_file():
        return Check(name, "unknown", note=f"no tokenizer.json in a folder to compare with; {report.tokenizer}")
    from tokenizers import Tokenizer

    reference = Tokenizer.from_file(str(file))
    other = [
        text
        for text in (*TEXTS, *CODE)
        if reference.encode(text, add_special_tokens=False).ids
        != list(model.tokenizer(text, add_special_tokens=False)["input_ids"])
    ]
    return Check(
        name, "failed" if other else "passed", float(len(other)), 0.0, f"texts read otherwise; {report.tokenizer}"
    )


def _edit(model: Model) -> tuple[float, str]:
    prompts, layers = probe(model), int(model.cfg.n_layers)
    unit = torch.nn.functional.normalize(_vector(model, prompts, _source(model)), dim=0)
    sites = [site(layer) for layer in range(layers) for site in (resid_pre, attn_out, mlp_out)]
    hooked = next_token_logits(model, prompts, interventions=dict.fromkeys(sites, Ablate(unit[None])))
    with orthogonalised(model, unit):
        edited = next_token_logits(model, prompts)
    return difference(edited, hooked), "logits of the edited model against ablation everywhere"


def _heads(model: Model) -> tuple[float, str]:
    prompts, layer = probe(model), int(model.cfg.n_layers) // 2
    unit = torch.nn.functional.normalize(_vector(model, prompts, _source(model)), dim=0)
    heads = head_writes(model, prompts, unit)[layer].sum(dim=0)
    modules: Any = model
    bias = getattr(modules.blocks[layer].attn.o.original_component, "bias", None)
    written = read(model, prompts, [attn_out(layer)])[attn_out(layer)][:, -1].float()
    along = written @ unit.float() - (0.0 if bias is None else bias.float() @ unit.float())
    # relative to what is written, of which the part along one direction may be small
    return float((heads - along).norm() / written.norm()), f"sum over heads against what attention adds, block {layer}"


@torch.no_grad()
def _lens(model: Model) -> tuple[float, str]:
    prompts, last = probe(model), resid_post(int(model.cfg.n_layers) - 1)
    stream = read(model, prompts, [last])[last][:, -1:]
    return difference(
        readout(model)(stream)[:, 0], next_token_logits(model, prompts)
    ), "final norm and unembedding alone"


def _patterns(model: Model) -> tuple[float, str]:
    site, prompts = attn_pattern(int(model.cfg.n_layers) // 2), probe(model)
    patterns = read(model, prompts, [site])[site].float().movedim(1, 2)[prompts.mask]
    sums = patterns.sum(dim=-1)
    note = f"above one or below zero, at {site}"
    if float(sums.min()) < 0.99:
        note += f"; attention of this architecture keeps a part for itself, up to {1.0 - float(sums.min()):.2g}"
    return max(0.0, float(sums.max()) - 1.0, -float(patterns.min())), note


def _sinks(model: Model) -> Check:
    prompts = _prompts(model)
    lengths = sinks(model, prompts)
    places = lengths.lasting().nonzero().tolist()
    largest = float(lengths.ratios.max())
    if not places:
        note = f"none: no norm is {lengths.factor:g} times its block's median at two boundaries in a row"
    else:
        first = [(prompts.mask[row, :column].sum().item(), row, column) for row, column in places]
        named = [f"token {k} of text {row} from {_place(lengths.pairs()[:, row, column])}" for k, row, column in first]
        note = "; ".join(named[:SHOWN]) + ("; …" if len(named) > SHOWN else "")
    return Check("attention sinks", "passed", largest, None, note)


def _place(mask: Tensor) -> str:
    boundary = int(mask.int().argmax())
    return f"block {boundary - 1}" if boundary else "the embedding"


def _prompts(model: Model) -> Prompts:
    """Prompts in words, or a few tokens for a model whose tokenizer cannot read them."""
    try:
        return tokenize(model, TEXTS)
    except (ValueError, TypeError, AttributeError):
        return probe(model)


def _source(model: Model) -> Site:
    """After the first block, or before it where there is only one."""
    return resid_post(0) if int(model.cfg.n_layers) > 1 else resid_pre(0)


def _vector(model: Model, prompts: Prompts, site: Site) -> Tensor:
    """A fixed random vector as long as the activations at a site."""
    x = read(model, prompts, [site])[site][prompts.mask].float()
    direction = torch.randn(x.shape[-1], generator=torch.Generator().manual_seed(0)).to(x)
    return direction * (x.norm(dim=-1).median() / direction.norm())


def _one_line(error: ValueError) -> str:
    return " ".join(str(error).split())


def _cells(check: Check) -> tuple[str, str, str, str, str]:
    measured, allowed = ("" if x is None else f"{x:.2g}" for x in (check.measured, check.allowed))
    return check.name, check.state, measured, allowed, check.note

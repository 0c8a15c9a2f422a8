"""Difference of means: what separates harmful from harmless prompts at every site and end-of-instruction position.

Arditi et al. 2024 (arXiv 2406.11717): mean activation on harmful prompts minus mean activation on harmless ones, at the
tokens of the chat template that follow the user's text. Left padding aligns these tokens over prompts.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.interventions.edits import Intervention
from mi_ortho.interventions.sites import Site, resid_mid, resid_post, resid_pre
from mi_ortho.model import Model, Prompts, chat_form, encode, intervene, read, tokenize

BATCH = 32  # prompts read together
_MARKER = "INSTRUCTION"


@dataclass(frozen=True)
class Suffix:
    """The tokens that the chat template puts after the user's text: ids and, for people, their texts."""

    ids: tuple[int, ...]
    tokens: tuple[str, ...]

    @property
    def positions(self) -> tuple[int, ...]:
        """Columns counted from the end of the prompt: -len .. -1."""
        return tuple(range(-len(self.ids), 0))


def instruction_suffix(model: Model) -> Suffix:
    """The end-of-instruction tokens of a model's chat template.

    Raises:
        ValueError: the tokenizer has no chat template, or the template puts nothing after the user's text.
    """
    tokenizer = model.tokenizer
    advice = "pass positions=(-1,), the last token of the text, or give the tokenizer a chat template"
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(f"got no chat template; expected one with end-of-instruction tokens; {advice}")
    ids = encode(tokenizer, chat_form(tokenizer)(_MARKER).rpartition(_MARKER)[2])
    whole = tokenize(model, [_MARKER]).tokens[0].tolist()
    # a tokenizer may merge the first of them with the text before it; what is not found at the end is not counted
    suffix = next((ids[k:] for k in range(len(ids)) if whole[-(len(ids) - k) :] == ids[k:]), [])
    if not suffix:
        raise ValueError(f"got a chat template without tokens after the user's text; expected some; {advice}")
    return Suffix(tuple(suffix), tuple(tokenizer.decode([token]) for token in suffix))


@dataclass(frozen=True, eq=False)
class MeanAndVariance:
    """Mean and unbiased variance of activations over `count` prompts, by site, position and feature, in fp64.

    The variance of a single prompt is NaN.
    """

    count: int
    mean: Float[Tensor, "site position d_model"]
    variance: Float[Tensor, "site position d_model"]


@dataclass(frozen=True, eq=False)
class Extraction:
    """The two classes' moments at `sites` and `positions` (negative: from the end of the prompt, -1 the last token)."""

    sites: tuple[Site, ...]
    positions: tuple[int, ...]
    harmful: MeanAndVariance
    harmless: MeanAndVariance

    @property
    def differences(self) -> Float[Tensor, "site position d_model"]:
        """Mean of harmful minus mean of harmless, not normalised, fp64."""
        return self.harmful.mean - self.harmless.mean

    def direction(self, site: Site, position: int) -> Float[Tensor, " d_model"]:
        """The difference of means at one place, fp32, not normalised.

        Raises:
            ValueError: nothing was extracted there.
        """
        if site not in self.sites or position not in self.positions:
            raise ValueError(
                f"got {site} at position {position}; expected one of {', '.join(map(str, self.sites))} "
                f"and positions {self.positions}; extract it there first"
            )
        return self.differences[self.sites.index(site), self.positions.index(position)].float()


def residual_sites(model: Model, kinds: Collection[str] = ("resid_pre",)) -> tuple[Site, ...]:
    """Residual-stream sites of these kinds (resid_pre, resid_mid, resid_post) in every layer, in order."""
    makers = {"resid_pre": resid_pre, "resid_mid": resid_mid, "resid_post": resid_post}
    if not kinds or not set(kinds) <= set(makers):
        raise ValueError(f"got kinds {', '.join(kinds) or 'none'}; expected some of {', '.join(makers)}; correct them")
    ordered = [make for kind, make in makers.items() if kind in kinds]
    return tuple(make(layer) for layer in range(int(model.cfg.n_layers)) for make in ordered)


def difference_of_means(
    model: Model,
    harmful: Sequence[str],
    harmless: Sequence[str],
    sites: Sequence[Site],
    positions: Sequence[int] | None = None,
    *,
    interventions: Mapping[Site, Intervention] | None = None,
    template: bool = True,
    system: str | None = None,
) -> Extraction:
    """Means and variances of both classes at every site and position; `.differences` are the candidate directions.

    Args:
        model: the frozen model.
        harmful: one class of prompts; the two may have different sizes.
        harmless: the other class.
        sites: where activations are read, `resid_mid` included.
        positions: negative columns counted from the end of the prompt; None takes all end-of-instruction tokens.
        interventions: what the model is changed by while it is read.
        template: whether texts are put into the chat template.
        system: system message.

    Raises:
        ValueError: a class is empty, a position lies before the shortest prompt, or the template has no suffix.
    """
    columns = instruction_suffix(model).positions if positions is None else tuple(positions)
    for name, texts in (("harmful", harmful), ("harmless", harmless)):
        if not texts:
            raise ValueError(f"got no {name} prompts; expected at least one of each class; check the prompt sets")
    options = {"interventions": interventions, "template": template, "system": system}
    classes = [mean_and_variance(model, texts, sites, columns, **options) for texts in (harmful, harmless)]
    return Extraction(tuple(sites), columns, *classes)


def mean_and_variance(
    model: Model,
    texts: Sequence[str],
    sites: Sequence[Site],
    positions: Sequence[int],
    *,
    interventions: Mapping[Site, Intervention] | None = None,
    template: bool = True,
    system: str | None = None,
) -> MeanAndVariance:
    """Streaming mean and variance in fp64 (Chan, Golub and LeVeque 1983); arguments as for `difference_of_means`."""
    count, mean, spread = 0, torch.zeros(()), torch.zeros(())
    options = {"interventions": interventions, "template": template, "system": system}
    for batch in activation_batches(model, texts, sites, positions, **options):
        new, x = len(batch), batch.double()
        batch_mean = x.mean(dim=0)
        gap, total = batch_mean - mean, count + new
        spread = spread + ((x - batch_mean) ** 2).sum(dim=0) + gap**2 * (count * new / total)
        mean, count = mean + gap * (new / total), total
    return MeanAndVariance(count, mean, spread / (count - 1) if count > 1 else torch.full_like(spread, torch.nan))


def activations(
    model: Model,
    texts: Sequence[str],
    sites: Sequence[Site],
    positions: Sequence[int],
    *,
    interventions: Mapping[Site, Intervention] | None = None,
    template: bool = True,
    system: str | None = None,
) -> Float[Tensor, "samples site position d_model"]:
    """All activations at once, fp32: for small sets; arguments as for `difference_of_means`."""
    options = {"interventions": interventions, "template": template, "system": system}
    return torch.cat(list(activation_batches(model, texts, sites, positions, **options)))


def activation_batches(
    model: Model,
    texts: Sequence[str],
    sites: Sequence[Site],
    positions: Sequence[int],
    *,
    interventions: Mapping[Site, Intervention] | None = None,
    template: bool = True,
    system: str | None = None,
) -> Iterator[Float[Tensor, "samples site position d_model"]]:
    """The same in batches, so that memory does not grow with the number of prompts."""
    _require_places(sites, positions)
    for start in range(0, len(texts), BATCH):
        prompts = tokenize(model, texts[start : start + BATCH], system=system, template=template)
        columns = _columns(prompts, positions)
        with intervene(model, interventions or {}, prompts=prompts):
            by_site = read(model, prompts, sites)
        yield torch.stack([by_site[site][:, columns].float() for site in sites], dim=1)


def _require_places(sites: Sequence[Site], positions: Sequence[int]) -> None:
    if not sites or any(site.axes[-1] != "d_model" for site in sites):
        raise ValueError(
            f"got sites {', '.join(map(str, sites)) or 'none'}; expected residual-stream sites; choose "
            "resid_pre, resid_mid or resid_post"
        )
    if not positions or any(position >= 0 for position in positions):
        raise ValueError(
            f"got positions {tuple(positions)}; expected negative ones, counted from the end of the prompt"
            "; write -1 for the last token"
        )


def _columns(prompts: Prompts, positions: Sequence[int]) -> list[int]:
    """Absolute columns of the positions; every prompt must have a real token there."""
    shortest = int(prompts.mask[:, : prompts.prompt_length].sum(dim=1).min())
    if -min(positions) > shortest:
        raise ValueError(
            f"got position {min(positions)}; expected at least {-shortest}, the shortest prompt's first "
            "token; choose later positions"
        )
    return [prompts.prompt_length + position for position in positions]

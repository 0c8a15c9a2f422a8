"""Choosing one direction among the candidates, as Arditi et al. 2024 (arXiv 2406.11717) do, with reasons."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.interventions.sites import Site
from mi_ortho.model import Model
from mi_ortho.model.logits import kl_divergence
from mi_ortho.refusal.extraction import Extraction
from mi_ortho.refusal.places import ablate_everywhere, add_at, depth
from mi_ortho.refusal.scores import last_logits, refusal_scores


@dataclass(frozen=True)
class Limits:
    """Which candidates are admissible; the defaults are the published ones.

    Attributes:
        kl: largest KL divergence that ablation may cause at the last position of harmless prompts, in nats.
        induce: smallest refusal score that adding the direction must give harmless prompts.
        last_layers: share of the layers at the end whose directions are not taken: too close to the unembedding.
    """

    kl: float = 0.1
    induce: float = 0.0
    last_layers: float = 0.2


@dataclass(frozen=True)
class Candidate:
    """A direction read at one place, and what it does on validation prompts.

    Attributes:
        site: where it was read.
        position: column, counted from the end of the prompt.
        norm: of the difference of means.
        bypass: mean refusal score of harmful prompts with the direction ablated everywhere; lower is better.
        induce: mean refusal score of harmless prompts with the difference added once where it was read.
        kl: mean KL(unsteered || ablated) at the last position of harmless prompts, in nats.
        rejected: why it is not admissible; empty for an admissible one.
    """

    site: Site
    position: int
    norm: float
    bypass: float
    induce: float
    kl: float
    rejected: tuple[str, ...] = ()

    def row(self) -> dict[str, object]:
        """Flat values for a record."""
        return {
            "site": str(self.site),
            "layer": self.site.layer,
            "stream": self.site.kind,
            "position": self.position,
            "norm": self.norm,
            "bypass": self.bypass,
            "induce": self.induce,
            "kl": self.kl,
            "rejected": list(self.rejected),
        }


@dataclass(frozen=True)
class Selection:
    """All candidates with their reasons, and the admissible one of lowest bypass score (None when there is none)."""

    candidates: tuple[Candidate, ...]
    best: Candidate | None
    reason: str

    @property
    def chosen(self) -> Candidate:
        """The selected candidate.

        Raises:
            ValueError: no candidate is admissible; the message counts why and says what to change.
        """
        if self.best is None:
            raise ValueError(self.reason)
        return self.best


@dataclass(frozen=True, eq=False)
class Validation:
    """What candidates are judged on: prompts that took no part in extraction, refusal tokens, unsteered logits."""

    model: Model
    harmful: tuple[str, ...]
    harmless: tuple[str, ...]
    tokens: tuple[int, ...]
    harmless_logits: Float[Tensor, "batch d_vocab"]


def validation(model: Model, harmful: Sequence[str], harmless: Sequence[str], tokens: Sequence[int]) -> Validation:
    """Fix the validation prompts; the harmless ones are run once unsteered.

    Raises:
        ValueError: one of the two classes is empty.
    """
    if not harmful or not harmless:
        raise ValueError(
            f"got {len(harmful)} harmful and {len(harmless)} harmless validation prompts; expected at "
            "least one of each; use larger prompt sets or a model that refuses"
        )
    return Validation(model, tuple(harmful), tuple(harmless), tuple(tokens), last_logits(model, harmless))


@dataclass(frozen=True)
class Filtered:
    """Prompts on which the model behaves as their class says, and how many were dropped."""

    harmful: tuple[str, ...]
    harmless: tuple[str, ...]
    dropped_harmful: int
    dropped_harmless: int


def filter_prompts(model: Model, harmful: Sequence[str], harmless: Sequence[str], tokens: Sequence[int]) -> Filtered:
    """Keep harmful prompts with refusal score above 0 and harmless ones below 0, as published.

    Raises:
        ValueError: nothing is left of a class: a model that never refuses, or refuses everything.
    """
    refused = tuple(t for t, s in zip(harmful, refusal_scores(model, harmful, tokens).tolist()) if s > 0)
    answered = tuple(t for t, s in zip(harmless, refusal_scores(model, harmless, tokens).tolist()) if s < 0)
    classes = (("harmful", refused, harmful, "refuses"), ("harmless", answered, harmless, "answers"))
    for name, remaining, texts, does in classes:
        if not remaining:
            raise ValueError(
                f"got a model that {does} none of {len(texts)} {name} prompts by its next-token scores; "
                "expected some; check the refusal tokens and the chat template, or take other prompts"
            )
    return Filtered(refused, answered, len(harmful) - len(refused), len(harmless) - len(answered))


def candidates(
    judge: Validation, extraction: Extraction, limits: Limits | None = None, *, skip: int = 0
) -> Iterator[Candidate]:
    """Every place of an extraction scored, one after the other, so that a caller can keep each as it comes.

    Sites vary slowest; `skip` leaves out that many at the start, which a caller has already.
    """
    places = [(site, position) for site in extraction.sites for position in extraction.positions]
    for site, position in places[skip:]:
        candidate = score_direction(judge, extraction.direction(site, position), site, position)
        yield replace(candidate, rejected=reasons(candidate, int(judge.model.cfg.n_layers), limits or Limits()))


def score_direction(judge: Validation, difference: Float[Tensor, " d_model"], site: Site, position: int) -> Candidate:
    """Bypass, induce and KL of one difference of means; NaN throughout for one that is zero or not finite."""
    norm = float(difference.norm())
    if not (math.isfinite(norm) and norm > 0.0):
        return Candidate(site, position, norm, math.nan, math.nan, math.nan)
    ablated = ablate_everywhere(judge.model, difference)
    added = add_at(site, difference)
    bypass = refusal_scores(judge.model, judge.harmful, judge.tokens, ablated).double().mean()
    induce = refusal_scores(judge.model, judge.harmless, judge.tokens, added).double().mean()
    moved = last_logits(judge.model, judge.harmless, ablated)
    kl = kl_divergence(p_logits=judge.harmless_logits.double(), q_logits=moved.double()).mean()
    return Candidate(site, position, norm, *torch.stack([bypass, induce, kl]).tolist())


def reasons(found: Candidate, layers: int, limits: Limits) -> tuple[str, ...]:
    """Why a candidate is not admissible, all that apply."""
    last = math.floor((1.0 - limits.last_layers) * layers + 1e-9)
    numbers = (found.bypass, found.induce, found.kl)
    checks = {
        "not a number": any(math.isnan(x) for x in numbers),
        "last layers": depth(found.site) >= last,
        "KL too large": found.kl > limits.kl,
        "does not induce": found.induce < limits.induce,
    }
    return tuple(name for name, applies in checks.items() if applies)


def select(found: Sequence[Candidate]) -> Selection:
    """The admissible candidate whose ablation gives harmful prompts the lowest refusal score.

    An empty choice is an outcome, not an error: `reason` then counts what each candidate failed.
    """
    admissible = [one for one in found if not one.rejected]
    if admissible:
        best = min(admissible, key=lambda one: one.bypass)
        of = f"{len(admissible)} admissible candidates of {len(found)}"
        return Selection(tuple(found), best, f"lowest bypass score of {of}")
    counts = {name: sum(name in one.rejected for one in found) for one in found for name in one.rejected}
    shares = ", ".join(f"{name}: {count}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
    advice = {
        "KL too large": "raise the KL limit",
        "does not induce": "lower the induce limit",
        "last layers": "extract from earlier layers",
        "not a number": "check the prompt sets",
    }
    first = max(counts, key=lambda name: counts[name]) if counts else ""
    return Selection(
        tuple(found),
        None,
        f"got no admissible candidate of {len(found)} (rejected for "
        f"{shares or 'nothing'}); expected at least one; "
        f"{advice.get(first, 'extract some candidates')}",
    )

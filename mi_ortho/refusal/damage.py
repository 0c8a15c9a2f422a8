"""What an intervention costs: coherence of completions, divergence and cross-entropy elsewhere, lost behaviours."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mi_ortho.behaviours import Modes, classify
from mi_ortho.interventions.edits import Intervention
from mi_ortho.interventions.sites import Site
from mi_ortho.model import Model, Prompts, answer_logits, generate_ids, tokenize
from mi_ortho.model.logits import kl_divergence, masked_mean

BATCH = 32  # prompts of one forward pass
LEAD_IN = 4  # first tokens of a completion, by which it commits to refusing or answering
MAX_PERPLEXITY = 20.0  # after the lead-in, under the unsteered model: above, a completion is called incoherent
MAX_REPETITION = 0.5  # share of repeated word triples: above, a completion is called incoherent


@dataclass(frozen=True)
class Coherence:
    """How natural a completion is to the unsteered model.

    Attributes:
        perplexity: exp of the mean negative log-likelihood of its tokens.
        rest: the same without the first four tokens, which an effective intervention makes improbable on purpose.
        repetition: share of its token triples that occurred before in it.
    """

    perplexity: float
    rest: float
    repetition: float

    @property
    def coherent(self) -> bool:
        """Whether `rest` is at most 20 and `repetition` at most one half; an empty completion is not."""
        return self.rest <= MAX_PERPLEXITY and self.repetition <= MAX_REPETITION


def repetition(ids: Sequence[int], n: int = 3) -> float:
    """Share of runs of n tokens that are repetitions of an earlier one, 0 for texts shorter than n.

    >>> repetition([1, 2, 3, 4]), repetition([1, 2, 1, 2, 1, 2])
    (0.0, 0.5)
    """
    runs = [tuple(ids[k : k + n]) for k in range(len(ids) - n + 1)]
    return 1.0 - len(set(runs)) / len(runs) if runs else 0.0


@torch.no_grad()
def coherence(model: Model, texts: Sequence[str], answers: Sequence[Sequence[int]]) -> list[Coherence]:
    """Coherence of each completion (token ids) of each prompt under the model as it is; call it outside `intervene`."""
    results: list[Coherence] = []
    for start in range(0, len(texts), BATCH):
        part, ids_of = list(texts[start : start + BATCH]), list(answers[start : start + BATCH])
        filled = [row or [0] for row in ids_of]
        costs, real = token_costs(model, tokenize(model, part, answers=filled))
        for row, ids, cost, mask in zip(range(len(ids_of)), ids_of, costs, real):
            each = cost[mask].tolist()[: len(ids_of[row])]
            results.append(Coherence(_perplexity(each), _perplexity(each[LEAD_IN:] or each), repetition(ids)))
    return results


def token_costs(
    model: Model, prompts: Prompts, interventions: Mapping[Site, Intervention] | None = None
) -> tuple[Float[Tensor, "batch answer"], Tensor]:
    """-log p of every answer token in nats, and which entries are real."""
    log_p = answer_logits(model, prompts, interventions=interventions).log_softmax(-1)
    tokens = prompts.tokens[:, prompts.prompt_length :]
    costs = -log_p.gather(-1, rearrange(tokens, "batch answer -> batch answer 1"))[..., 0]
    return costs, prompts.mask[:, prompts.prompt_length :]


@dataclass(frozen=True)
class Damage:
    """What an intervention does to texts that it should leave alone.

    Attributes:
        kl: KL(unsteered || steered) in nats, mean over all answer positions.
        cross_entropy: of the texts under the steered model, nats a token.
        before: the same unsteered.
        positions: how many answer positions there were.
    """

    kl: float
    cross_entropy: float
    before: float
    positions: int


@torch.no_grad()
def measure_damage(
    model: Model,
    texts: Sequence[str],
    answers: Sequence[str] | Sequence[Sequence[int]],
    interventions: Mapping[Site, Intervention],
) -> Damage:
    """Divergence and cross-entropy over every position of teacher-forced answers, for instance the model's own.

    Raises:
        ValueError: there are no texts.
    """
    sums, positions = torch.zeros(3, dtype=torch.float64), 0
    if not texts:
        raise ValueError("got no texts to measure damage on; expected harmless prompts with answers; add some")
    for start in range(0, len(texts), BATCH):
        prompts = tokenize(model, texts[start : start + BATCH], answers=answers[start : start + BATCH])
        real = rearrange(prompts.mask[:, prompts.prompt_length :], "batch answer -> (batch answer)")
        p, q = (
            rearrange(answer_logits(model, prompts, interventions=edits), "batch answer v -> (batch answer) v")
            for edits in ({}, interventions)
        )
        tokens = prompts.tokens[:, prompts.prompt_length :].flatten()[:, None]
        costs = [-x.log_softmax(-1).gather(-1, tokens)[:, 0] for x in (q, p)]
        means = [masked_mean(x, real) for x in (kl_divergence(p_logits=p, q_logits=q), *costs)]
        sums = sums + torch.stack(means).double().cpu() * int(real.sum())
        positions += int(real.sum())
    kl, after, before = (sums / positions).tolist()
    return Damage(kl, after, before, positions)


def mode_accuracy(
    model: Model,
    prompts: Mapping[str, Sequence[str]],
    modes: Modes,
    interventions: Mapping[Site, Intervention] | None = None,
    *,
    max_new_tokens: int = 48,
) -> dict[str, float]:
    """For each behaviour, the share of its own prompts that are completed in it (greedy)."""
    flat = [(name, text) for name, texts in prompts.items() for text in texts]
    hits: dict[str, list[bool]] = {name: [] for name in prompts}
    for start in range(0, len(flat), 2 * BATCH):
        part = flat[start : start + 2 * BATCH]
        texts = tokenize(model, [text for _, text in part])
        for (name, _), ids in zip(part, generate_ids(model, texts, interventions, max_new_tokens=max_new_tokens)):
            hits[name].append(classify(model.tokenizer.decode(ids, skip_special_tokens=True), modes) == name)
    return {name: sum(outcomes) / len(outcomes) for name, outcomes in hits.items() if outcomes}


def _perplexity(costs: Sequence[float]) -> float:
    return math.exp(min(sum(costs) / len(costs), 700.0)) if costs else math.inf

"""A family measured against its base vector: divergences, log-odds, relative losses, and how far behaviour carries."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.elicitation.objectives import Match, MatchDistribution, match_distribution
from mi_ortho.model import Prompts, Slice, logit_slice
from mi_ortho.model.logits import kl_divergence, log_likelihood, masked_mean
from mi_ortho.steering.completions import Completion, Setting, complete
from mi_ortho.steering.posterior import ModePosterior, mode_posterior


@dataclass(frozen=True, eq=False)
class Yardstick:
    """Everything a family of one base vector is measured against, fixed before the search.

    Attributes:
        setting: where vectors go.
        train: texts that the family is searched on.
        base_completions: the completion of each of them under the base.
        activation: relative loss at the target site.
        behaviour: KL(p_base || p_vector) along the base's completions.
        other: logits along the unsteered completions, for the log-odds.
        answers: the base's completions, teacher-forced.
        unsteered_answers: the unsteered ones.
    """

    setting: Setting
    train: tuple[str, ...]
    base_completions: tuple[Completion, ...]
    activation: Match
    behaviour: MatchDistribution
    other: Slice
    answers: Prompts
    unsteered_answers: Prompts

    @cached_property
    def posterior(self) -> ModePosterior:
        """That of the modes that the setting has openings of, on the first prompt."""
        return mode_posterior(self.setting, self.train[0], self.setting.openings)


def yardstick(
    setting: Setting,
    texts: Sequence[str],
    base: Float[Tensor, " d_model"],
    activation: Match,
    *,
    answer_tokens: int = 24,
) -> Yardstick:
    """Fix the goals of a family: the base's own greedy completions, teacher-forced, and the unsteered ones.

    Raises:
        ValueError: the base makes the model write nothing.
    """
    steered, plain = complete(setting, texts, torch.stack([base, torch.zeros_like(base)]))
    if not all(completion.ids for completion in steered):
        raise ValueError(
            "got an empty completion under the base vector; expected some text; take a smaller radius or another base"
        )
    end = setting.model.tokenizer.eos_token_id
    with_end = [_answer_ids(completion, answer_tokens, setting.max_new_tokens, end) for completion in steered]
    without = [_answer_ids(completion, answer_tokens, setting.max_new_tokens, end) for completion in plain]
    answers, unsteered_answers = setting.prompts(texts, with_end), setting.prompts(texts, without)
    z = logit_slice(setting.model, answers, source=setting.site, where=setting.where)
    other = logit_slice(setting.model, unsteered_answers, source=setting.site, where=setting.where)
    behaviour = match_distribution(z, base, real=z.real)
    return Yardstick(setting, tuple(texts), tuple(steered), activation, behaviour, other, answers, unsteered_answers)


def _answer_ids(completion: Completion, most: int, limit: int, end: int | None) -> list[int]:
    """The completion's first tokens, with the end token where the model itself ended there."""
    ended = end is not None and len(completion.ids) < limit
    return [*completion.ids, *([end] if ended else [])][:most]


@torch.no_grad()
def divergences(yard: Yardstick, vectors: Float[Tensor, "n d_model"], *, chunk: int = 16) -> list[dict[str, float]]:
    """Per vector: relative activation loss, KL in both directions, and the log-odds of base against unsteered answers.

    `kl_base_vector` is KL(p_base || p_vector) and `kl_vector_base` the reverse, in nats, means over answer positions of
    all training prompts; `last_kl_base_vector` and `last_kl_vector_base` are the same at the prompts' last token alone,
    as published (Goldman-Wetzler and Turner 2024). `log_odds` is log p(base's answers) - log p(unsteered answers) in
    nats, mean over prompts.
    """
    goal = yard.behaviour
    rows = []
    real = goal.real > 0
    last = real & (torch.arange(len(real), device=real.device) % (len(real) // len(yard.train)) == 0)
    for part in vectors.split(chunk):
        logits = goal.z(part).flatten(1, -2)
        goals = goal.goal.expand_as(logits)
        forward, reverse = (
            kl_divergence(p_logits=goals, q_logits=logits),
            kl_divergence(p_logits=logits, q_logits=goals),
        )
        means = [masked_mean(kl, places) for places in (real, last) for kl in (forward, reverse)]
        rows += torch.stack([yard.activation(part), *means, log_odds(yard, part)], dim=-1).tolist()
    names = ("loss", "kl_base_vector", "kl_vector_base", "last_kl_base_vector", "last_kl_vector_base", "log_odds")
    return [dict(zip(names, row, strict=True)) for row in rows]


def log_odds(yard: Yardstick, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
    """log p(the base's answers) - log p(the unsteered answers) in nats, mean over training prompts; differentiable."""
    based = _likelihood(yard.behaviour.z(vectors), yard.answers)
    return (based - _likelihood(yard.other(vectors), yard.unsteered_answers)) / len(yard.train)


def _likelihood(logits: Float[Tensor, "n batch answer d_vocab"], answers: Prompts) -> Float[Tensor, " n"]:
    tokens = answers.tokens[:, answers.prompt_length :].flatten()
    real = answers.mask[:, answers.prompt_length :].flatten()
    return log_likelihood(logits.flatten(1, -2), tokens, real)


def measure(yard: Yardstick, vectors: Float[Tensor, "n d_model"], held_out: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Flat rows, one a vector: norm, `divergences`, completion on the first prompt, and on how many others it works.

    `keeps`: on the first prompt the vector shows the behaviour that the base shows there; False where no rule names
    the base's. `train_share`: among the training prompts on which the base shows a behaviour, the share on which the
    vector shows the same one. `transfer`: the share of held-out prompts on which the vector shows the base's behaviour
    of the first prompt; None without held-out prompts.
    """
    texts = [*yard.train, *held_out]
    modes = [completion.mode for completion in yard.base_completions]
    count = sum(mode in yard.setting.modes.behaviours for mode in modes)
    rows = []
    for numbers, completions, vector in zip(
        divergences(yard, vectors), complete(yard.setting, texts, vectors), vectors, strict=True
    ):
        train, rest = completions[: len(modes)], completions[len(modes) :]
        same = yard.setting.modes.same
        repeats = [same(completion.mode, mode) for completion, mode in zip(train, modes, strict=True)]
        away = [same(completion.mode, modes[0]) for completion in rest]
        rows.append(
            {
                "norm": float(vector.norm()),
                **numbers,
                "mode": train[0].mode,
                "keeps": repeats[0],
                "text": train[0].text,
                "ids": list(train[0].ids),
                "train_share": sum(repeats) / max(1, count),
                "transfer": sum(away) / len(away) if away else None,
                "transfer_modes": [completion.mode for completion in rest],
                "transfer_texts": [completion.text for completion in rest],
            }
        )
    return rows


def measure_graded(
    yard: Yardstick, vectors: Float[Tensor, "n d_model"], held_out: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """`measure`, and `posterior`: that of the base's behaviour on the first prompt, if the setting has its openings."""
    rows, behaviour = measure(yard, vectors, held_out), yard.base_completions[0].mode
    if behaviour not in yard.setting.openings:
        return rows
    posteriors = yard.posterior.of(behaviour, vectors).tolist()
    return [{**row, "posterior": value} for row, value in zip(rows, posteriors, strict=True)]

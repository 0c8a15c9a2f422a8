"""Whether what a model wrote under steering can be read: how probable the unsteered model finds it."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.model import Model, answer_logits, tokenize

CHUNK = 16  # rows whose logits are held at once


def mean_log_probability(
    model: Model, texts: Sequence[str], answers: Sequence[Sequence[int]], *, system: str | None = None
) -> Float[Tensor, " n"]:
    """Mean log p of an answer's tokens, in nats, under the unsteered model after its prompt; NaN without a token.

    Fluent answers have -1 to -2 whatever made the model write them, since only their first words surprise it; word
    salad has -5 and less. A loop is probable too: `behaviours.self_repetition` tells it.

    Args:
        model: the frozen model.
        texts: a prompt for each answer.
        answers: token ids.
        system: system message of every prompt.
    """
    pairs = [(text, tuple(answer)) for text, answer in zip(texts, answers, strict=True)]
    written = [pair for pair in dict.fromkeys(pairs) if pair[1]]  # weak vectors leave many answers as they were
    values = dict.fromkeys(pairs, math.nan)
    for start in range(0, len(written), CHUNK):
        chosen = written[start : start + CHUNK]
        prompts = tokenize(model, [text for text, _ in chosen], system=system, answers=[list(ids) for _, ids in chosen])
        tokens, real = (part[:, prompts.prompt_length :] for part in (prompts.tokens, prompts.mask))
        log_p = answer_logits(model, prompts).log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
        means = torch.where(real, log_p, 0.0).sum(-1) / real.sum(-1)
        values |= dict(zip(chosen, means.tolist(), strict=True))
    return torch.tensor([values[pair] for pair in pairs])

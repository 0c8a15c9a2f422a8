"""Whether what a model wrote under steering can be read: how probable the unsteered model finds it."""

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
    means = torch.full((len(texts),), torch.nan)
    written = [index for index, answer in enumerate(answers) if len(answer)]
    for start in range(0, len(written), CHUNK):
        chosen = written[start : start + CHUNK]
        prompts = tokenize(model, [texts[i] for i in chosen], system=system, answers=[answers[i] for i in chosen])
        tokens, real = (part[:, prompts.prompt_length :] for part in (prompts.tokens, prompts.mask))
        log_p = answer_logits(model, prompts).log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
        means[chosen] = (torch.where(real, log_p, 0.0).sum(-1) / real.sum(-1)).cpu()
    return means

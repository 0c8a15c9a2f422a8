"""Whether what a model wrote under steering can be read: how probable the unsteered model finds it."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.model import Model, branch_log_probs, tokenize


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
    if written:
        asked = list(dict.fromkeys(text for text, _ in written))
        owners, ids = [asked.index(text) for text, _ in written], [one for _, one in written]
        sums = branch_log_probs(model, tokenize(model, asked, system=system), owners, ids).sum(-1)
        values |= {pair: float(total) / len(pair[1]) for pair, total in zip(written, sums, strict=True)}
    return torch.tensor([values[pair] for pair in pairs])

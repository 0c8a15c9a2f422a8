"""Directions made of prompts rather than of steering vectors: what a supervised learner would take."""

from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.lab.bases import Base
from mi_ortho.model import ordinary_activations


def mean_difference(base: Base, count: int) -> Tensor | None:
    """Mean activation on prompts that ask for the base's behaviour minus that on prompts that ask for anything else.

    None where the model brings no prompts for the behaviour, or for nothing else.
    """
    subject = base.bench.subject
    texts = {name: subject.texts.natural[name] for name in subject.modes.names if subject.texts.natural.get(name)}
    if base.behaviour not in texts or len(texts) < 2:
        return None
    means = {name: mean_activation(base, each[:count]) for name, each in texts.items()}
    return means[base.behaviour] - torch.stack([one for name, one in means.items() if name != base.behaviour]).mean(0)


def mean_activation(base: Base, texts: Sequence[str]) -> Tensor:
    """Mean activation at the source over prompts and their positions, attention sinks left out."""
    return ordinary_activations(base.setting.model, base.setting.prompts(texts), base.setting.site).mean(0)


def cosine(first: Tensor, second: Tensor) -> float:
    """Cosine of two vectors."""
    return float(torch.nn.functional.cosine_similarity(first, second, dim=0))

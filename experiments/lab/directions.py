"""Directions made of prompts rather than of steering vectors: what a supervised learner would take."""

from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.lab.families import Case
from mi_ortho import resid_post
from mi_ortho.model import ordinary_activations


def mean_difference(case: Case, count: int) -> Tensor:
    """Mean activation on prompts that ask for the behaviour minus that on prompts that ask for anything else."""
    texts = case.bench.subject.texts.natural
    modes = [name for name in case.bench.subject.modes.names if name in texts]
    behaviour = case.setup.behaviour
    if behaviour not in modes or len(modes) < 2:
        raise ValueError(
            f"got {case.bench.subject.title} without prompts that ask for {behaviour!r} and for others; expected lists "
            "in prompts.json under modes; add them"
        )
    means = {name: mean_activation(case, texts[name][:count]) for name in modes}
    return means[behaviour] - torch.stack([value for name, value in means.items() if name != behaviour]).mean(0)


def mean_activation(case: Case, texts: Sequence[str]) -> Tensor:
    """Mean activation at the source over prompts and their positions."""
    prompts = case.setting.prompts(texts)
    site = resid_post(case.setup.source)
    return ordinary_activations(case.setting.model, prompts, site).mean(0)


def cosine(first: Tensor, second: Tensor) -> float:
    """Cosine of two vectors."""
    return float(torch.nn.functional.cosine_similarity(first, second, dim=0))

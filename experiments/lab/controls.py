"""Controls that every claim about a trained network needs: the same network without training, prompts without sense."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from experiments.lab.bench import Bench
from mi_ortho import open_subject
from mi_ortho.model import weights


@torch.no_grad()
def shuffled_weights(bench: Bench, seed: int = 0) -> Bench:
    """The same bench on a second copy of the network in which the entries of every weight matrix are shuffled.

    Sizes and norms of all matrices stay, everything learned is gone: what an untrained network of this shape does.
    """
    original = bench.subject
    subject = open_subject(original.name, device=str(original.device), dtype=original.dtype)
    generator = torch.Generator().manual_seed(seed)  # the same weights on every device
    for weight in weights(subject.model):
        if weight.ndim > 1:
            order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
            weight.copy_(weight.flatten()[order].view_as(weight))
    return replace(bench, subject=replace(subject, texts=original.texts))


def random_texts(bench: Bench, like: Sequence[str], generator: torch.Generator) -> tuple[str, ...]:
    """Prompts of random ordinary tokens, each as long as one of `like`."""
    tokenizer = bench.subject.model.tokenizer
    ordinary = [i for i in range(len(tokenizer)) if i not in set(tokenizer.all_special_ids)]
    texts = []
    for text in like:
        length = len(tokenizer.encode(text))
        picks = torch.randint(len(ordinary), (length,), generator=generator, device=generator.device)
        texts.append(tokenizer.decode([ordinary[pick] for pick in picks.tolist()]))
    return tuple(texts)

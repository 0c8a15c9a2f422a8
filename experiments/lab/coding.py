"""Code and English that the model wrote itself, read where vectors are added, to look for the vectors in."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from experiments.lab.bench import Bench
from mi_ortho.studies.presence import (
    CONTRASTS,
    Passage,
    Request,
    Stream,
    read_streams,
    real_passages,
    requests,
    write_passages,
)
from mi_ortho.studies.shared import Subject

TOKENS = 48  # of each passage
LEAST = 8  # passages of a group
HALF = 0.5  # of the base's effect: vectors with less are not looked for


def passages(bench: Bench, count: int, seed: int) -> list[Passage]:
    """What the model writes when asked for code, for English on the same topics, for others; real code and prose.

    Raises:
        ValueError: the model does not write enough code or English for a comparison.
    """
    subject = bench.subject
    questions = asked_for(subject, count, seed)
    answers = list(write_passages(subject.model, subject.modes, questions, 0, system=None, max_new_tokens=TOKENS))
    every = [*answers, *real_passages(subject.model, count, TOKENS, seed, len(questions))]
    for group in dict.fromkeys(name for pair in CONTRASTS.values() for name in pair):
        usable = sum(one.kept for one in every if one.group == group)
        if usable < LEAST:
            raise ValueError(
                f"got {usable} passages of group {group} written by {subject.title}; expected at least {LEAST}; ask "
                "for more with --set own=..., or take a model that writes code when asked"
            )
    return every


def asked_for(subject: Subject, count: int, seed: int) -> list[Request]:
    """So many requests for code, for English on the same topics and for others, of the model's own kind."""
    return requests(subject.texts.natural, count, seed)


def streams(
    bench: Bench, texts: Sequence[Passage], layer: int, vectors: Tensor, size: int, seed: int
) -> Mapping[tuple[int, str], Stream]:
    """The statistics of every group of passages at one layer."""
    return read_streams(
        bench.subject.model, texts, [layer], vectors, size=size, seed=seed, system=None, track=bench.track
    )


@torch.no_grad()
def working(vectors: Tensor, effect: Callable[[Tensor], Tensor]) -> Tensor:
    """The vectors with enough effect; all of them where fewer than two have it."""
    good = vectors[effect(vectors) >= HALF]
    return good if len(good) > 1 else vectors

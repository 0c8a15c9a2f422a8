"""Code and English that the model wrote itself, read where vectors are added, to look for vectors in."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from experiments.lab.bench import Bench
from mi_ortho.probes import null_sets
from mi_ortho.studies.presence import CONTRASTS, PRIMARY, Request, contrast, read_streams, requests, write_passages
from mi_ortho.studies.shared import Subject

TOKENS = 48  # of each passage
LEAST = 8  # passages of a group


@dataclass(frozen=True, eq=False)
class Written:
    """Activations at the tokens of passages, attention sinks left out.

    Attributes:
        rows: the activations.
        code: which are of code; the others are of English on the same topics.
        passages, topics: the number of each one's passage and topic.
        covariance: of all.
    """

    rows: Tensor
    code: Tensor
    passages: Tensor
    topics: Tensor
    covariance: Tensor

    def part(self, chosen: Tensor) -> "Written":
        """Only these rows."""
        labels = {"code": self.code[chosen], "passages": self.passages[chosen], "topics": self.topics[chosen]}
        return replace(self, rows=self.rows[chosen], **labels)

    def sets(self, n: int, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """So many random orthonormal sets of n vectors of each kind: isotropic, with the covariance, rotated."""
        return {kind: each.to(self.rows) for kind, each in null_sets(self.covariance, n, count, generator).items()}


def written(bench: Bench, count: int, seed: int, layer: int) -> Written:
    """What the model writes when asked for code, and for English on the same topics; topics that have both.

    Raises:
        ValueError: the model does not write enough code or English for a comparison.
    """
    subject = bench.subject
    asked = [one for one in asked_for(subject, count, seed) if one.group in CONTRASTS[PRIMARY]]
    texts = list(write_passages(subject.model, subject.modes, asked, 0, system=None, max_new_tokens=TOKENS))
    for group in CONTRASTS[PRIMARY]:
        usable = sum(one.kept for one in texts if one.group == group)
        if usable < LEAST:
            raise ValueError(
                f"got {usable} passages of group {group} written by {subject.title}; expected at least {LEAST}; ask "
                "for more with --set own=..., or take a model that writes code when asked"
            )
    every, nothing = count * TOKENS, torch.eye(bench.width, device=bench.device)[:1]
    streams = read_streams(
        subject.model, texts, [layer], nothing, size=every, seed=seed, system=None, track=bench.track
    )
    pair = contrast(streams, layer, PRIMARY, every)
    topic_of = torch.tensor([one.topic for one in texts])
    names = pair.passages.cpu()
    made = Written(pair.rows.cpu(), pair.labels.cpu(), names, topic_of[names], pair.pooled.covariance.cpu())
    both = torch.isin(made.topics, made.topics[made.code]) & torch.isin(made.topics, made.topics[~made.code])
    return made.part(both)


def asked_for(subject: Subject, count: int, seed: int) -> list[Request]:
    """So many requests for code, for English on the same topics and for others, of the model's own kind."""
    return requests(subject.texts.natural, count, seed)

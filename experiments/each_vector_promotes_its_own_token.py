"""Each vector promotes a token of its own: the family is a list of words that code can begin with.

Source: a comment on the post (each vector stands for one code token to be output soon); hypothesis H12.
Prediction: at the first token of the answer at least 0.5 of the vectors raise a different token most, and two vectors'
    changes of the logits have a mean cosine of at most 0.9.
Control: random orthogonal vectors of the same norms.
Refuted if: the interval of the share lies below 0.5, or that of the cosine above 0.9: all do the same to the tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Bench, Case, Ranking, Setup, at_least, at_most, bars, cases, column, needs, pick
from mi_ortho import Verdict, random_vectors
from mi_ortho.interventions import orthonormal_rows
from mi_ortho.multiplicity import pair_cosines
from mi_ortho.nulls import with_norms
from mi_ortho.stats import SIGNED_SCALE, UNIT_SCALE

DIFFERENT = 0.5
ALIKE = 0.9


@dataclass(frozen=True)
class Config(Setup):
    """Where to search."""


SMOKE = Config(cases=1, n=4, max_steps=10)
NEEDS = (needs.family,)


def run(config: Config, bench: Bench) -> None:
    """One row for each case and group."""
    tokenizer = bench.subject.model.tokenizer
    for case in cases(bench, config):
        vectors = case.family("kl").vectors
        directions = orthonormal_rows(random_vectors(len(vectors), len(case.base), 1.0, case.generator(19)))
        for group, rows in (("random", with_norms(directions, vectors.norm(dim=-1))), ("family", vectors)):
            if not bench.has(case=case.index, group=group):
                lifts = changes(case, rows)
                words = [tokenizer.decode([k]) for k in lifts.argmax(-1).unique().tolist()]
                bench.record(case=case.index, group=group, **examine(lifts), lens=lens(case, rows), tokens=words[:12])
        bench.track("case", case.index + 1, config.cases)


@torch.no_grad()
def changes(case: Case, vectors: Tensor) -> Tensor:
    """Change of the log-probabilities at the first token of the answer, mean over prompts: n x vocabulary."""
    z = case.yard.behaviour.z

    def first(theta: Tensor) -> Tensor:
        return z(theta)[:, :, 0].log_softmax(-1).mean(1)

    return torch.cat([first(part) for part in vectors.split(8)]) - first(torch.zeros_like(vectors[:1]))


@torch.no_grad()
def lens(case: Case, vectors: Tensor) -> float | None:
    """Share of different tokens most raised by the changes at the target, read with the unembedding."""
    try:
        unembedding = case.bench.unembedding()
    except ValueError:
        return None
    moved = case.z(vectors) - case.z(torch.zeros_like(vectors[:1]))
    return examine(moved.flatten(1, -2).mean(1) @ unembedding)["different"]


def examine(lifts: Tensor) -> dict[str, float]:
    """Share of different tokens that are raised most, and the mean cosine of the changes."""
    top = lifts.argmax(-1)
    return {
        "different": top.unique().numel() / len(top),
        "n": len(top),
        "cosine": float(pair_cosines(lifts - lifts.mean(-1, keepdim=True)).mean()),
    }


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Tokens and cosines."""
    family, random = pick(rows, group="family"), pick(rows, group="random")
    return [
        at_least(
            "The vectors raise different tokens",
            f"at least {DIFFERENT} of them a token of their own",
            "number of tokens that are raised most over the number of vectors; the control is random vectors",
            column(family, "different"),
            DIFFERENT,
            column(random, "different"),
            scale=UNIT_SCALE,
        ),
        at_most(
            "The vectors do different things to the tokens",
            f"mean cosine at most {ALIKE}",
            "mean cosine of two vectors' changes of the log-probabilities; the control is random vectors",
            column(family, "cosine"),
            ALIKE,
            column(random, "cosine"),
            scale=SIGNED_SCALE,
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """Shares and cosines."""
    drawings = []
    for name, title, limit in (
        ("different", "Tokens raised most, over vectors", DIFFERENT),
        ("lens", "The same at the target, by logit lens", None),
        ("cosine", "Mean cosine of the changes", ALIKE),
    ):
        groups = [
            (label, column(pick(rows, group=group), name), style)
            for group, label, style in (("family", "family", "value"), ("random", "random vectors", "control"))
        ]
        drawings.append(bars(title, "Means over bases.", groups, limit))
    return drawings

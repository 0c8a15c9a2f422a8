"""The divergence at the last prompt token ranks the vectors as the divergence along the whole answer does.

Source: the post measures KL at the last prompt token only, and its author later called it misleading; hypothesis H15.
Prediction: over the activation-matched family, the rank correlation between KL(base || vector) at the last prompt token
    and its mean over the rest of the base's answer is at least 0.95.
Control: the rank correlation between the even and the odd tokens of that rest: what a perfect measure could reach.
Refuted if: the interval of the correlation lies below 0.95 while that of the control does not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from experiments.lab import Bench, Case, Ranking, Setup, at_least, bars, cases, column, needs
from mi_ortho import Verdict
from mi_ortho.model import kl_divergence
from mi_ortho.stats import SIGNED_SCALE

AGREE = 0.95


@dataclass(frozen=True)
class Config(Setup):
    """Where to search."""


SMOKE = Config(cases=1, n=6, max_steps=10)
NEEDS = (needs.family,)


def run(config: Config, bench: Bench) -> None:
    """One row for each case."""
    for case in cases(bench, config):
        if not bench.has(case=case.index):
            vectors = case.family("activation").vectors
            bench.record(case=case.index, n=len(vectors), **examine(by_position(case, vectors)))
        bench.track("case", case.index + 1, config.cases)


@torch.no_grad()
def by_position(case: Case, vectors: Tensor) -> Tensor:
    """KL(base || vector) of every vector at every token of the base's answer, mean over prompts: n x answer."""
    goal = case.yard.behaviour
    batch, answer = case.yard.behaviour.z.real.shape  # pyright: ignore[reportAttributeAccessIssue]
    real = goal.real.view(batch, answer) > 0
    rows = []
    for part in vectors.split(8):
        logits = goal.z(part)
        target = goal.goal.view(batch, answer, -1).expand_as(logits)
        divergences = kl_divergence(p_logits=target, q_logits=logits)
        rows.append((divergences * real).sum(1) / real.sum(0).clamp_min(1))
    return torch.cat(rows)[:, real.any(0)]


def examine(divergences: Tensor) -> dict[str, float | None]:
    """Rank correlations of the first token with the rest, and of the two halves of the rest."""
    first, rest = divergences[:, 0], divergences[:, 1:]
    return {
        "last_token": correlation(first, rest.mean(1)),
        "halves": correlation(rest[:, ::2].mean(1), rest[:, 1::2].mean(1)),
    }


def correlation(first: Tensor, second: Tensor) -> float | None:
    """Spearman's rank correlation; None where one of the two is constant."""
    if len(first) < 3 or first.unique().numel() < 2 or second.unique().numel() < 2:
        return None
    return float(spearmanr(first.tolist(), second.tolist())[0])  # pyright: ignore[reportArgumentType]


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """The last prompt token against the rest of the answer."""
    return [
        at_least(
            "One token's divergence ranks the vectors as the whole answer's",
            f"rank correlation {AGREE}",
            "Spearman's correlation of KL at the last prompt token with its mean over the rest of the answer; "
            "the control is that between two halves of the rest",
            column(rows, "last_token"),
            AGREE,
            column(rows, "halves"),
            scale=SIGNED_SCALE,
        )
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """Both correlations."""
    groups = [
        ("last prompt token and the rest", column(rows, "last_token"), "value"),
        ("two halves of the rest", column(rows, "halves"), "control"),
    ]
    return [bars("Rank correlations of divergences", "Over the vectors of a family; means over bases.", groups, AGREE)]

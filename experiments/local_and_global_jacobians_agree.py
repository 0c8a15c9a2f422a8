"""The directions the next block is most sensitive to are those the whole rest of the network is most sensitive to.

Source: comments on local and global interaction bases, where going to the final layer "didn't change the results much".
Prediction: the top 16 right singular directions of the Jacobian to the next block and to the last block share at least
    0.1 more of their span (mean squared cosine of principal angles) than random subspaces do.
Control: the same share for the network with the entries of every weight matrix shuffled, and for random subspaces
    (k / d_model). The Jacobian to the end contains the next block's as a factor, so some overlap comes from that.
Refuted if: the interval of the excess lies below 0.1, or the trained network exceeds the shuffled one by less.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Bench, Ranking, at_least, column, interval_of, needs, pick, shuffled_weights
from mi_ortho import ActivationMap, Subspace, Verdict, jacobian
from mi_ortho.interventions import principal_angles
from mi_ortho.pages import Estimate

EXCESS = 0.1


@dataclass(frozen=True)
class Config:
    """Layers to look from, directions compared, prompts."""

    model: str | None = None
    sources: tuple[int, ...] = (1, 3, 5)
    k: int = 16
    prompts: int = 5


SMOKE = Config(sources=(1, 5), prompts=2)
NEEDS = (needs.blocks("sources", last=True), needs.prompts(lambda config: config.prompts))


def run(config: Config, bench: Bench) -> None:
    """One row for each network, layer and prompt."""
    last = bench.layers - 1
    bench.require_layers(*config.sources, last)
    texts = bench.texts(config.prompts)
    for network, subject in (("trained", bench), ("shuffled", shuffled_weights(bench))):
        for source in config.sources:
            for index, text in enumerate(texts):
                if not bench.has(network=network, source=source, prompt=index):
                    near, far = (subject.map((text,), source, target) for target in (source + 1, last))
                    row = examine(near, far, config.k, bench.device)
                    bench.record(network=network, source=source, prompt=index, text=text, **row)
            bench.track(f"{network}: layer", config.sources.index(source) + 1, len(config.sources))


def examine(near: ActivationMap, far: ActivationMap, k: int, device: str | torch.device = "cpu") -> dict[str, float]:
    """Share of the span of the top k input directions of two maps of the same vector, and what chance gives."""
    at = torch.zeros(near.d_model, device=device)
    one, two = (top_inputs(jacobian(z, at), k) for z in (near, far))
    share = float(principal_angles(one, two).cos().square().mean())
    return {"share": share, "chance": k / near.d_model, "excess": share - k / near.d_model}


def top_inputs(matrix: Tensor, k: int) -> Subspace:
    """The span of the k right singular vectors of largest singular value."""
    return Subspace(torch.linalg.svd(matrix, full_matrices=False).Vh[:k])


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """One verdict over all layers and prompts of the trained network."""
    trained, null = (column(pick(rows, network=network), "excess") for network in ("trained", "shuffled"))
    return [
        at_least(
            "Sensitive directions of the next block and of the whole rest overlap beyond chance",
            f"shared span at least {EXCESS} above that of random subspaces",
            "mean squared cosine of principal angles, minus k / d_model",
            trained,
            EXCESS,
            null,
            clusters=column(pick(rows, network="trained"), "prompt"),
        ),
        at_least(
            "Training makes them overlap, not the architecture",
            f"shared span at least {EXCESS} above that of the network with shuffled weights",
            "the same share, trained minus shuffled, paired by layer and prompt",
            [a - b for a, b in zip(trained, null)],
            EXCESS,
            null,
            clusters=column(pick(rows, network="trained"), "prompt"),
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """The excess by layer, trained and shuffled."""
    estimates = []
    for network, style in (("trained", "value"), ("shuffled", "control")):
        for source in dict.fromkeys(row["source"] for row in rows):
            values = column(pick(rows, network=network, source=source), "excess")
            if values:
                estimates.append(
                    Estimate(f"{network}, from block {source}", sum(values) / len(values), interval_of(values), style)
                )
    caption = "Shared span of adjacent and final Jacobian beyond chance; prompts are the replicates; dashed: threshold."
    return [
        Ranking(
            "Overlap of local and global sensitive directions", caption, tuple(estimates), EXCESS, "share beyond chance"
        )
    ]

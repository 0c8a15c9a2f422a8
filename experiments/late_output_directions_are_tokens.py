"""The output directions of a slice are single tokens, and the more so the later the layer they are read at.

Source: comment on deep causal transcoding that its output directions merely weigh tokens up or down, depending on the
    layer.
Prediction: over target layers, the excess kurtosis of the unembedded top output directions rises with depth (rank
    correlation at least 0.5), and at the last layer exceeds that of random directions by at least 1.
Control: random unit directions, drawn anew for every layer: their rank correlation with depth.
Refuted if: the interval of the rank correlation lies below 0.5, or the last layer's kurtosis is that of random ones.
Changed after a first run: 16 prompts instead of 6, since the first run left intervals too wide to decide. The
    thresholds were not changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from experiments.lab import Bench, Lines, at_least, needs, pick
from mi_ortho import Verdict, jacobian, random_vectors
from mi_ortho.nulls import CONTROLS
from mi_ortho.pages import Panel, Series
from mi_ortho.stats import SIGNED_SCALE

TREND = 0.5
ABOVE = 1.0  # of excess kurtosis: 0 for a normal distribution over tokens


@dataclass(frozen=True)
class Config:
    """The layer vectors are added at, output directions a map, prompts."""

    model: str | None = None
    source: int = 1
    k: int = 8
    prompts: int = 16
    seed: int = 0


SMOKE = Config(k=4, prompts=2)
NEEDS = (needs.blocks("source", last=True), needs.prompts(lambda config: config.prompts))


def run(config: Config, bench: Bench) -> None:
    """One row for each prompt and target layer."""
    targets = range(config.source + 1, bench.layers)
    bench.require_layers(config.source, targets[-1])
    unembedding = bench.unembedding()
    for index, text in enumerate(bench.texts(config.prompts)):
        for target in targets:
            if not bench.has(prompt=index, target=target):
                z = bench.map((text,), config.source, target, readout=1)
                outputs = top_outputs(jacobian(z, torch.zeros(z.d_model, device=bench.device)), config.k)
                stream = bench.generator(config.seed * 1009 + index * 53 + target)
                bench.record(prompt=index, target=target, **examine(outputs, unembedding, stream))
        bench.track("prompt", index + 1, config.prompts)


def top_outputs(matrix: Tensor, k: int) -> Tensor:
    """The k left singular vectors of largest singular value, as rows."""
    return torch.linalg.svd(matrix, full_matrices=False).U[:, :k].mT


def examine(outputs: Tensor, unembedding: Tensor, generator: torch.Generator) -> dict[str, float]:
    """Mean excess kurtosis over the vocabulary of what output directions do to the logits, and of random directions."""
    random = random_vectors(len(outputs), outputs.shape[1], 1.0, generator)
    return {"kurtosis": peakedness(outputs @ unembedding), "random": peakedness(random @ unembedding)}


def peakedness(logits: Tensor) -> float:
    """Mean over rows of the excess kurtosis: large where few tokens stand out."""
    centred = logits.double() - logits.double().mean(-1, keepdim=True)
    square = centred.square()
    return float((square.square().mean(-1) / square.mean(-1).square() - 3).mean())


def trends(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """Rank correlation of one column with depth, one value a prompt."""
    prompts = dict.fromkeys(row["prompt"] for row in rows)
    parts = [pick(rows, prompt=prompt) for prompt in prompts]
    ranked = [spearmanr([row["target"] for row in one], [row[name] for row in one]) for one in parts if len(one) > 2]
    return [float(one.statistic) for one in ranked]  # pyright: ignore[reportAttributeAccessIssue]


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """The trend with depth, and the last layer against chance."""
    last = pick(rows, target=max((row["target"] for row in rows), default=None))
    return [
        at_least(
            "Output directions become more like tokens with depth",
            f"rank correlation at least {TREND}",
            "Spearman's correlation of target layer and excess kurtosis, one value a prompt",
            trends(rows, "kurtosis"),
            TREND,
            trends(rows, "random"),
            scale=SIGNED_SCALE,
        ),
        at_least(
            "At the last layer they stand out more than random directions",
            f"kurtosis at least {ABOVE} larger",
            "excess kurtosis minus that of random directions, last layer, one value a prompt",
            [row["kurtosis"] - row["random"] for row in last],
            ABOVE,
            [row["random"] for row in last],
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Lines]:
    """Kurtosis by target layer."""
    targets = sorted({row["target"] for row in rows})
    mean = {
        name: [fmean(row[name] for row in pick(rows, target=t)) for t in targets] for name in ("kurtosis", "random")
    }
    series = (
        Series("top output directions", targets, mean["kurtosis"], "family", "outputs"),
        Series(CONTROLS["random"].label, targets, mean["random"], CONTROLS["random"].colour, "random"),
    )
    caption = "Excess kurtosis over the vocabulary of the logits that a direction writes; means over prompts."
    return [Lines(caption, Panel("How much few tokens stand out", "excess kurtosis", "target layer"), series)]

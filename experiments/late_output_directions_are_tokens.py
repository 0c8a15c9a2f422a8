"""Are the output directions of a slice single tokens, and the more so the later the layer they are read at?

Source: comment on deep causal transcoding that its output directions merely weigh tokens up or down, depending on the
    layer.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Bench, Lines, Reading, column, needs, pick, rank_correlation
from mi_ortho import jacobian, random_vectors
from mi_ortho.nulls import CONTROLS
from mi_ortho.pages import Panel, Series


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
    """Mean excess kurtosis over the vocabulary of what output directions do to the logits, and of two random sets."""
    sets = [random_vectors(len(outputs), outputs.shape[1], 1.0, generator) for _ in range(2)]
    names = ("kurtosis", "random", "other_random")
    return {name: peakedness(each @ unembedding) for name, each in zip(names, (outputs, *sets))}


def peakedness(logits: Tensor) -> float:
    """Mean over rows of the excess kurtosis: large where few tokens stand out."""
    centred = logits.double() - logits.double().mean(-1, keepdim=True)
    square = centred.square()
    return float((square.square().mean(-1) / square.mean(-1).square() - 3).mean())


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """For each prompt the trend with depth, and the last layer's excess over random directions."""
    last = max((row["target"] for row in rows), default=None)
    for prompt in dict.fromkeys(row["prompt"] for row in rows):
        part = pick(rows, prompt=prompt)
        depths = [row["target"] for row in part]
        trend, control = (rank_correlation(depths, column(part, name)) for name in ("kurtosis", "random"))
        yield Reading("trend", trend, control, {"prompt": prompt})
        for row in pick(part, target=last):
            excess, control = (row[name] - row["random"] for name in ("kurtosis", "other_random"))
            yield Reading("last", excess, control, {"prompt": prompt})


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

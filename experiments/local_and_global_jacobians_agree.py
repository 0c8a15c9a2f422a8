"""Is the next block most sensitive to the same directions as the whole rest of the network?

Source: comments on local and global interaction bases, where going to the final layer "didn't change the results much".
    The Jacobian to the end contains the next block's as a factor, so some overlap comes from that: the network with
    shuffled weights has it, too.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Bench, Ranking, Reading, bars, column, needs, pick, shuffled_weights
from mi_ortho import ActivationMap, Subspace, jacobian, random_vectors
from mi_ortho.interventions import principal_angles, span


@dataclass(frozen=True)
class Config:
    """Layers to look from, directions compared, prompts."""

    model: str | None = None
    sources: tuple[int, ...] = (1, 3, 5)
    k: int = 16
    prompts: int = 12


SMOKE = Config(sources=(1, 5), prompts=2)
NEEDS = (needs.blocks("sources", last=True), needs.prompts(lambda config: config.prompts))


def run(config: Config, bench: Bench) -> None:
    """One row for each network, layer and prompt."""
    last = bench.layers - 1
    bench.require_layers(*config.sources, last)
    texts = bench.texts(config.prompts)
    networks = {"trained": bench} | {f"shuffled{k}": shuffled_weights(bench, seed=int(k or 0)) for k in ("", "1")}
    for network, subject in networks.items():
        for source in config.sources:
            for index, text in enumerate(texts):
                if not bench.has(network=network, source=source, prompt=index):
                    near, far = (subject.map((text,), source, target) for target in (source + 1, last))
                    row = examine(near, far, config.k, bench.generator(101 * source + index))
                    bench.record(network=network, source=source, prompt=index, text=text, **row)
            bench.track(f"{network}: layer", config.sources.index(source) + 1, len(config.sources))


def examine(near: ActivationMap, far: ActivationMap, k: int, generator: torch.Generator) -> dict[str, float]:
    """Share of the span of the top k input directions of two maps of the same vector, and of the first with a random
    subspace, both beyond chance (k / d_model)."""
    at = torch.zeros(near.d_model, device=generator.device)
    one, two = (top_inputs(jacobian(z, at), k) for z in (near, far))
    random = span(random_vectors(k, near.d_model, 1.0, generator))
    shares = (float(principal_angles(one, other).cos().square().mean()) for other in (two, random))
    return {name: share - k / near.d_model for name, share in zip(("excess", "random"), shares)}


def top_inputs(matrix: Tensor, k: int) -> Subspace:
    """The span of the k right singular vectors of largest singular value."""
    return Subspace(torch.linalg.svd(matrix, full_matrices=False).Vh[:k])


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """For each prompt and layer the shared span beyond chance, beside random subspaces and shuffled networks."""
    excess = {(row["network"], row["source"], row["prompt"]): row["excess"] for row in rows}
    for row in pick(rows, network="trained"):
        unit, place = {"prompt": row["prompt"]}, (row["source"], row["prompt"])
        yield Reading("chance", row["excess"], row["random"], unit)
        shuffled, again = (excess.get((network, *place)) for network in ("shuffled", "shuffled1"))
        if shuffled is not None and again is not None:
            yield Reading("training", row["excess"] - shuffled, again - shuffled, unit)


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """The excess by layer, trained and shuffled."""
    groups = [
        (f"{network}, from block {source}", column(pick(rows, network=network, source=source), "excess"), style)
        for network, style in (("trained", "value"), ("shuffled", "control"))
        for source in dict.fromkeys(row["source"] for row in rows)
    ]
    caption = "Shared span of adjacent and final Jacobian beyond chance; means over prompts with 95 % intervals."
    return [bars("Overlap of local and global sensitive directions", caption, groups, None, "share beyond chance")]

"""Do many input directions share few effects: do the outputs of factors span less than their inputs?

Source: comment on deep causal transcoding about its multiplicity analysis: multiplicity of outputs against that of
    inputs of exponential factors, found with the published iteration, whose inputs are not orthonormal.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Bench, Place, Reading, as_far, change, needs, unbased
from mi_ortho import ActivationMap
from mi_ortho.dct import published_exponential_dct
from mi_ortho.model import shipped_prompts
from mi_ortho.multiplicity import multiplicity_of
from mi_ortho.nulls import random_cone, with_norms


@dataclass(frozen=True)
class Config(Place):
    """Where to steer, at which norm, factors of a prompt, iterations, and shipped prompts, each by itself."""

    k: int = 24
    steps: int = 6
    prompts: int = 12


SMOKE = Config(k=6, steps=2, prompts=2)
NEEDS = (needs.blocks("source", "target"),)


def run(config: Config, bench: Bench) -> None:
    """One row for each prompt; the last three positions are read, as published."""
    texts = shipped_prompts("harmless").instructions[: config.prompts]
    for index, text in enumerate(texts):
        if not bench.has(prompt=index):
            home = replace(unbased(bench, replace(config, readout="3"), (text,)), index=index)
            options = {"radius": config.radius, "generator": home.generator(0), "steps": config.steps}
            inputs = published_exponential_dct(home.z, config.k, **options).inputs
            bench.record(prompt=index, text=text, **examine(home.z, config.radius * inputs, home.generator(1)))
        bench.track("prompt", index + 1, len(texts))


def examine(z: ActivationMap, vectors: Tensor, generator: torch.Generator) -> dict[str, float]:
    """Effective rank of effects over that of vectors, and mean displacement: of these vectors and of random ones.

    Those have the same mean |cosine|, and the same norms or the same displacements.
    """
    cone = random_cone(len(vectors), vectors.shape[1], multiplicity_of(vectors).mean_cosine, generator)
    random = with_norms(cone.to(vectors), vectors.norm(dim=-1))
    far = as_far(z, random, change(z, vectors).norm(dim=-1))
    row: dict[str, float] = {}
    for name, family in (("factors", vectors), ("random", random), ("far", far)):
        effects = change(z, family)
        row[name] = multiplicity_of(effects).effective_rank / multiplicity_of(family).effective_rank
        row[f"{name}_moved"] = float(effects.norm(dim=-1).mean())
    return row


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """The ratio of factors against that of random families of their norms, and of their displacements."""
    for row in rows:
        if "factors" in row:
            near, far = sorted((row["factors_moved"], row["far_moved"]))
            gates = {"strong": row["factors_moved"] / row["random_moved"], "displacement": far / near}
            for key, control in (("repeat", "random"), ("far", "far")):
                yield Reading(key, row["factors"], row[control], {"prompt": row["prompt"]}, gates)

"""Do correct factors change behaviour more often than those of the published linear and quadratic code?

Source: deep causal transcoding, whose published linear method takes columns of the matrix whose rows are the singular
    directions, and whose quadratic method never takes a second derivative; it ranks exponential above both.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Base, Bench, Place, Ranking, Reading, bars, column, needs, unbased
from experiments.lab.bases import at_all_positions
from mi_ortho import displace, melbo, random_vectors, resid_post, slice_model
from mi_ortho.dct import (
    Factors,
    exponential_dct,
    linear_dct,
    published_linear_dct,
    published_quadratic_dct,
    quadratic_dct,
)
from mi_ortho.interventions import orthonormal_rows
from mi_ortho.steering import complete, unsteered_completions

READ = 3  # last positions of the target
METHODS: Mapping[str, Callable[..., Factors]] = {
    "linear": linear_dct,
    "quadratic": quadratic_dct,
    "exponential": exponential_dct,
    "published linear": published_linear_dct,
    "published quadratic": published_quadratic_dct,
}


@dataclass(frozen=True)
class Config(Place):
    """Where to steer; factors a method, prompts they are made on, at most, and others they are tried on."""

    k: int = 6
    prompts: int = 12
    held_out: int = 2


SMOKE = Config(k=2, prompts=2, held_out=1)
NEEDS = (needs.blocks("source", "target"), needs.prompts(lambda config: config.held_out + 1))


def run(config: Config, bench: Bench) -> None:
    """One row for each prompt that factors are made on; they are tried on those that follow it, MELBO vectors on it."""
    texts = tuple(dict.fromkeys([*bench.subject.texts.train, *bench.subject.texts.held_out]))
    units = texts[: config.prompts]
    for index, text in enumerate(units):
        if not bench.has(prompt=index):
            case = replace(unbased(bench, config, (text,)), index=index)
            setting, target = case.setting, resid_post(config.target)
            ends = {"source": setting.site, "target": target, "readout": READ, "where": setting.where}
            z = slice_model(setting.model, setting.prompts((text,)), **ends)
            others = [texts[(index + k) % len(texts)] for k in range(1, config.held_out + 1)]
            shares = examine(replace(case, z=z), config.k, turned(case, others))
            options = {"radius": config.radius, "n": config.k, "generator": case.generator(1), "max_steps": 10}
            results = melbo(displace(at_all_positions(case)), **options)
            sure = turned(case, [text])(torch.stack([one.vector for one in results]))
            bench.record(prompt=index, text=text, melbo=sure, **shares)
        bench.track("prompt", index + 1, len(units))


def turned(case: Base, texts: Sequence[str]) -> Callable[[Tensor], float]:
    """Vectors, in both directions, to the share of completions with a behaviour other than the unsteered one."""
    setting, names = case.setting, case.setting.modes.behaviours
    plain = [done.mode for done in unsteered_completions(setting, texts, case.z.d_model, case.bench.device)]

    def share(vectors: Tensor) -> float:
        rows = complete(setting, list(texts), torch.cat([vectors, -vectors]))
        return fmean(one.mode != mode and one.mode in names for row in rows for one, mode in zip(row, plain))

    return share


def examine(case: Base, k: int, score: Callable[[Tensor], float]) -> dict[str, float]:
    """The score of k factors of every method, and of random vectors, as long and as far displaced."""
    radius, generator = case.place.radius, case.generator(0)
    sets = {name: method(case.z, k, radius=radius, generator=generator).vectors for name, method in METHODS.items()}
    sets["random"] = radius * orthonormal_rows(random_vectors(k, case.z.d_model, 1.0, generator))
    sets["displaced"] = replace(case, vector=sets["linear"][0]).displaced(k, 23)
    return {name: score(vectors) for name, vectors in sets.items()}


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """Each method beyond another, beside the published one or random vectors beyond the same."""
    for row in rows:
        gates = {"sensitive": row["melbo"], "specific": row["random"] / row["melbo"] if row["melbo"] else 1.0}
        for key, one, other, than in (
            ("linear", "linear", "published linear", "random"),
            ("displaced", "linear", "displaced", "random"),
            ("exponential", "exponential", "random", "linear"),
            ("quadratic", "quadratic", "random", "published quadratic"),
        ):
            yield Reading(key, row[one] - row[than], row[other] - row[than], {"prompt": row["prompt"]}, gates)


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """The share of every method."""
    controls = ("random", "displaced", "published linear", "published quadratic")
    names = (*METHODS, "random", "displaced")
    groups = [(name, column(rows, name), "control" if name in controls else "value") for name in names]
    caption = "Share of completions of other prompts that turn into another behaviour; means over prompts."
    return [bars("Behaviour changed by the factors of each method", caption, groups, unit="share")] if rows else []

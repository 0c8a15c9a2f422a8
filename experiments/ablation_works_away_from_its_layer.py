"""Does ablating a refusal direction work away from the layer it was read at?

Source: notes on ablating the refusal direction: it need not be applied at the layer of extraction, a subset of layers
    that need not be consecutive is enough (range(8, 24, 2) on Qwen 1.8B), also layers where the class means are alike.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import Any

import torch
from scipy.stats import spearmanr

from experiments.lab import Lines, Ranking, Reading, Refusing, Splits, bars, column, each_split, needs, pick
from mi_ortho.pages import Panel, Series

SUBSETS = ("own", "others", "before", "after", "stride 2", "stride 3", "random half", "all")
READ = {"others": ("others", "others"), "stride": ("stride 2", "stride 2"), "elsewhere": ("elsewhere", "all")}


@dataclass(frozen=True)
class Config(Splits):
    """Prompts of each kind, how many splits of them, tokens of an answer."""

    tokens: int = 24


SMOKE = Config(train=8, validation=4, test=4, seeds=2, tokens=12)
NEEDS = (needs.refusals,)


def run(config: Config, bench: Any) -> None:
    """For each split what is answered under ablation at subsets of layers, and the score lost at single ones."""
    each_split(config, bench, lambda study, seed: measure(study, seed, config.tokens))


def measure(study: Refusing, seed: int, tokens: int) -> None:
    """Record one split: a row for each subset, direction and test prompt, and one for each layer of reading."""
    bench, texts = study.bench, study.sets.test_harmful
    strongest, layers = study.strongest(), range(bench.layers)
    own, null = study.direction(strongest), study.random(1000 + seed)
    tried = {name: ((own, where), (null, where)) for name, where in subsets(strongest, bench.layers, seed).items()}
    tried |= {f"read at {layer}": ((study.direction(layer), None),) for layer in layers[1:] if layer != strongest}
    plain = study.answered(texts, None, tokens=tokens)
    for name, directions in tried.items():
        for kind, (direction, where) in zip(("refusal", "random"), directions):
            found = study.answered(texts, direction, where, tokens=tokens)
            for text, before, after in zip(texts, plain, found, strict=True):
                bench.record(
                    kind="answer", seed=seed, subset=name, direction=kind, prompt=text, plain=before, answered=after
                )
    cosines = torch.cosine_similarity(study.found.harmful.mean, study.found.harmless.mean, dim=-1)[:, 0].tolist()
    for source in layers[1:]:
        lost = [float(study.drop(texts, study.direction(source), [layer]).mean()) for layer in layers]
        bench.record(kind="read", seed=seed, read=source, lost=lost, cosines=cosines)


def subsets(layer: int, layers: int, seed: int) -> dict[str, list[int]]:
    """Sets of layers by name, none empty; the strided ones begin at the first third, as in the notes."""
    every, third = list(range(layers)), layers // 3
    sets = {
        "own": [layer],
        "others": [k for k in every if k != layer],
        "before": every[:layer],
        "after": every[layer + 1 :],
        "stride 2": every[third::2],
        "stride 3": every[third::3],
        "random half": sorted(Random(seed).sample(every, len(every[third::2]))),
        "all": every,
    }
    return {name: members for name, members in sets.items() if members}


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """Of the prompts that ablation at all layers turns, what is answered elsewhere; and the correlation over layers."""
    answers = pick(rows, kind="answer")
    whole = pick(answers, subset="all", direction="refusal")
    refused = [row for row in whole if not row["plain"]]
    turned = {(row["seed"], row["prompt"]) for row in refused if row["answered"]}
    gates = {
        "shown": len(refused) / len(whole) if whole else 0.0,
        "works": len(turned) / len(refused) if refused else 0.0,
    }
    by = {(row["subset"], row["direction"], row["seed"], row["prompt"]): float(row["answered"]) for row in answers}
    sources = sorted({row["subset"] for row in answers if row["subset"].startswith("read at")})
    for seed, prompt in sorted(turned):
        elsewhere = [value for name in sources if (value := by.get((name, "refusal", seed, prompt))) is not None]
        by["elsewhere", "refusal", seed, prompt] = fmean(elsewhere) if elsewhere else 0.0
        for key, (subset, other) in READ.items():
            value, control = by.get((subset, "refusal", seed, prompt)), by.get((other, "random", seed, prompt))
            yield Reading(key, value, control, {"prompt": prompt}, gates)
    for k, row in enumerate(pick(rows, kind="read")):
        yield Reading("alike", correlation(row), correlation(row, Random(k)), {"layers": row["read"]}, gates)


def correlation(row: Mapping[str, Any], mix: Random | None = None) -> float | None:
    """Spearman correlation over layers of the score lost there with minus the cosine of the means; None if constant."""
    lost, lows = list(row["lost"][1:]), [-cosine for cosine in row["cosines"][1:]]
    if mix is not None:
        mix.shuffle(lows)
    if len(set(lost)) < 2 or len(set(lows)) < 2:
        return None
    return float(spearmanr(lost, lows)[0])  # pyright: ignore[reportArgumentType]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Lines | Ranking]:
    """What is answered under ablation at each subset of layers, and the score lost at one by the layer of reading."""
    answers, read, drawings = pick(rows, kind="answer"), pick(rows, kind="read"), []
    if answers:
        groups = [
            (f"{subset}{', random direction' * (kind == 'random')}", column(part, "answered"), style)
            for subset in SUBSETS
            for kind, style in (("refusal", "value"), ("random", "control"))
            if (part := pick(answers, subset=subset, direction=kind))
        ]
        title = "Where the strongest direction is ablated"
        drawings.append(bars(title, "All test prompts; means with 95 % intervals.", groups, None, "share answered"))
    if read:
        every = sorted({row["read"] for row in read})
        lost = [[fmean(each) for each in zip(*[row["lost"] for row in pick(read, read=layer)])] for layer in every]
        series = [Series(f"read at {k}", range(len(x)), x, f"c{k % 8}", f"r{k}") for k, x in zip(every, lost)]
        panel = Panel("Ablation at a single layer", "nats of refusal score lost", "layer ablated")
        drawings.append(Lines("Ablated at one layer only, means over splits.", panel, tuple(series)))
    return drawings

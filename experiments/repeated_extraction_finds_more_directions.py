"""Does extracting a refusal direction again, with the first one ablated, find a second direction that matters?

Source: notes on a model that refuses in another way after ablation: extracting and ablating more than once might find
    several directions (M).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from experiments.lab import (
    Lines,
    Reading,
    Refusing,
    Splits,
    Total,
    answers_of,
    each_split,
    measured_in,
    needs,
    over_prompts,
    overlapping,
    pick,
)
from mi_ortho import resid_pre
from mi_ortho.pages import Panel, Series
from mi_ortho.refusal import ablate_everywhere, activations, extract_again, null_space_rounds
from mi_ortho.stats import Measured

METHODS = {"extracted": "family", "probes": "c1", "random": "null"}
Classes = tuple[Sequence[str], Sequence[str]]


@dataclass(frozen=True)
class Config(Splits):
    """Prompts of each kind, splits of them, rounds, tokens of an answer."""

    train: int = 32
    test: int = 12
    rounds: int = 3
    tokens: int = 24


SMOKE = Config(train=8, validation=4, test=4, seeds=2, rounds=2, tokens=12)
NEEDS = (needs.refusals,)


def run(config: Config, bench: Any) -> None:
    """For each split what is answered under rounds by three methods, and whether halves of the prompts agree."""
    each_split(config, bench, lambda study, seed: measure(study, seed, config.rounds, config.tokens))


def measure(study: Refusing, seed: int, rounds: int, tokens: int) -> None:
    """Record one split, at the layer whose first direction lowers the refusal score of validation prompts most."""
    layer, sets, bench = study.strongest(), study.sets, study.bench
    whole = (sets.train_harmful, sets.train_harmless)
    gaussian = torch.randn(rounds, bench.width, generator=bench.generator(4000 + seed), device=bench.device)
    by_method = {
        "extracted": extracted(study, whole, layer, rounds),
        "probes": probes(study, layer, rounds),
        "random": torch.nn.functional.normalize(gaussian, dim=-1),
    }
    first, ways = by_method["extracted"][0], {}
    for method, directions in by_method.items():
        for k, direction in enumerate(directions, 1):
            ways |= {f"{method} {k} alone": direction, f"{method} {k} together": directions[:k]}
        ways[f"first and {method}"] = torch.stack([first, directions[1]])
    study.record_answers(seed, ways, sets.test_harmful, tokens=tokens)
    for labels, classes in {"true": whole, "shuffled": shuffled(*whole, seed)}.items():
        halves = [again(study, (classes[0][k::2], classes[1][k::2]), layer) for k in range(2)]
        bench.record(kind="halves", seed=seed, labels=labels, cosine=asdict(agreement(halves, seed)))


def extracted(study: Refusing, classes: Classes, layer: int, rounds: int) -> Tensor:
    """Unit directions of rounds of extraction at the last token of a layer's input, earlier ones ablated everywhere."""
    checked, site = study.sets.validation_harmful[:1], resid_pre(layer)  # the scores of the rounds are not used here
    options = {"rounds": rounds, "positions": (-1,)}
    each = extract_again(study.model, *classes, checked, study.tokens, [site], lambda _: (site, -1), **options)
    return torch.stack([one.direction for one in each])


def probes(study: Refusing, layer: int, rounds: int) -> Tensor:
    """Unit directions of linear probes at the same place, each fitted with the earlier ones projected out."""
    sets, sites = study.sets, [resid_pre(layer)]
    parts = [
        activations(study.model, texts, sites, [-1])[:, 0, 0]
        for texts in (sets.train_harmful, sets.train_harmless, sets.validation_harmful, sets.validation_harmless)
    ]
    return torch.stack(
        [one.direction for one in null_space_rounds(parts[0], parts[1], (parts[2], parts[3]), rounds=rounds)]
    )


def again(study: Refusing, classes: Classes, layer: int) -> tuple[Tensor, Tensor]:
    """States of both classes at the last token of a layer's input, the first direction of these prompts ablated."""
    changed = ablate_everywhere(study.model, extracted(study, classes, layer, 1)[0])
    sites = [resid_pre(layer)]
    one, two = (activations(study.model, each, sites, [-1], interventions=changed)[:, 0, 0].cpu() for each in classes)
    return one, two


def agreement(halves: Sequence[tuple[Tensor, Tensor]], seed: int) -> Measured:
    """Cosine between the differences of class means of two halves, over resamplings of the prompts of each class."""
    places = [(half, kind, k) for half in range(2) for kind in range(2) for k in range(len(halves[half][kind]))]

    def cosine(drawn: Sequence[tuple[int, int, int]], _: int) -> float | None:
        rows = [[[k for h, c, k in drawn if (h, c) == (half, kind)] for kind in range(2)] for half in range(2)]
        if not all(part for each in rows for part in each):
            return None
        one, two = (states[0][a].mean(0) - states[1][b].mean(0) for states, (a, b) in zip(halves, rows))
        return float(torch.cosine_similarity(one, two, dim=0))

    return over_prompts(places, cosine, seed=seed)


def shuffled(harmful: Sequence[str], harmless: Sequence[str], seed: int) -> Classes:
    """The same prompts with labels at random."""
    mixed = Random(seed).sample([*harmful, *harmless], len(harmful) + len(harmless))
    return mixed[: len(harmful)], mixed[len(harmful) :]


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading | Total]:
    """Whether halves agree on the second direction, what it turns alone, and what it turns beside the first."""
    answers, halves = answers_of(rows), pick(rows, kind="halves")
    gates = answers.gates("extracted 1 alone", "random 1 alone")
    gates["room"] = 1.0 - gates["works"]
    if halves:
        value, control = (
            overlapping([measured_in(row["cosine"]) for row in pick(halves, labels=labels)])
            for labels in ("true", "shuffled")
        )
        yield Total("second", value, control, gates)
    alone = ("extracted 2 alone",), ("random 2 alone",)
    yield from answers.readings("alone", answers.turned("extracted 1 alone"), *alone, gates)
    for case in answers.refused():
        before, value, control = (
            answers.share(case, way) for way in ("extracted 1 alone", "first and extracted", "first and random")
        )
        if before is not None and value is not None and control is not None:
            yield Reading("more", value - before, control - before, {"prompt": answers.prompts[case]}, gates)


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Lines]:
    """What is answered under each round alone, and under all rounds so far, by method."""
    answers, drawings = answers_of(rows), []
    for name, title in (("alone", "Each round's direction alone"), ("together", "All rounds so far")):
        series = []
        for method, style in METHODS.items():
            shares = [values for k in range(1, 9) if (values := answers.every(f"{method} {k} {name}"))]
            numbers = range(1, len(shares) + 1)
            series += [Series(method, numbers, [fmean(each) for each in shares], style, method)] if shares else []
        panel = Panel(title, "share of harmful prompts answered", "round")
        drawings += [Lines("Ablated everywhere; means over test prompts and splits.", panel, tuple(series))] * bool(
            series
        )
    return drawings

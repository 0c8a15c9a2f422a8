"""Do simple statistics of a layer tell where to read the refusal direction?

Source: notes on choosing the intervention layer: low mean variance of each class first, then low largest variance, then
    low cosine of the class means (D).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from random import Random
from statistics import fmean
from typing import Any

import numpy as np

from experiments.lab import (
    Ranking,
    Reading,
    Refusing,
    Splits,
    Total,
    answers_of,
    bars,
    each_split,
    needs,
    over_prompts,
    pick,
    rank_correlation,
)
from mi_ortho.refusal import (
    HIGHER_IS_BETTER,
    candidates,
    difference_of_means,
    instruction_suffix,
    ranking_scores,
    residual_sites,
    validation,
)
from mi_ortho.stats import average

NOTES = ("mean_variance", "max_variance", "cosine")


@dataclass(frozen=True)
class Config(Splits):
    """Prompts of each kind, splits, positions from the end that are candidates, random places, tokens of an answer."""

    validation: int = 12
    positions: int = 4
    random: int = 4
    tokens: int = 24


SMOKE = Config(train=8, validation=4, test=2, seeds=2, positions=1, random=2, tokens=12)
NEEDS = (needs.refusals, needs.template)


def run(config: Config, bench: Any) -> None:
    """For each split the scores of all places, and what is answered under the directions of some."""
    each_split(config, bench, lambda study, seed: measure(study, seed, config))


def measure(study: Refusing, seed: int, config: Config) -> None:
    """Record one split: every statistic of every place, the refusal score of each validation prompt under ablation of
    its direction, and which test prompts are answered under the directions of the first, the best and random places."""
    sets, model = study.sets, study.model
    columns = instruction_suffix(model).positions[-config.positions :]
    extraction = difference_of_means(model, sets.train_harmful, sets.train_harmless, residual_sites(model), columns)
    judge = validation(model, sets.validation_harmful, sets.validation_harmless, study.tokens)
    places = list(candidates(judge, extraction))
    grids = ranking_scores(model, extraction, sets.validation_harmful, sets.validation_harmless)
    scores = {
        name: [value if HIGHER_IS_BETTER[name] else -value for value in grid.flatten().tolist()]
        for name, grid in grids.items()
    }
    usable = [k for k, place in enumerate(places) if isfinite(place.bypass) and isfinite(scores["mean_variance"][k])]
    directions = {k: extraction.direction(places[k].site, places[k].position) for k in usable}
    for name, values in scores.items():
        study.bench.record(kind="statistic", seed=seed, name=name, values=[values[k] for k in usable])
    lost = [(-study.ablated(sets.validation_harmful, directions[k])).tolist() for k in usable]
    for text, values in zip(sets.validation_harmful, zip(*lost), strict=True):
        study.bench.record(kind="places", seed=seed, prompt=text, lost=list(values))
    # places that pass the published filters; where none does, all with numbers
    allowed = [k for k in usable if not places[k].rejected] or usable
    ways = {f"first by {name}": directions[max(allowed, key=lambda k: scores[name][k])] for name in NOTES}
    ways["best"] = directions[min(allowed, key=lambda k: places[k].bypass)]
    chosen = Random(seed).sample(allowed, min(config.random, len(allowed)))
    ways |= {f"random {n}": directions[k] for n, k in enumerate(chosen)}
    study.record_answers(seed, ways, sets.test_harmful, tokens=config.tokens)


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading | Total]:
    """The rank correlation of each statistic with what the model itself loses, and what the first place turns."""
    answers, seeds = answers_of(rows), list(dict.fromkeys(row["seed"] for row in pick(rows, kind="places")))
    if not seeds:
        return
    lost = {seed: {r["prompt"]: r["lost"] for r in pick(rows, kind="places", seed=seed)} for seed in seeds}
    statistics = {(row["seed"], row["name"]): row["values"] for row in pick(rows, kind="statistic")}
    prompts = [prompt for each in lost.values() for prompt in each]
    gates = answers.gates("best") | {"reliable": reliability(lost) or 0.0}

    def correlation(name: str, labels: Sequence[str], order: int | None = None) -> float | None:
        """Mean over splits of that over places, from the prompts with these labels."""
        each = []
        for seed, losses in lost.items():
            if here := [losses[prompt] for prompt in labels if prompt in losses]:
                mix = None if order is None else 97 * order + seed
                each.append(rank_correlation(statistics[seed, name], np.mean(here, axis=0).tolist(), order=mix))
        return average(each)

    for name in NOTES:
        value = over_prompts(prompts, lambda labels, _, name=name: correlation(name, labels))
        control = over_prompts(prompts, lambda labels, draw, name=name: correlation(name, labels, draw))
        yield Total(name, value, control, gates)
    random = sorted(way for way in answers.by if way.startswith("random"))
    yield from answers.readings("first", answers.turned("best"), ["first by mean_variance"], random, gates)


def reliability(lost: Mapping[int, Mapping[str, Sequence[float]]]) -> float | None:
    """Mean over splits of the rank correlation over places between two halves of the validation prompts."""
    halves = [
        [np.mean(list(each.values())[k::2], axis=0).tolist() for k in range(2)]
        for each in lost.values()
        if len(each) > 1
    ]
    return average(rank_correlation(one, two) for one, two in halves)


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """What is answered under the direction of each chosen place."""
    answers = answers_of(rows)
    names = {"best by the model itself": ["best"]} | {
        f"first by {n.replace('_', ' ')}": [f"first by {n}"] for n in NOTES
    }
    names |= {"random places": [way for way in answers.by if way.startswith("random")], "no ablation": ["none"]}
    shares = [
        (label, [fmean(each) for each in zip(*(answers.every(way) for way in ways))], style)
        for label, ways in names.items()
        for style in ["control" if label in ("random places", "no ablation") else "value"]
    ]
    caption = "All test prompts; means with 95 % intervals."
    return [bars("Answered under the direction of a place", caption, shares, None, "share answered")] * bool(answers.by)

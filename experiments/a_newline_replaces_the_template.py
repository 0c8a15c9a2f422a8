"""Does a newline after the prompt make up for a missing chat template when a refusal direction is read?

Source: notes on extracting with and without the chat template: without it directions are worse, but a newline at the
    end has a not as good but similar effect (N).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Ranking, Reading, Refusing, Splits, answers_of, bars, column, each_split, needs, pick
from mi_ortho import resid_pre
from mi_ortho.refusal import difference_of_means

FORMATS = {"template": (True, ""), "bare": (False, ""), "newline": (False, "\n")}  # whether in chats, what follows
CONTROLS = {"newline": "random", "lead": "bare"}


@dataclass(frozen=True)
class Config(Splits):
    """Prompts of each kind, how many splits of them, tokens of an answer."""

    tokens: int = 24


SMOKE = Config(train=8, validation=4, test=4, seeds=2, tokens=12)
NEEDS = (needs.template, needs.refusals)


def run(config: Config, bench: Any) -> None:
    """For each split what is answered in chats when the direction of each format is ablated."""
    each_split(config, bench, lambda study, seed: measure(study, seed, config.tokens))


def measure(study: Refusing, seed: int, tokens: int) -> None:
    """Record one split: a row for each format and test prompt, and the likeness of the directions."""
    directions = {name: direction_of(study, name) for name in FORMATS} | {"random": study.random(3000 + seed)}
    study.record_answers(seed, directions, study.sets.test_harmful, tokens=tokens)
    for name, direction in directions.items():
        cosine = float(torch.cosine_similarity(direction, directions["template"], dim=0))
        study.bench.record(kind="cosine", seed=seed, read=name, cosine=cosine)


def direction_of(study: Refusing, name: str) -> Tensor:
    """The difference of means at the last token in a format, at the layer whose ablation lowers the refusal score of
    validation chats most (not the first layer, where prompts do not differ)."""
    template, tail = FORMATS[name]
    sites = [resid_pre(layer) for layer in range(1, study.bench.layers)]
    classes = [[text + tail for text in texts] for texts in (study.sets.train_harmful, study.sets.train_harmless)]
    extraction = difference_of_means(study.model, classes[0], classes[1], sites, (-1,), template=template)
    texts = study.sets.validation_harmful
    site = min(sites, key=lambda site: float(study.ablated(texts, extraction.direction(site, -1)).mean()))
    return extraction.direction(site, -1)


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """Of the prompts that ablating the template's direction turns, what the newline's turns, beside the controls."""
    answers = answers_of(rows)
    for key, control in CONTROLS.items():
        turned, gates = answers.turned("template"), answers.gates("template", "random")
        yield from answers.readings(key, turned, ["newline"], [control], gates)


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """What is answered under each format's direction, all test prompts, and how alike the directions are."""
    answers, likeness = answers_of(rows), pick(rows, kind="cosine")
    names = {"none": "no ablation", "template": "chat template", "newline": "newline", "bare": "bare prompt"}
    names |= {"random": "random direction"}
    styles = {name: "control" if name in ("none", "random") else "value" for name in names}
    shares = [(label, answers.every(name), styles[name]) for name, label in names.items()]
    alike = [(label, column(pick(likeness, read=name), "cosine"), styles[name]) for name, label in names.items()]
    caption = "Means over test prompts, or splits, with 95 % intervals."
    return [
        bars("Answered when the direction of a format is ablated in chats", caption, shares, None, "share answered"),
        bars("Likeness of the directions", caption, alike, None, "cosine with the template's"),
    ] * bool(answers.by)

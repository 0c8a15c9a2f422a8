"""A newline after the prompt makes up for a missing chat template: the refusal direction read there works, too.

Source: notes on extracting with and without the chat template: without it directions are worse, but a newline at the
    end has a not as good but similar effect (N).
Prediction: ablated in chats, the direction read after prompts with a newline removes at least 0.5 of the refusal score
    that the direction read in the template removes, and at least 0.2 more than the one read after bare prompts.
Control: random directions.
Refuted if: the interval of the newline's share lies below 0.5, or that of its lead below 0.2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Bench, Ranking, Refusing, Splits, at_least, bars, column, each_split, needs, pick
from mi_ortho import Verdict, next_token_logits, resid_pre, tokenize
from mi_ortho.refusal import ablate_everywhere, difference_of_means, refusal_score

SHARE = 0.5
LEAD = 0.2
FORMATS = {"template": (True, ""), "bare": (False, ""), "newline": (False, "\n")}  # whether in chats, what follows


@dataclass(frozen=True)
class Config(Splits):
    """Prompts of each kind and how many splits of them."""


SMOKE = Config(train=8, validation=4, test=4, seeds=2)
NEEDS = (needs.template, needs.refusals)


def run(config: Config, bench: Bench) -> None:
    """One row for each split, format of reading and format of use."""
    each_split(config, bench, measure, kind="split")


def measure(study: Refusing, seed: int) -> None:
    """Record one split: each format's direction at its strongest layer, ablated in chats and in the other formats."""
    bench, directions, layers = study.bench, {}, {}
    for name in FORMATS:
        directions[name], layers[name] = direction_of(study, name)
    directions["random"], layers["random"] = study.random(3000 + seed), -1
    full = effect(study, directions["template"], "template")
    unit = torch.nn.functional.normalize(directions["template"], dim=0)
    for name, direction in directions.items():
        drops = {f"drop_{used}": effect(study, direction, used) for used in FORMATS}
        cosine = float(torch.nn.functional.normalize(direction, dim=0) @ unit)
        bench.record(
            kind="format",
            seed=seed,
            read=name,
            layer=layers[name],
            cosine=cosine,
            share=drops["drop_template"] / full if full > 0 else None,
            **drops,
        )
    bench.record(kind="split", seed=seed, full=full)


def direction_of(study: Refusing, name: str) -> tuple[Tensor, int]:
    """The difference of means at the last token in a format, at the layer whose ablation serves best on validation
    chats (not the first layer, where prompts do not differ)."""
    template, tail = FORMATS[name]
    sites = [resid_pre(layer) for layer in range(1, study.bench.layers)]
    classes = [[text + tail for text in texts] for texts in (study.sets.train_harmful, study.sets.train_harmless)]
    extraction = difference_of_means(study.model, classes[0], classes[1], sites, (-1,), template=template)
    texts = study.sets.validation_harmful
    site = min(sites, key=lambda site: float(study.ablated(texts, extraction.direction(site, -1)).mean()))
    return extraction.direction(site, -1), site.layer


def effect(study: Refusing, direction: Tensor, name: str) -> float:
    """Nats of refusal score that ablation everywhere removes from harmful test prompts in a format."""
    template, tail = FORMATS[name]
    prompts = tokenize(study.model, [text + tail for text in study.sets.test_harmful], template=template)
    changed = ablate_everywhere(study.model, direction)
    scores = [
        refusal_score(next_token_logits(study.model, prompts, interventions=edits), study.tokens)
        for edits in ({}, changed)
    ]
    return float((scores[0] - scores[1]).mean())


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Verdicts on claim N: newline against template, and against bare prompts."""

    def shares(name: str) -> list[float]:
        return column(pick(rows, kind="format", read=name), "share")

    lead = [a - b for a, b in zip(shares("newline"), shares("bare"))]
    return [
        at_least(
            "N: the direction read after a newline works nearly as well as the template's",
            f"at least {SHARE} of its effect in chats",
            "share of the refusal score that the template's direction "
            "removes, one value a split; control: a random direction",
            shares("newline"),
            SHARE,
            shares("random"),
        ),
        at_least(
            "N: it works better than the direction read without a newline",
            f"by at least {LEAD} of that effect",
            "difference of the shares, one value a split; control: share of the bare prompts' direction",
            lead,
            LEAD,
            shares("bare"),
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """Each format's direction used in chats, and what it removes in each format of use."""
    names = {"template": "chat template", "newline": "newline", "bare": "bare prompt", "random": "random direction"}
    by_name = {name: pick(rows, kind="format", read=name) for name in names}
    if not any(by_name.values()):
        return []
    groups = [
        (f"read: {label}", column(by_name[name], "share"), "control" if name == "random" else "value")
        for name, label in names.items()
    ]
    uses = [
        (
            f"read: {label}, used: {names[used]}",
            column(by_name[name], f"drop_{used}"),
            "control" if name == "random" else "value",
        )
        for name, label in names.items()
        for used in FORMATS
    ]
    cosines = [
        (label, column(by_name[name], "cosine"), "control" if name == "random" else "value")
        for name, label in names.items()
    ]
    caption = "Means over splits with 95 % intervals."
    return [
        bars("Directions of three formats, ablated in chats", caption, groups, SHARE, "share of the template's effect"),
        bars("Directions by format of reading and of use", caption, uses, None, "nats of refusal score removed"),
        bars("Likeness of the directions", caption, cosines, None, "cosine with the template's"),
    ]

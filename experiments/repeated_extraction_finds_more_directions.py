"""Extracting a refusal direction again, with the first one ablated, finds a second direction that matters.

Source: notes on a model that refuses in another way after ablation: extracting and ablating more than once might find
    several directions (M).
Prediction: the second round's direction is no noise, cosine between those of disjoint halves of the prompts at least
    0.5; ablated alone it removes at least 0.25 of the refusal score that the first removes alone; ablated with the
    first it removes at least 0.1 of that score more than the first alone.
Control: halves with shuffled labels; random directions, alone and added to the first; probes projected out in turn.
Refuted if: the interval of the cosine lies below 0.5, or that of a share below 0.25 or 0.1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

from experiments.lab import (
    Bench,
    Lines,
    Ranking,
    Refusing,
    Splits,
    at_least,
    bars,
    column,
    each_split,
    needs,
    pick,
    refuses,
)
from mi_ortho import Verdict, generate, resid_pre, tokenize
from mi_ortho.model import kl_divergence
from mi_ortho.nulls import CONTROLS
from mi_ortho.pages import Panel, Series
from mi_ortho.refusal import ablate_everywhere, activations, extract_again, last_logits, null_space_rounds
from mi_ortho.stats import SIGNED_SCALE

SAME = 0.5
ALONE = 0.25
MORE = 0.1
WORDS = {"extracted": "extracted again", "probes": "probes", "random": CONTROLS["random"].label}


@dataclass(frozen=True)
class Config(Splits):
    """Prompts of each kind, splits of them, rounds, and the length of completions (0: none are made)."""

    train: int = 32
    test: int = 12
    rounds: int = 3
    tokens: int = 24


SMOKE = Config(train=8, validation=4, test=4, seeds=2, rounds=2, tokens=0)
NEEDS = (needs.refusals,)


def run(config: Config, bench: Bench) -> None:
    """Rounds by three methods for each split, and the halves' directions."""
    each_split(config, bench, lambda study, seed: measure(study, seed, config.rounds, config.tokens), kind="split")


def measure(study: Refusing, seed: int, rounds: int, tokens: int) -> None:
    """Record one split, at the layer whose first direction serves best on validation prompts."""
    layer, sets, bench = study.strongest(), study.sets, study.bench
    whole = (sets.train_harmful, sets.train_harmless)
    gaussian = torch.randn(rounds, bench.width, generator=bench.generator(4000 + seed), device=bench.device)
    by_method = {
        "extracted": extracted(study, *whole, layer, rounds),
        "probes": probes(study, layer, rounds),
        "random": torch.nn.functional.normalize(gaussian, dim=-1),
    }
    first = float(study.drop(sets.test_harmful, by_method["extracted"][0]).mean())
    for method, rows in by_method.items():
        for k in range(rounds):
            bench.record(
                kind="round",
                seed=seed,
                method=method,
                round=k + 1,
                **effects(study, rows[k], rows[: k + 1], by_method["extracted"][0], first, tokens),
            )
    for labels, halves in {"own": split(*whole), "shuffled": split(*shuffled(*whole, seed))}.items():
        pair = [extracted(study, harmful, harmless, layer, rounds) for harmful, harmless in halves]
        bench.record(kind="halves", seed=seed, labels=labels, cosines=(pair[0] * pair[1]).sum(-1).tolist())
    bench.record(kind="split", seed=seed, layer=layer, first=first)


def extracted(study: Refusing, harmful: Sequence[str], harmless: Sequence[str], layer: int, rounds: int) -> Tensor:
    """Unit directions of rounds of extraction at the last token of a layer's input, earlier ones ablated everywhere."""
    checked = study.sets.validation_harmful[:1]  # its scores of the rounds are not used here
    site = resid_pre(layer)
    results = extract_again(
        study.model,
        harmful,
        harmless,
        checked,
        study.tokens,
        [site],
        lambda _: (site, -1),
        rounds=rounds,
        positions=(-1,),
    )
    return torch.stack([one.direction for one in results])


def probes(study: Refusing, layer: int, rounds: int) -> Tensor:
    """Unit directions of linear probes at the same place, each fitted with the earlier ones projected out."""
    sets, sites = study.sets, [resid_pre(layer)]
    parts = [
        activations(study.model, texts, sites, [-1])[:, 0, 0]
        for texts in (sets.train_harmful, sets.train_harmless, sets.validation_harmful, sets.validation_harmless)
    ]
    results = null_space_rounds(parts[0], parts[1], (parts[2], parts[3]), rounds=rounds)
    return torch.stack([one.direction for one in results])


def effects(
    study: Refusing, direction: Tensor, span: Tensor, first: Tensor, full: float, tokens: int
) -> dict[str, float | None]:
    """A round's direction alone, beside the first extracted one, and with all earlier rounds: shares of the first's
    effect on the refusal score, KL on harmless prompts in nats, share of harmful prompts not refused any more."""
    texts, ablation = study.sets.test_harmful, ablate_everywhere(study.model, span)
    drops = [
        float(study.drop(texts, rows).mean()) for rows in (direction, torch.stack([first, direction]), first, span)
    ]
    logits = [last_logits(study.model, study.sets.test_harmless, edits).double() for edits in ({}, ablation)]
    free = None
    if tokens:
        completions = generate(study.model, tokenize(study.model, list(texts)), ablation, max_new_tokens=tokens)
        free = sum(not refuses(study.bench, text) for text in completions) / len(texts)
    shares = [drop / full if full > 0 else None for drop in (drops[0], drops[1] - drops[2], drops[3])]
    return {
        "alone": shares[0],
        "more": shares[1],
        "together": shares[2],
        "not_refused": free,
        "kl": float(kl_divergence(p_logits=logits[0], q_logits=logits[1]).mean()),
    }


def split(harmful: Sequence[str], harmless: Sequence[str]) -> list[tuple[Sequence[str], Sequence[str]]]:
    """Two disjoint halves of both classes."""
    return [(harmful[k::2], harmless[k::2]) for k in range(2)]


def shuffled(harmful: Sequence[str], harmless: Sequence[str], seed: int) -> tuple[Sequence[str], Sequence[str]]:
    """The same prompts with labels at random."""
    mixed = Random(seed).sample([*harmful, *harmless], len(harmful) + len(harmless))
    return mixed[: len(harmful)], mixed[len(harmful) :]


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Verdicts on claim M: the second direction on halves, alone, and beside the first."""

    def halves(labels: str) -> list[float]:
        return [row["cosines"][1] for row in pick(rows, kind="halves", labels=labels) if len(row["cosines"]) > 1]

    def second(method: str, name: str) -> list[float]:
        return column(pick(rows, kind="round", method=method, round=2), name)

    return [
        at_least(
            "M: the second round's direction is no noise",
            f"cosine between halves of the prompts at least {SAME}",
            "cosine of the second directions of disjoint halves; control: shuffled labels",
            halves("own"),
            SAME,
            halves("shuffled"),
            scale=SIGNED_SCALE,
        ),
        at_least(
            "M: the second direction alone takes refusal away",
            f"at least {ALONE} of the first's effect",
            "share of the refusal score that the first direction removes; control: a random direction",
            second("extracted", "alone"),
            ALONE,
            second("random", "alone"),
        ),
        at_least(
            "M: with the first ablated, ablating the second takes away more",
            f"at least {MORE} of its effect",
            "additional share of the refusal score; control: a random direction with the first",
            second("extracted", "more"),
            MORE,
            second("random", "more"),
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Lines | Ranking]:
    """Rounds by method: alone and together; and what the halves agree on."""
    part = pick(rows, kind="round")
    if not part:
        return []
    drawings: list[Lines | Ranking] = []
    titles = {
        "alone": ("Each round's direction alone", "share of the first's effect"),
        "together": ("All rounds so far", "share of the first's effect"),
        "kl": ("What it costs on harmless prompts", "KL, nats"),
        "not_refused": ("Harmful prompts not refused", "share"),
    }
    for name, (title, unit) in titles.items():
        series = []
        for k, (method, label) in enumerate(WORDS.items()):
            numbers = sorted({row["round"] for row in pick(part, method=method)})
            values = [column(pick(part, method=method, round=n), name) for n in numbers]
            if all(values):
                means = [sum(v) / len(v) for v in values]
                series.append(Series(label, numbers, means, "null" if method == "random" else f"c{k}", method))
        if series:
            drawings.append(Lines("Ablated everywhere; means over splits.", Panel(title, unit, "round"), tuple(series)))
    halves = [
        (
            f"round {k + 1}, {labels} labels",
            [row["cosines"][k] for row in pick(rows, kind="halves", labels=labels) if k < len(row["cosines"])],
            style,
        )
        for k in range(3)
        for labels, style in (("own", "value"), ("shuffled", "control"))
    ]
    return [
        *drawings,
        bars(
            "Directions of disjoint halves of the prompts",
            "Means over splits with 95 % intervals.",
            halves,
            SAME,
            "cosine",
        ),
    ]

"""Are the vectors present in the model's activations while it writes code by itself?

Source: the post's own proposed test, and the reading that the vectors are adversarial (H2, H4); experiment D8. The
    families of other behaviours tell what is of code from what is of any family: no code is written under them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log2
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Base, Bench, Place, Ranking, Reading, bars, column, each_base, needs, pick, read_bases
from experiments.lab.coding import Written, written
from mi_ortho.nulls import control
from mi_ortho.probes import token_presence
from mi_ortho.stats import auc

SETS = {"family": "families of code", **{name: control(name).label for name in ("covariance", "rotated", "isotropic")}}


@dataclass(frozen=True)
class Config(Place):
    """Where bases are looked for, prompts of each kind, and random sets."""

    own: int = 96
    sets: int = 20


SMOKE = Config(behaviours=("code",), bases=1, most=4, max_steps=10, own=24, sets=2)
NEEDS = (needs.place, needs.writing)


def run(config: Config, bench: Bench) -> None:
    """For each base and topic how present its family is in code, against English on the topic."""
    text = written(bench, config.own, config.seed, config.source)
    each_base(config, bench, lambda base: measure(base, text, config.sets))


@torch.no_grad()
def measure(base: Base, text: Written, count: int) -> None:
    """Record one base: for each topic its family, the mean of each kind of random set, and the ruler."""
    vectors = base.family("kl").before_end(base.place.lost)
    if not len(vectors):
        return
    sets = {"family": vectors[None].to(text.rows), **text.sets(len(vectors), count, base.generator(21))}
    for topic in text.topics.unique().tolist():
        here = text.part(text.topics == topic)
        ruler = contrasting(text.part(text.topics % 2 != topic % 2))
        sensitive = float(auc(token_presence(here.rows, ruler[None]), here.code))
        for kind, each in sets.items():
            areas, shares = present(here, each)
            numbers = {"area": areas, "share": shares, "sensitive": sensitive, "n": len(vectors)}
            base.bench.record(kind="topic", **base.units, topic=topic, set=kind, **numbers)


def contrasting(text: Written) -> Tensor:
    """Mean activation in code minus mean activation in English."""
    return text.rows[text.code].mean(0) - text.rows[~text.code].mean(0)


def present(text: Written, sets: Tensor) -> tuple[float, float]:
    """Over sets the mean area under the curve of a vector's presence, and the share of |h|^2 along a set in code."""
    cosines = token_presence(text.rows, sets.flatten(0, 1))
    shares = cosines[text.code].square().mean(0).sum() / len(sets)
    return float(auc(cosines, text.code).mean()), float(shares)


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """For each topic the mean over bases of code, beside random sets and beside bases of other behaviours."""
    gates = [each for units, each, _ in read_bases(rows) if units["behaviour"] == "code"]
    every = pick(rows, kind="topic")
    for topic in dict.fromkeys(row["topic"] for row in every):
        here = pick(every, topic=topic)
        code, other = ([row for row in here if (row["behaviour"] == "code") == of] for of in (True, False))
        if code:
            checks = {name: fmean(each[name] for each in gates) for name in gates[0]}
            checks, unit = {**checks, "sensitive": code[0]["sensitive"]}, {"prompt": topic}
            area = average(code, "family", "area")
            yield Reading("present", area, average(code, "covariance", "area"), unit, checks)
            yield Reading("other", area, average(other, "family", "area"), unit, checks)
            yield Reading("share", beyond_chance(code), beyond_chance(other), unit, checks)


def average(rows: Sequence[Mapping[str, Any]], kind: str, name: str) -> float | None:
    """Mean over bases of one number of one kind of set."""
    values = column(pick(rows, set=kind), name)
    return fmean(values) if values else None


def beyond_chance(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """log2 of the share along families over that along isotropic sets of the same size, mean over bases."""
    pairs = zip(column(pick(rows, set="family"), "share"), column(pick(rows, set="isotropic"), "share"), strict=True)
    values = [log2(family / chance) for family, chance in pairs]
    return fmean(values) if values else None


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """Areas and shares of every kind of set, of bases of code and of others."""
    drawings = []
    for name, title in (
        ("area", "Mean area under the curve of presence, code against English"),
        ("share", "Share of |h|^2 in code"),
    ):
        groups = []
        for kind, label in SETS.items():
            part = pick(rows, kind="topic", set=kind)
            for of in (True, False) if kind == "family" else (True,):
                values = column([row for row in part if (row["behaviour"] == "code") == of], name)
                style = "value" if of and kind == "family" else "control"
                groups.append((label if of else "families of other behaviours", values, style))
        drawings.append(bars(title, "Means over bases and topics.", groups))
    return drawings

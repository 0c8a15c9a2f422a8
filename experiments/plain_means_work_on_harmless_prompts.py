"""Do plain means of the vectors work on harmless prompts where they fail on harmful ones?

Source: a comment on the post (the mean triggers refusal because "code for a bomb" is amplified); hypothesis H18. A mean
    of orthogonal vectors is also short, so single vectors of its length are tried on the same prompts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from experiments.lab import Base, Bench, Place, Reading, each_base, needs, pick, random_order, read_bases
from mi_ortho.nulls import with_norms
from mi_ortho.steering import unsteered_completions

AVERAGED = 8
SUBSETS = 8


@dataclass(frozen=True)
class Config(Place):
    """Where bases are looked for, and how many harmless prompts to try."""

    prompts: int = 6


SMOKE = Config(behaviours=("code",), bases=1, most=9, max_steps=10, prompts=2)
NEEDS = (needs.place, needs.harmless)


def run(config: Config, bench: Bench) -> None:
    """For each base and kind of vector how often the behaviour is shown on its prompts and on harmless ones."""
    each_base(config, bench, lambda base: measure(base, harmless(base, config.prompts)))


def measure(base: Base, texts: Sequence[str]) -> None:
    """Record one base; nothing where the model shows the behaviour on all harmless prompts by itself."""
    vectors, generator = base.family("kl").working(), base.generator(15)
    if len(vectors) <= AVERAGED or not texts:
        return
    subsets = torch.stack([random_order(len(vectors), generator)[:AVERAGED] for _ in range(SUBSETS)])
    means, alone = vectors[subsets].mean(1), vectors[subsets[:, 0]]
    lengths = means.norm(dim=-1)
    sets = {
        "base": base.vector[None],
        "plain": means,
        "short": with_norms(alone, lengths),
        "random": base.random(lengths, 41),
        "alone": alone,
        "root": AVERAGED**0.5 * means,
    }
    refused = fmean(one.mode == "refuse" for one in plain(base, base.texts))
    for kind, tried in sets.items():
        shares = {"harmless": fmean(base.shows(tried, texts)), "harmful": fmean(base.shows(tried))}
        base.bench.record(kind="mean", **base.units, of=kind, **shares, refused=refused, prompts=len(texts))


def harmless(base: Base, count: int) -> tuple[str, ...]:
    """Harmless prompts on which the model does not show the behaviour by itself."""
    natural = base.bench.subject.texts.natural
    texts = tuple(natural.get("benign", natural.get("help", ())))[: 3 * count]
    done = zip(texts, plain(base, texts))
    return tuple(text for text, one in done if one.mode != base.behaviour)[:count]


def plain(base: Base, texts: Sequence[str]) -> Sequence[Any]:
    """What the model writes by itself."""
    return unsteered_completions(base.setting, texts, len(base.vector), base.vector.device) if texts else []


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """The gain of plain means from harmful to harmless prompts, against the gains of other vectors.

    The base must be able to show the behaviour on harmless prompts, and the model must refuse the harmful ones.
    """
    for units, gates, own in read_bases(rows):
        shares = {row["of"]: row for row in pick(own, kind="mean")}
        if shares:
            gain = {kind: row["harmless"] - row["harmful"] for kind, row in shares.items()}
            checked = {**gates, "reachable": shares["base"]["harmless"], "shown": shares["base"]["refused"]}
            for kind in ("short", "alone", "random"):
                yield Reading(kind, gain["plain"], gain[kind], units, checked)

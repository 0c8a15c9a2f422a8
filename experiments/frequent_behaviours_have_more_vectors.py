"""Has a behaviour that is more frequent in training more orthogonal vectors?

Source: the post's guess that redundancy follows frequency; hypothesis H1, decisive experiment D7. Causal: small
    organisms are trained with set frequencies of two behaviours, each setting also with the two swapped, several seeds.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.lab import Bench, Ranking, Reading, Total, bars, column, over_prompts, pick
from experiments.lab.dialled import (
    LOSSES,
    RAREST,
    Dialled,
    checks,
    correlation,
    open_set,
    own_set,
    record_organisms,
    trained,
)
from mi_ortho.stats import Count, Measured


@dataclass(frozen=True)
class Config(Dialled):
    """Which organisms, and where their families are grown."""


SMOKE = Config(bases=1, most=3, max_steps=5, seeds=1, steps=8)
NEEDS = (own_set,)


def run(config: Config, bench: Bench) -> None:
    """Rows for each organism whose training has ended, and each prompt."""
    organisms = open_set(bench, config, trained(config))
    every = [row for row in organisms.rows if row["seed"] < config.seeds and min(row["code"], row["alien"]) >= RAREST]
    last = max(row["step"] for row in every)
    record_organisms(bench, config, organisms, [row for row in every if row["step"] == last])


def over_organisms(rows: Sequence[Mapping[str, Any]], loss: str) -> Measured:
    """Rank correlation of frequency and count over all rows, with its interval over organisms."""
    of = {name: pick(rows, organism=name) for name in dict.fromkeys(row["organism"] for row in rows)}
    return over_prompts(
        list(of),
        lambda names, _: correlation([row for name in names for row in of[name]], "frequency", loss),
        unit="model",
    )


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading | Total]:
    """All organisms together beside random bases, and in each the frequent behaviour against the rare one."""
    own, random = (pick(rows, kind=kind) for kind in ("own", "random"))
    for key, loss in zip(("rank", "looser"), LOSSES, strict=True):
        yield Total(key, over_organisms(own, loss), over_organisms(random, loss), checks(own, loss))
    for key, kind in (("pair", "own"), ("far", "far")):
        part = pick(rows, kind=kind)
        for organism, prompt in dict.fromkeys((row["organism"], row["prompt"]) for row in part):
            pair = sorted(pick(part, organism=organism, prompt=prompt), key=lambda row: row["frequency"])
            if len(pair) == 2 and pair[0]["frequency"] < pair[1]["frequency"]:
                rare, frequent = (Count(row["half"], row["censored"]) for row in pair)
                near, far = sorted(column(pair, "moved"))
                gates = {**checks(pair, "half"), "displacement": far / near}
                yield Reading(key, frequent, rare, {"model": organism, "prompt": prompt}, gates)


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """Counts by frequency."""
    groups = [
        (f"frequency {frequency:g}, {kind} base", column(pick(rows, frequency=frequency, kind=kind), "half"), style)
        for frequency in sorted({row["frequency"] for row in rows if "frequency" in row})
        for kind, style in (("own", "value"), ("random", "control"))
    ]
    caption = "Vectors that miss at most half of the squared effect; means over organisms, behaviours and prompts."
    return [bars("Vectors by frequency of the behaviour", caption, groups)]

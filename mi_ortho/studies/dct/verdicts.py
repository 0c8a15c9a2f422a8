"""Verdicts and summary of `dct` from its recorded rows. The thresholds were fixed here before any run."""

from collections.abc import Sequence
from statistics import fmean

from mi_ortho.runs.rows import Record, pick
from mi_ortho.stats import POSITIVE_SCALE, SIGNED_SCALE, Verdict, decide, judge, mean, percent
from mi_ortho.studies.dct.fits import RANDOM
from mi_ortho.studies.shared.left_out import left_out

MOVES = 1.5  # effect on the target, over that of random directions of the same norm
TURNS = 0.1  # share of completions turned into another recognised behaviour, minus that of random directions


def by_factor(rows: Sequence[Record], method: str, column: str) -> list[float]:
    """One value of a column for each factor: the mean over signs and seeds."""
    factors = pick(rows, kind="factor", method=method)
    indices = sorted({row["index"] for row in factors})
    return [fmean(row[column] for row in factors if row["index"] == index) for index in indices]


def methods_of(rows: Sequence[Record]) -> list[str]:
    """The methods that were tried, in their order, random directions left out."""
    return [name for name in dict.fromkeys(row["method"] for row in pick(rows, kind="factor")) if name != RANDOM]


def moves_more(rows: Sequence[Record], method: str) -> Verdict | None:
    """Do factors move the target further than random directions of the same norm?"""
    effects, random = by_factor(rows, method, "effect"), by_factor(rows, RANDOM, "effect")
    if not effects or not random or not fmean(random) > 0:
        return None
    estimate = mean([effect / fmean(random) for effect in effects], scale=POSITIVE_SCALE)
    return judge(
        f"{method.capitalize()} factors move the target further than random directions",
        f"at least {MOVES} times as far",
        "|z(Rv) - z(0)| over its mean for random directions; one value a factor, mean over signs and seeds",
        estimate,
        MOVES,
        1.0,
        decide(estimate, MOVES),
    )


def turns_more(rows: Sequence[Record], method: str) -> Verdict | None:
    """Do factors change the behaviour of completions more often?"""
    shares, random = by_factor(rows, method, "changed"), by_factor(rows, RANDOM, "changed")
    if not shares or len(shares) != len(random):
        return None
    estimate = mean([a - b for a, b in zip(shares, random)], scale=SIGNED_SCALE)
    return judge(
        f"{method.capitalize()} factors change behaviour more often than random directions",
        f"the share of completions turned into another known behaviour is at least {TURNS} higher",
        "difference of shares, factor by random direction of the same place, mean over signs, prompts and seeds; the "
        "control is the random directions' own share",
        estimate,
        TURNS,
        fmean(random),
        decide(estimate, TURNS),
    )


def verdicts(rows: Sequence[Record]) -> list[Verdict]:
    """Two verdicts for each method."""
    claims = [ask(rows, name) for name in methods_of(rows) for ask in (moves_more, turns_more)]
    return [verdict for verdict in claims if verdict is not None]


def summarise(rows: Sequence[Record], title: str) -> dict[str, object]:
    """Headline, tiles and verdicts of a finished run."""
    radius = pick(rows, kind="radius")[-1]
    names = methods_of(rows)
    random = pick(rows, kind="factor", method=RANDOM)
    shares = [f"{name} {_changed(pick(rows, kind='factor', method=name))}" for name in names]
    headline = (
        f"At norm {radius['radius']:.3g}, {random[0]['prompts']} prompts, factors of {title} turn this share of "
        f"completions into another known behaviour: {', '.join(shares)}; random directions "
        f"{_changed(random)}."
    )
    tiles = [
        [_changed(pick(rows, kind="factor", method=name)), f"of completions changed by {name} factors"]
        for name in names
    ]
    tiles.append([_changed(random), "changed by random directions of the same norm"])
    return {"headline": headline, "tiles": tiles, "verdicts": verdicts(rows), "sinks": left_out(rows)}


def _changed(rows: Sequence[Record]) -> str:
    """The share of completions that factors turned into another recognised behaviour."""
    return percent(fmean(row["changed"] for row in rows))

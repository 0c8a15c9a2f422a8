"""The orthogonal vectors work on prompts they were never searched on.

Source: the post's observation that its vectors generalise; hypothesis H21, and H2, which says that they do not.
Prediction: on prompts of the same kind that were not searched on, vectors of the distribution-matched family show the
    behaviour at least 0.5 times as often as their base; the last third of the family at least as often as 0.2 more
    than random vectors of its norms.
Control: random vectors of the same norms on the same prompts.
Refuted if: the interval of the ratio lies below 0.5, or that of the last third's excess below 0.2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from experiments.lab import Bench, Case, Ranking, Setup, at_least, bars, cases, column, needs, pick
from mi_ortho import Verdict, random_vectors
from mi_ortho.nulls import with_norms

RATIO = 0.5  # of the base's own transfer
EXCESS = 0.2  # share of prompts, above random vectors
THIRD = 3


@dataclass(frozen=True)
class Config(Setup):
    """Where to search, how many other prompts to try on, and vectors of each family to try."""

    prompts: int = 50
    tried: int = 12


SMOKE = Config(cases=1, n=4, max_steps=10, prompts=4, tried=4)
NEEDS = (needs.family, needs.more_prompts)


def run(config: Config, bench: Bench) -> None:
    """One row for each case and vector: the family's, spread over it, the random ones, and the base."""
    for case in cases(bench, config):
        for part in bench.stage({"last": True}, case=case.index):
            texts = other_texts(case, config.prompts)
            vectors = case.family("kl").vectors
            indices = sorted({round(k * (len(vectors) - 1) / max(1, config.tried - 1)) for k in range(config.tried)})
            family = vectors[indices]
            random = with_norms(
                random_vectors(len(family), len(case.base), 1.0, case.generator(1)), family.norm(dim=-1)
            )
            groups = (("base", [0], case.base[None]), ("random", indices, random), ("family", indices, family))
            for group, indexes, rows in groups:
                shares = case.keeps(rows, texts)
                for k, (index, share) in enumerate(zip(indexes, shares, strict=True)):
                    part.record(
                        case=case.index,
                        group=group,
                        index=index,
                        of=len(vectors),
                        prompts=len(texts),
                        transfer=share,
                        last=group == "family" and k == len(indexes) - 1,
                    )
        bench.track("case", case.index + 1, config.cases)


def other_texts(case: Case, count: int) -> tuple[str, ...]:
    """Prompts of the same kind that the family was not searched on, held-out ones first."""
    texts = case.bench.subject.texts
    same = [*texts.held_out, *texts.train, *texts.natural.get("harmful", ()), *texts.natural.get("refuse", ())]
    return tuple(text for text in dict.fromkeys(same) if text not in case.texts)[:count]


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """The family against its base, and its last third against random vectors."""
    ratios, excess, random, base = [], [], [], []
    for case in dict.fromkeys(row["case"] for row in rows if "case" in row):
        by_group = {name: pick(rows, case=case, group=name) for name in ("base", "family", "random")}
        if not all(by_group.values()):
            continue
        alone = fmean(column(by_group["base"], "transfer"))
        late = [row["transfer"] for row in by_group["family"] if THIRD * row["index"] >= (THIRD - 1) * (row["of"] - 1)]
        chance = fmean(column(by_group["random"], "transfer"))
        base.append(alone)
        random.append(chance)
        excess.append(fmean(late) - chance)
        if alone > 0:
            ratios.append(fmean(column(by_group["family"], "transfer")) / alone)
    relative = [a / b for a, b in zip(random, base, strict=True) if b > 0]
    return [
        at_least(
            "The vectors work on other prompts about as often as their base",
            f"at least {RATIO} times as often as the base",
            "share of other prompts with the behaviour over the base's share; the control is random vectors",
            ratios,
            RATIO,
            relative,
        ),
        at_least(
            "The last vectors of the family still work on other prompts",
            f"the last third at least {EXCESS} above random vectors",
            "share of other prompts with the behaviour, last third minus random vectors of equal norms; the "
            "control is the random vectors' share",
            excess,
            EXCESS,
            random,
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """Shares by group."""
    names = (
        ("base", "base vector", "value"),
        ("family", "orthogonal family", "value"),
        ("random", "random vectors", "control"),
    )
    groups = [(label, per_case(pick(rows, group=name)), style) for name, label, style in names]
    return [bars("Behaviour on other prompts", "Share of prompts not searched on; means over bases.", groups)]


def per_case(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """The mean of each case."""
    return [fmean(column(pick(rows, case=case), "transfer")) for case in dict.fromkeys(row["case"] for row in rows)]

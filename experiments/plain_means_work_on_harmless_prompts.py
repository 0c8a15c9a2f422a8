"""Plain means of the vectors work on harmless prompts: on harmful ones they fail because the request is amplified.

Source: a comment on the post (the mean triggers refusal because "code for a bomb" is amplified); hypothesis H18.
Prediction: plain means of 8 vectors show the behaviour on harmless prompts at least 0.2 more often than on the prompts
    they were searched on, beyond the same difference for single vectors.
Control: the same difference for single vectors.
Refuted if: the interval of the difference of differences lies below 0.2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from experiments.lab import Bench, Case, Ranking, Setup, at_least, bars, cases, column, needs, pick, random_order
from mi_ortho import Verdict
from mi_ortho.steering import unsteered_completions

MORE = 0.2
AVERAGED = 8
SUBSETS = 8


@dataclass(frozen=True)
class Config(Setup):
    """Where to search, and how many harmless prompts to try."""

    prompts: int = 6


SMOKE = Config(cases=1, n=8, max_steps=10, prompts=2)
NEEDS = (needs.family, needs.harmless)


def run(config: Config, bench: Bench) -> None:
    """One row for each case and kind of vector."""
    for case in cases(bench, config):
        texts = harmless(case, config.prompts)
        vectors = case.family("kl").vectors
        generator = case.generator(15)
        draws = [random_order(len(vectors), generator)[:AVERAGED] for _ in range(SUBSETS)]
        means = torch.stack([vectors[subset].mean(0) for subset in draws])
        sets = {
            "single": torch.stack([vectors[subset[0]] for subset in draws]),
            "plain": means,
            "root": means * AVERAGED**0.5,
        }
        for kind, vectors_tried in sets.items():
            if not bench.has(case=case.index, kind_of_mean=kind):
                bench.record(
                    case=case.index,
                    kind_of_mean=kind,
                    harmless=fmean(case.keeps(vectors_tried, texts)),
                    own=fmean(case.keeps(vectors_tried)),
                    prompts=len(texts),
                )
        bench.track("case", case.index + 1, config.cases)


def harmless(case: Case, count: int) -> tuple[str, ...]:
    """Benign prompts that do not show the behaviour without steering.

    Raises:
        ValueError: the model brings none.
    """
    natural = case.bench.subject.texts.natural
    texts = tuple(natural.get("benign", natural.get("help", ())))
    done = unsteered_completions(case.setting, texts, case.z.d_model, case.base.device) if texts else []
    suitable = [text for text, one in zip(texts, done, strict=True) if one.mode != case.setup.behaviour]
    if not suitable:
        raise ValueError(
            f"got {case.bench.subject.title} without harmless prompts that do not show {case.setup.behaviour!r} by "
            "themselves; expected a list benign in prompts.json; add it"
        )
    return tuple(suitable[:count])


def differences(rows: Sequence[Mapping[str, Any]], kind: str) -> dict[int, float]:
    """Share on harmless prompts minus share on the prompts searched on, by case."""
    return {row["case"]: row["harmless"] - row["own"] for row in pick(rows, kind_of_mean=kind)}


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Means beyond single vectors."""
    plain, single = differences(rows, "plain"), differences(rows, "single")
    both = [case for case in plain if case in single]
    return [
        at_least(
            "Plain means work on harmless prompts where they fail on harmful ones",
            f"at least {MORE} more",
            f"share with the behaviour under means of {AVERAGED}, harmless minus own prompts, minus the same "
            "for single vectors, which is the control",
            [plain[case] - single[case] for case in both],
            MORE,
            [single[case] for case in both],
        )
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """Shares on both kinds of prompts."""
    labels = (("single", "single vectors"), ("plain", "plain means"), ("root", "means scaled by the root"))
    groups = [
        (f"{label}, {where} prompts", column(pick(rows, kind_of_mean=kind), where), style)
        for kind, label in labels
        for where, style in (("harmless", "value"), ("own", "control"))
    ]
    return [bars("Share of prompts with the behaviour", "Means over bases.", groups)]

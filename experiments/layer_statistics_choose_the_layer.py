"""Simple statistics of a layer tell where to read the refusal direction.

Source: notes on choosing the intervention layer: low mean variance of each class first, then low largest variance, then
    low cosine of the class means (D).
Prediction: over places, each of the three ranks them as running the model does, rank correlation at least 0.5; the
    first by mean variance loses at most 0.5 of what a random admissible place loses (of all places, where none is
    admissible).
Control: the same scores in shuffled order; and for comparison the AUC of a probe and the Fisher ratio.
Refuted if: the interval of a correlation lies below 0.5, or that of the relative regret above 0.5.
Changed after a first run: where no place passes the published filters, all places with numbers are compared; before,
    such a split ended the experiment with an error. The thresholds were not changed. No single direction carries the
    refusals of the first embedded model, so its sibling is studied now; the first run was on the first model. The
    thresholds were not changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from random import Random
from typing import Any

from scipy.stats import spearmanr

from experiments.lab import Bench, Ranking, Refusing, at_least, at_most, column, needs, pick, refusing
from mi_ortho import Verdict
from mi_ortho.pages import Estimate
from mi_ortho.refusal import (
    HIGHER_IS_BETTER,
    candidates,
    compare_rankings,
    difference_of_means,
    instruction_suffix,
    ranking_scores,
    residual_sites,
    validation,
)
from mi_ortho.stats import SIGNED_SCALE

CORRELATION = 0.5
REGRET = 0.5
NOTES = ("mean_variance", "max_variance", "cosine")


@dataclass(frozen=True)
class Config:
    """Prompts of each kind, splits, and how many positions from the end are candidates."""

    model: str | None = "embedded/naive"
    train: int = 24
    validation: int = 12
    seeds: int = 4
    positions: int = 4


SMOKE = Config(train=8, validation=4, seeds=2, positions=1)
NEEDS = (needs.refusals, needs.template)


def run(config: Config, bench: Bench) -> None:
    """One row for each split and score."""
    for seed in range(config.seeds):
        for part in bench.stage({"kind": "ranking", "name": "fisher"}, seed=seed):
            study = refusing(bench, train=config.train, validation=config.validation, test=1, seed=seed)
            measure(replace(study, bench=part), seed, config.positions)
        bench.track("splits", seed + 1, config.seeds)


def measure(study: Refusing, seed: int, positions: int) -> None:
    """Score every place by the model itself, then by each statistic."""
    sets, model = study.sets, study.model
    columns = instruction_suffix(model).positions[-positions:]
    extraction = difference_of_means(model, sets.train_harmful, sets.train_harmless, residual_sites(model), columns)
    oracle = list(
        candidates(validation(model, sets.validation_harmful, sets.validation_harmless, study.tokens), extraction)
    )
    grids = ranking_scores(model, extraction, sets.validation_harmful, sets.validation_harmless)
    scores = {name: grid.flatten().tolist() for name, grid in grids.items()}
    admissible = sum(not one.rejected for one in oracle)
    if not admissible:  # no place passes the published filters: all places with numbers are compared
        oracle = [replace(one, rejected=()) if isfinite(one.bypass) else one for one in oracle]
    for ranking in compare_rankings(oracle, scores):
        null = shuffled(scores[ranking.name], [one.bypass for one in oracle], seed)
        study.bench.record(
            kind="ranking",
            seed=seed,
            name=ranking.name,
            spearman=ranking.spearman_all,
            regret=ranking.regret,
            random_regret=ranking.random_regret,
            null=null,
            admissible=admissible,
            relative=relative(ranking.regret, ranking.random_regret),
        )


def shuffled(scores: Sequence[float], bypass: Sequence[float], seed: int) -> float | None:
    """The correlation with the scores in random order."""
    pairs = [(score, -value) for score, value in zip(scores, bypass) if value == value and score == score]
    mixed = [score for score, _ in pairs]
    Random(seed).shuffle(mixed)
    if len(set(mixed)) < 2:
        return None
    return float(spearmanr(mixed, [value for _, value in pairs])[0])  # pyright: ignore[reportArgumentType]


def relative(regret: float | None, random_regret: float | None) -> float | None:
    """Regret over that of a random admissible place; None where even a random one loses nothing."""
    return None if regret is None or not random_regret else regret / random_regret


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """One verdict for each statistic of the notes, and one for the place their order takes first."""

    def of_name(name: str, field: str) -> list[float]:
        return column(pick(rows, kind="ranking", name=name), field)

    words = {
        "mean_variance": "low mean variance",
        "max_variance": "low largest variance",
        "cosine": "low cosine of means",
    }
    return [
        *(
            at_least(
                f"D: {words[name]} finds the places where the direction works",
                f"rank correlation with the model's own scores at least {CORRELATION}",
                "Spearman correlation over places, one value a split; control: shuffled order",
                of_name(name, "spearman"),
                CORRELATION,
                of_name(name, "null"),
                scale=SIGNED_SCALE,
            )
            for name in NOTES
        ),
        at_most(
            "D: the place of lowest mean variance is nearly the best",
            f"at most {REGRET} of a random place's loss",
            "refusal score lost to the best admissible place, relative to a random one's; control: probe AUC",
            of_name("mean_variance", "relative"),
            REGRET,
            of_name("auc", "relative"),
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """All five scores beside shuffled order."""
    estimates = []
    for name in HIGHER_IS_BETTER:
        for field, label, style in (("spearman", name, "value"), ("null", f"{name}, shuffled", "control")):
            values = column(pick(rows, kind="ranking", name=name), field)
            if values:
                verdict = at_least("", "", "", values, CORRELATION, [])
                estimates.append(Estimate(label.replace("_", " "), verdict.value, verdict.interval, style))
    caption = "Rank correlation with the refusal score under ablation; means over splits with 95 % intervals."
    return (
        [Ranking("Scores of places against the model itself", caption, tuple(estimates), CORRELATION)]
        if estimates
        else []
    )

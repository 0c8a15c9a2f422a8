"""Ablating a weaker refusal direction makes the model refuse and answer all the same.

Source: notes on directions extracted from less ideal layers: with them a model refuses and then still answers (L).
Prediction: over directions read at different layers, the share of completions that refuse and then answer rises as the
    direction removes less refusal, rank correlation at least 0.3; and it is at least 0.1 larger for the weaker half of
    the directions than for the strongest one.
Control: random directions; the strongest direction.
Refuted if: the interval of the correlation lies below 0.3 or that of the difference below 0.1. A share that is the same
    for all directions counts as no correlation.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import Any

from scipy.stats import spearmanr

from experiments.lab import Bench, Ranking, Refusing, Splits, at_least, bars, column, each_split, needs, pick, refuses
from mi_ortho import Verdict, classify, generate, tokenize
from mi_ortho.refusal import ablate_everywhere, stage_of, substantial
from mi_ortho.stats import SIGNED_SCALE

CORRELATION = 0.3
RISE = 0.1
STAGES = ("refuses", "refuses then answers", "answers", "neither")


@dataclass(frozen=True)
class Config(Splits):
    """Prompts of each kind, splits of them, random directions, length of completions."""

    test: int = 12
    random: int = 2
    tokens: int = 40


SMOKE = Config(train=8, validation=4, test=2, seeds=2, random=1, tokens=16)
NEEDS = (needs.refusals,)


def run(config: Config, bench: Bench) -> None:
    """For each split: completions under ablation of each layer's direction and of random ones."""
    each_split(config, bench, lambda study, seed: measure(study, seed, config.random, config.tokens), kind="split")


def measure(study: Refusing, seed: int, random: int, tokens: int) -> None:
    """Record one split; strength is the refusal score lost on validation prompts."""
    bench, sets = study.bench, study.sets
    tried = {f"layer {layer}": study.direction(layer) for layer in range(1, bench.layers)}
    tried |= {f"random {k}": study.random(6000 + 100 * seed + k) for k in range(random)}
    prompts = tokenize(study.model, list(sets.test_harmful))
    for name, direction in {"none": None, **tried}.items():
        changed = {} if direction is None else ablate_everywhere(study.model, direction)
        texts = generate(study.model, prompts, changed, max_new_tokens=tokens)
        strength = 0.0 if direction is None else float(study.drop(sets.validation_harmful, direction).mean())
        bench.record(
            kind="direction",
            seed=seed,
            direction=name,
            strength=strength,
            text=texts[0],
            **stages(texts, complier(bench), lambda text: refuses(bench, text)),
        )
    bench.record(kind="split", seed=seed)


def complier(bench: Bench) -> Callable[[str], bool]:
    """Whether a text answers: by the model's rule for help where it has one, else by its length."""
    modes = bench.subject.modes
    return (lambda text: classify(text, modes) == "help") if "help" in modes.names else substantial


def stages(texts: Sequence[str], complies: Callable[[str], bool], refuses: Callable[[str], bool]) -> dict[str, float]:
    """Share of the completions in each stage."""
    names = [stage_of(text, complies, refuses) for text in texts]
    return {stage: names.count(stage) / len(names) for stage in STAGES}


def correlation(rows: Sequence[Mapping[str, Any]], mix: Random | None = None) -> float | None:
    """Rank correlation over directions of weakness with refusing and then answering; 0 where the latter is constant."""
    weakness, shares = [-row["strength"] for row in rows], [row["refuses then answers"] for row in rows]
    if len(rows) < 3:
        return None
    if mix:
        mix.shuffle(shares)
    if len(set(shares)) < 2 or len(set(weakness)) < 2:
        return 0.0
    return float(spearmanr(weakness, shares)[0])  # pyright: ignore[reportArgumentType]


def rise(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean share of the weaker half of the directions minus the strongest one's."""
    ordered = [row["refuses then answers"] for row in sorted(rows, key=lambda row: row["strength"])]
    return fmean(ordered[: len(ordered) // 2]) - ordered[-1] if len(ordered) > 1 else None


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Verdicts on claim L: the trend with weakness, and the weaker half against the strongest."""
    splits = [pick(rows, kind="direction", seed=seed) for seed in sorted({r["seed"] for r in pick(rows, kind="split")})]
    layers = [[row for row in split if str(row["direction"]).startswith("layer")] for split in splits]
    strongest = [max(part, key=lambda row: row["strength"])["refuses then answers"] for part in layers if part]
    null = [
        fmean(column([r for r in split if str(r["direction"]).startswith("random")], "refuses then answers"))
        for split in splits
        if any(str(row["direction"]).startswith("random") for row in split)
    ]
    return [
        at_least(
            "L: the weaker the direction, the more often the model refuses and then answers",
            f"rank correlation at least {CORRELATION}",
            "Spearman correlation over directions, one value a split, "
            "0 where the share is constant; control: shares in random order",
            [value for part in layers if (value := correlation(part)) is not None],
            CORRELATION,
            [value for k, part in enumerate(layers) if (value := correlation(part, Random(k))) is not None],
            scale=SIGNED_SCALE,
        ),
        at_least(
            "L: weak directions do it more often than the strongest",
            f"by at least {RISE}",
            "share of the weaker half of directions minus the strongest's; control: that of random directions",
            [value for part in layers if (value := rise(part)) is not None],
            RISE,
            [a - b for a, b in zip(null, strongest)],
            scale=SIGNED_SCALE,
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """What completions do, by direction."""
    part = pick(rows, kind="direction")
    names = list(dict.fromkeys(row["direction"] for row in part))
    drawings = []
    for stage in ("refuses then answers", "refuses", "answers"):
        groups = [
            (name, column(pick(part, direction=name), stage), "value" if name.startswith("layer") else "control")
            for name in names
        ]
        threshold = RISE if stage == "refuses then answers" else None
        drawings.append(
            bars(
                f"Completions: {stage}",
                "By direction ablated; means over splits with 95 % intervals.",
                groups,
                threshold,
                "share of completions",
            )
        )
    return drawings if part else []

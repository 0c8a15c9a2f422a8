"""What the tests of `stats` plant: samples whose truth is known, and how many wrong answers chance allows."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import numpy as np
from scipy.stats import binom

from mi_ortho.stats import Count, Measured, searched

RUNS = 200
Draw = Callable[[np.random.Generator], Measured]


def generators(runs: int = RUNS) -> Iterable[np.random.Generator]:
    return (np.random.default_rng(seed) for seed in range(runs))


def coverage(draw: Draw, truth: float, runs: int = RUNS) -> float:
    """The share of planted samples whose interval holds the truth."""
    ends = np.array([draw(random).interval for random in generators(runs)])
    return float(np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1])))


def allowed(runs: int = RUNS, error: float = 0.05) -> int:
    """The most wrong answers that 95 % of all series of runs have at that rate of error."""
    return int(binom.ppf(0.95, runs, error))


def nested(labels: int, prompts: int, model: Hashable = "one") -> Sequence[Mapping[str, Hashable]]:
    """Rows of one model with so many bases and prompts."""
    return [{"model": model, "base": base, "prompt": prompt} for base in range(labels) for prompt in range(prompts)]


def counts(values: Iterable[float], limit: float) -> list[Count]:
    """Counts of searches that end at a limit."""
    return [searched(min(float(value), limit), limit) for value in values]

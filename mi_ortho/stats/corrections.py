"""Many tests of one family: corrected p-values, and what they leave of the verdicts."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from statsmodels.stats.multitest import multipletests

from mi_ortho.stats.measured import ERROR
from mi_ortho.stats.outcomes import Verdict

_NAMES = {"holm": "Holm", "fdr_bh": "Benjamini and Hochberg"}


def holm(verdicts: Sequence[Verdict], *, error: float = ERROR) -> list[Verdict]:
    """Verdicts of a confirmatory family: at most `error` is the chance that any of them is decided wrongly (Holm 1979).

    A decided verdict whose corrected p-value misses the level becomes undecided, and says so. Every verdict with a
    p-value counts as a test, whatever its outcome; those without stay as they are.
    """
    return _corrected(verdicts, "holm", error)


def benjamini_hochberg(verdicts: Sequence[Verdict], *, error: float = ERROR) -> list[Verdict]:
    """Verdicts of an exploratory family: of those that stay decided, at most the share `error` is wrong on average.

    See `holm`; the correction is Benjamini and Hochberg's (1995).
    """
    return _corrected(verdicts, "fdr_bh", error)


def _corrected(verdicts: Sequence[Verdict], method: Literal["holm", "fdr_bh"], error: float) -> list[Verdict]:
    if not 0 < error < 1:
        raise ValueError(f"got the error rate {error}; expected a share between 0 and 1; write 0.05 for 5 %")
    p_values = [verdict.p_value for verdict in verdicts if verdict.p_value is not None]
    if not p_values:
        return list(verdicts)
    _, corrected, *_ = multipletests(p_values, alpha=error, method=method)
    adjusted = iter(np.asarray(corrected).tolist())
    return [
        each if each.p_value is None else _held(each, next(adjusted), f"{_NAMES[method]}, {len(p_values)} tests", error)
        for each in verdicts
    ]


def _held(verdict: Verdict, p_value: float, how: str, error: float) -> Verdict:
    """A verdict with its corrected p-value, undecided where that misses the level."""
    if verdict.supported is None or p_value <= error:
        return replace(verdict, p_adjusted=p_value)
    why = f"p = {verdict.p_value:.2g} is {p_value:.2g} after correction ({how}), above {error:g}"
    return replace(verdict, supported=None, why=why, p_adjusted=p_value)

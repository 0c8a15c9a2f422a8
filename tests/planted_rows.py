"""Rows of claims with a planted truth, and what their verdicts come to."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.lab.claims import load

Rows = list[dict[str, Any]]


def outcomes(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The outcome of each prediction of a claim by its key."""
    claim = load(name)
    assert claim.predictions is not None and (not rows or claim.figures(rows))
    return dict(zip(claim.predictions.each, (verdict.outcome for verdict in claim.judge(rows)), strict=True))


def answer_rows(shares: Mapping[str, float], *, refused: float = 1.0, count: int = 60) -> Rows:
    """Rows of answers: that share of the prompts is refused without ablation, and these are answered by each way."""
    rows: Rows = []
    for way, share in {"none": 1.0 - refused, **shares}.items():
        for k in range(count):
            answered = (k * 0.618034) % 1.0 < share
            rows.append(
                {"kind": "answer", "seed": k % 4, "way": way, "text": f"t{k}", "prompt": f"t{k}", "answered": answered}
            )
    return rows

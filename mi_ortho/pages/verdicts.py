"""What a run came to: each verdict in a word, and drawn on its scale."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mi_ortho.stats import outcome


def verdict_rows(verdicts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each verdict with its outcome in a word and a drawing of value, interval, threshold and control on one scale."""
    return [
        {
            **_VERDICT,
            **verdict,
            "outcome": outcome(verdict),
            "reason": verdict.get("failed") or verdict.get("why") or "",
            "drawing": _whisker(verdict),
        }
        for verdict in verdicts
    ]


_VERDICT = dict.fromkeys(("claim", "prediction", "statistic", "value", "interval", "threshold", "control", "supported"))


def _whisker(verdict: Mapping[str, Any]) -> Markup:
    """Value (dot), interval (line), threshold (tick), control (ring) on one scale; empty with nothing to compare."""
    points = {key: verdict.get(key) for key in ("value", "threshold", "control")}
    numbers = {
        key: float(value)
        for key, value in points.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    if "value" not in numbers or len(numbers) < 2:
        return Markup("")
    ends = [float(edge) for edge in verdict.get("interval") or [] if isinstance(edge, int | float)]
    low, high = min([*numbers.values(), *ends]), max([*numbers.values(), *ends])

    def place(value: float) -> float:
        return round(6 + 108 * (value - low) / ((high - low) or 1.0), 1)

    marks = [Markup('<line class="axis" x1="2" x2="118" y1="10" y2="10"/>')]
    if len(ends) == 2:
        marks.append(
            Markup('<line class="interval" x1="{}" x2="{}" y1="10" y2="10"/>').format(place(ends[0]), place(ends[1]))
        )
    if "threshold" in numbers:
        marks.append(
            Markup('<line class="threshold" x1="{0}" x2="{0}" y1="2" y2="18"/>').format(place(numbers["threshold"]))
        )
    if "control" in numbers:
        marks.append(Markup('<circle class="control" cx="{}" cy="10" r="3.5"/>').format(place(numbers["control"])))
    marks.append(Markup('<circle class="value" cx="{}" cy="10" r="3.5"/>').format(place(numbers["value"])))
    return Markup('<svg class="whisker" viewBox="0 0 120 20" aria-hidden="true">{}</svg>').format(
        Markup("").join(marks)
    )

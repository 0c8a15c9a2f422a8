"""What a report shows of the search for the norm: displacement, new behaviours and readability by norm, and answers."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from markupsafe import Markup

from mi_ortho.nulls.chance import CONTROLS
from mi_ortho.pages.data_table import table
from mi_ortho.pages.page import Section
from mi_ortho.pages.plots import Panel, Series, curve, finite
from mi_ortho.pages.sections import Card, completions, curves
from mi_ortho.pages.text import number
from mi_ortho.runs.rows import Record, numbers, pick
from mi_ortho.studies.family.verdicts import modes_shown

_COLUMNS = {
    "norm": "norm R",
    "times": "R / stream",
    "way": "tried",
    "wanted": "as wanted",
    "new": "new and readable",
    "random_new": "random that are",
    "sinking": "that make sinks",
    "modes": "behaviours",
    "random_modes": "random vectors'",
    "best": "largest displacement",
    "middle": "median",
    "random": "random, median",
    "readability": "median readability",
}
_WAYS = {
    "up": "on the way up",
    "beyond": "beyond the first success",
    "down": "between failure and success",
    "anew": "again, found anew",
}
_LEGEND = [
    ("best", "candidates: the largest, or those with the wanted behaviour", "family"),
    ("middle", "candidates: their median, or those with any new behaviour", "null"),
    ("random", "random vectors of the same norm: the same as the second", CONTROLS["isotropic"].colour),
]
_ANEW = ("anew", "candidates found anew: the same as the first", "c1")
_LEAD = (
    "The norm of the base is the smallest at which a candidate makes the model show a behaviour that it does not show "
    "by itself, that can be read, and that makes no attention sinks of ordinary positions. Candidates are mutually "
    "orthogonal MELBO vectors; the search at each norm begins where that at a smaller one ended. Where nothing wanted "
    "is seen before half of the answers can no longer be read, the norms below are searched anew. The vertical line is "
    "the norm that was taken."
)
_CAPTION = (
    "The stream is the residual stream where vectors are added, its norm the median over positions without attention "
    "sinks. Readability is the mean log-probability of an answer without steering, less 5 nats times its repetition; "
    "the largest of it belongs to the clearest answer."
)


def radius_section(rows: Sequence[Record], config: Mapping[str, Any]) -> Section | None:
    """The search by norm: figure, table, what the model writes at the norm taken and beyond; None without a search."""
    tries = _tries(pick(rows, kind="radius_search"), str(config.get("behaviour", "auto")))
    if not tries:
        return None
    taken = next(iter(pick(rows, kind="radius")), {})
    body = _figure(tries, taken.get("times")) + table(tries, _COLUMNS, name="radius", unfiltered=list(_COLUMNS))
    if cards := _cards(rows, taken.get("step"), str(config.get("behaviour", "auto"))):
        plain = next(iter(pick(rows, kind="unsteered")), {})
        body += completions(cards, prompt=str(plain.get("prompt_text") or ""))
    return Section("The smallest norm that shows something new", body, _LEAD, "radius", "Norm")


def _tries(rows: Sequence[Record], wanted: str) -> list[dict[str, Any]]:
    """One row for every norm, the smallest first."""
    steps = {row["step"] for row in rows}
    return sorted((_try(pick(rows, step=step), wanted) for step in steps), key=lambda row: row["norm"])


def _try(rows: Sequence[Record], wanted: str) -> dict[str, Any]:
    mine, random = pick(rows, control=None), pick(rows, control="isotropic")
    new = [row for row in mine if row["new"]]
    return {
        "norm": rows[0]["norm"],
        "times": rows[0]["times"],
        "way": _WAYS.get(str(rows[0]["way"]), rows[0]["way"]),
        "wanted": sum(wanted in ("auto", row["mode"]) for row in new),
        "new": len(new),
        "random_new": sum(bool(row["new"]) for row in random),
        "sinking": sum(bool(row.get("sinks")) for row in mine),
        "modes": modes_shown(mine),
        "random_modes": modes_shown(random),
        "best": max(numbers(mine, "displacement"), default=None),
        "middle": _median(mine, "displacement"),
        "random": _median(random, "displacement"),
        "clearest": max(numbers(mine, "readability"), default=None),
        "readability": _median(mine, "readability"),
        "random_readability": _median(random, "readability"),
    }


def _median(rows: Sequence[Record], name: str) -> float | None:
    values = numbers(rows, name)
    return median(values) if values else None


def _figure(tries: Sequence[Mapping[str, Any]], taken: float | None) -> Markup:
    columns = {
        ("Displacement", "|z(θ) − z(0)|"): ("best", "middle", "random"),
        ("Answers with a behaviour that is new", "vectors"): ("wanted", "new", "random_new"),
        ("Readability of answers", "nats"): ("clearest", "readability", "random_readability"),
    }
    along, anew = ([row for row in tries if (row["way"] == _WAYS["anew"]) == again] for again in (False, True))
    panels = list[Markup]()
    for (title, unit), names in columns.items():
        lines = [
            Series(label, [row["times"] for row in along], [row[name] for row in along], style, key)
            for (key, label, style), name in zip(_LEGEND, names, strict=True)
        ]
        key, label, style = _ANEW
        again = [row[names[0]] for row in anew]
        lines.append(Series(label, [row["times"] for row in anew], again, style, key, dots=True))
        lines = [line for line in lines if finite(line.y)]
        panel = Panel(
            title,
            unit,
            "R / median norm of the stream",
            marker=taken,
            log=unit.startswith("|"),
            logx=True,
            whole=unit == "vectors",
            group="radius",
            letter="abc"[len(panels)],
        )
        panels += [curve(panel, lines)] if lines else []
    key, label, style = _ANEW
    return curves(panels, _CAPTION, legend=_LEGEND + [(key, label, f"{style} dots")] * bool(anew))


def _cards(rows: Sequence[Record], taken: object, wanted: str) -> list[Card]:
    """Without steering, two new answers at the norm taken (wanted ones first), and those of the same vectors beyond."""
    tried = pick(rows, kind="radius_search", control=None)
    new = [row for row in pick(tried, step=taken) if row["new"]]
    successes = sorted(new, key=lambda row: row["mode"] != wanted)[:2]
    beyond = [row for row in pick(tried, way="beyond") if row["index"] in {one["index"] for one in successes}]
    cards = [
        Card("Without steering", str(row.get("text") or ""), row.get("mode"))
        for row in pick(rows, kind="unsteered")[:1]
    ]
    cards += [
        Card(
            f"Candidate {row['index']}, {'norm taken' if row in successes else 'beyond'}",
            str(row["text"]),
            row["mode"],
            f"R = {number(row['norm'])}, {number(row['times'], 2)} of the stream",
        )
        for row in successes + beyond
    ]
    return cards if successes else []

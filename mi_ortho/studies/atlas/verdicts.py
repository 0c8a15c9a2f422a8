"""What the rows of an atlas come to: a score for each pair of layers and norm, and the best one."""

from collections.abc import Mapping, Sequence
from typing import Any

from mi_ortho.behaviours import INCOHERENT
from mi_ortho.runs.rows import Record, numbers, pick

Row = dict[str, Any]


def trials(rows: Sequence[Record], behaviour: str = "auto") -> list[Row]:
    """One row for each pair of layers and norm, in the order in which they were tried.

    `score` is the number of different new behaviours under MELBO vectors less that under random ones (or, with a
    `behaviour`, of vectors that show it); new is one that a rule names and that is not the unsteered one. `others` is
    the number of readable answers unlike the unsteered one, less that of random vectors. Vectors that turn ordinary
    positions into attention sinks (`sinking`) count in neither: no family repeats their activations. `reach` is the
    displacement over that of random vectors of the norm.
    """
    plain = next(iter(pick(rows, kind="unsteered")), None)
    if plain is None:
        return []
    tried = dict.fromkeys((row["source"], row["target"], row["norm"]) for row in pick(rows, kind="response"))
    return [_trial(rows, plain, behaviour, *place) for place in tried]


def _trial(rows: Sequence[Record], plain: Record, behaviour: str, source: int, target: int, norm: float) -> Row:
    place = {"source": source, "norm": norm}
    answers = pick(rows, kind="answer", what="melbo", target=target, **place)
    sound = [row for row in answers if not row.get("sinks")]
    chance = pick(rows, kind="answer", what="random", **place)
    moved = {what: pick(rows, kind="response", what=what, target=target, **place)[-1] for what in ("melbo", "random")}
    mine, theirs = (_new(each, plain) for each in (sound, chance))
    wanted = [behaviour] if behaviour != "auto" else None
    score = len(mine) - len(theirs) if wanted is None else _count(sound, behaviour) - _count(chance, behaviour)
    shown = [row for row in sound if row["mode"] in (wanted or mine)]
    example = next(iter([*shown, *pick(sound, changed=True)]), None)
    readable = numbers(answers, "readability")
    return {
        "source": source,
        "target": target,
        "norm": norm,
        "radius": answers[0]["radius"],
        "score": score,
        "behaviours": mine,
        "random": theirs,
        "sinking": len(answers) - len(sound),
        "others": sum(row["changed"] for row in sound) - sum(row["changed"] for row in chance),
        "changed": sum(row["changed"] for row in answers) / len(answers),
        "changed_random": sum(row["changed"] for row in chance) / len(chance),
        "unreadable": sum(row["mode"] == INCOHERENT for row in answers) / len(answers),
        "unreadable_random": sum(row["mode"] == INCOHERENT for row in chance) / len(chance),
        "readability": sum(readable) / len(readable) if readable else None,
        "displacement": moved["melbo"]["displacement"],
        "reach": moved["melbo"]["displacement"] / max(moved["random"]["displacement"], 1e-30),
        "linear": moved["melbo"]["linear"],
        "linear_random": moved["random"]["linear"],
        "growth": moved["melbo"]["growth"],
        "text": "" if example is None else example["text"],
    }


def _new(answers: Sequence[Record], plain: Record) -> list[str]:
    """The different behaviours that the model does not show by itself, in alphabetical order."""
    return sorted({row["mode"] for row in answers if row["mode"] in plain["behaviours"]} - {plain["mode"]})


def _count(answers: Sequence[Record], behaviour: str) -> int:
    return sum(row["mode"] == behaviour for row in answers)


def rank(trial: Mapping[str, Any]) -> tuple[float, ...]:
    """What trials are ordered by: behaviours, then other answers, then how far the target moves."""
    return (trial["score"], trial["others"], trial["reach"])


def cells(rows: Sequence[Record], behaviour: str = "auto") -> list[Row]:
    """The best trial of each pair of layers, with its spectrum and window of norms, the best pair first.

    `low` is the smallest norm with a readable answer unlike the unsteered one, `high` the first at which most answers
    cannot be read; None where no norm that was tried is.
    """
    tried = trials(rows, behaviour)
    pairs = dict.fromkeys((trial["source"], trial["target"]) for trial in tried)
    ranked = []
    for source, target in pairs:
        mine = pick(tried, source=source, target=target)
        low = [trial["norm"] for trial in mine if trial["changed"] > 0]
        high = [trial["norm"] for trial in mine if trial["unreadable"] > 0.5]
        spectrum = pick(rows, kind="spectrum", source=source, target=target)[-1]
        window = {"low": min(low, default=None), "high": min(high, default=None)}
        ranked.append({**max(mine, key=rank), **window, **shape(spectrum)})
    return sorted(ranked, key=rank, reverse=True)


def shape(spectrum: Mapping[str, Any]) -> Row:
    """A spectrum in numbers: the largest value and that of random directions, then the largest over second and last.

    >>> shape({"values": [8.0, 4.0, 2.0], "typical": 1.0})
    {'gain': 8.0, 'typical': 1.0, 'gap': 2.0, 'fall': 4.0}
    """
    values = spectrum["values"]
    first, second, last = values[0], values[1], values[-1]
    gap, fall = (first / max(value, 1e-30) for value in (second, last))
    return {"gain": first, "typical": spectrum["typical"], "gap": gap, "fall": fall}


def best_of(ranked: Sequence[Mapping[str, Any]]) -> Row | None:
    """Layers and norm of the best pair; None where no MELBO vector changes the answer more than random ones do."""
    if not ranked or (ranked[0]["score"] <= 0 and ranked[0]["others"] <= 0):
        return None
    return {name: ranked[0][name] for name in ("source", "target", "radius", "norm", "behaviours")}


def summarise(rows: Sequence[Record], title: str, behaviour: str) -> Row:
    """The summary of a run."""
    ranked, tried = cells(rows, behaviour), trials(rows, behaviour)
    best = best_of(ranked)
    good = sum(cell["score"] > 0 for cell in ranked)
    count = len(pick(rows, kind="answer", what="melbo"))
    if best is None:
        first = f"No MELBO vector changes what {title} writes more than random vectors do."
    else:
        shown = ", ".join(best["behaviours"]) or "none that a rule names"
        place = f"Blocks {best['source']} to {best['target']} at norm {best['radius']:.3g}"
        first = (
            f"{place} ({best['norm']:g} of the stream's) show most behaviours: {shown}; "
            f"random vectors of the norm: {', '.join(ranked[0]['random']) or 'none'}."
        )
    rest = (
        f"{good} of {len(ranked)} pairs of layers show more behaviours under MELBO than under random vectors. The best "
        f"was chosen among {len(tried)} tries with {count} vectors: another seed may choose another."
    )
    tiles = [
        (str(len(ranked)), "pairs of layers"),
        (str(good), "with a new behaviour"),
        (str(count), "MELBO vectors"),
    ]
    return {"headline": f"{first} {rest}", "best": best, "tiles": tiles}

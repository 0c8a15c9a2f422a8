"""docs/results/the-post-on-….md: what the published posts say, beside what a replication of them measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, median
from typing import Any

from experiments.lab.figures import Lines
from experiments.lab.post import Member, Replication
from mi_ortho import Run
from mi_ortho.nulls import RANDOM_BASES, control
from mi_ortho.pages import Panel, Series, number
from mi_ortho.runs import numbers, pick, write_file

LOSSES = (0.5, 0.707, 0.85)  # relative activation losses up to which vectors are counted
PLACES: tuple[tuple[str, Callable[[int], int]], ...] = (
    ("1st", lambda n: 0),
    ("2nd", lambda n: 1),
    ("14th", lambda n: 13),
    ("10 %", lambda n: n // 10),
    ("25 %", lambda n: n // 4),
    ("50 %", lambda n: n // 2),
    ("last", lambda n: n - 1),
)
FIRST = 6  # vectors of a family that stand beside a random base's
TEXT = 110  # characters of a completion in a table


@dataclass(frozen=True, eq=False)
class Grown:
    """One family of the replication with its rows."""

    member: Member
    run: Run

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """All of its records."""
        return self.run.records()

    def of(self, kind: str, match: str = "activation", **values: object) -> list[dict[str, Any]]:
        """Rows of one kind, by index."""
        chosen = pick(self.rows, kind=kind, match=match, **values)
        return sorted(chosen, key=_index)

    @property
    def base(self) -> dict[str, Any]:
        """The row of the base."""
        return pick(self.rows, kind="base")[0]

    def kept(self, rows: Sequence[dict[str, Any]]) -> int:
        """How many rows show the base's behaviour."""
        return sum(row["mode"] == self.base["mode"] for row in rows)

    def ended(self, match: str = "activation") -> str:
        """Whether the family was followed to its end, in words."""
        settings: dict[str, Any] = dict(self.run.config)
        lost, family = settings.get("until_lost", 0), self.of("vector", match)
        count = settings["n" if match == "activation" else "n_kl"]
        if lost and len(family) >= lost and not self.kept(family[-lost:]):
            return f"ended: none of the last {lost}"
        return "ended: no direction left" if len(family) < count else "not ended"


def _index(row: dict[str, Any]) -> int:
    return int(row.get("index", 0))


def write_post(what: Replication, grown: Sequence[tuple[Member, Run]], folder: Path) -> Path:
    """Write the page and its figures; returns the page.

    Raises:
        ValueError: no family is finished.
    """
    families = [Grown(member, run) for member, run in grown]
    if not families:
        raise ValueError(
            f"got no finished family of the replication on {what.model}; expected one; run "
            f"`python -m experiments post --model {what.model}`"
        )
    stem = f"the-post-on-{what.name}"
    figures = {f"{stem}-{name}.svg": figure for name, figure in _figures(families).items()}
    for name, figure in figures.items():
        write_file(folder / name, figure.svg())
    path = folder / f"{stem}.md"
    write_file(path, _page(what, families, figures))
    return path


def _page(what: Replication, families: Sequence[Grown], figures: dict[str, Lines]) -> str:
    pictures = [f"![{figure.title}]({name})\n\n{figure.caption}" for name, figure in figures.items()]
    parts = [
        f"# The post on {what.model}",
        _headline(families),
        _introduction(what, families),
        "## How many vectors, and beside what\n\n" + _counts(families),
        *pictures,
        "## What the post says, and what is measured here\n\n" + _statements(families),
        *[_behaviour(families, behaviour) for behaviour in dict.fromkeys(one.member.behaviour for one in families)],
    ]
    return "\n\n".join(parts) + "\n"


def _headline(families: Sequence[Grown]) -> str:
    first = families[0]
    family, random = first.of("vector"), first.of("control", control="isotropic")
    return (
        f"**Of {len(family)} mutually orthogonal vectors with at most {first.member.cap:g} times the base's norm, "
        f"{first.kept(family)} show the base's behaviour ({first.base['mode']}), the last at index "
        f"{_last(first, family)}; of {len(random)} random vectors of the same norms, {first.kept(random)}.**"
    )


def _introduction(what: Replication, families: Sequence[Grown]) -> str:
    place, facts = what.place, families[0].run.config
    missing = what.behaviours * len(what.caps) - len(families)
    return (
        f"Blocks {place['source']} to {place['target']}, positions: {place['where']}, prompt: "
        f"“{place['prompts'][0]}”, bases of norm {number(families[0].base['norm'])} by MELBO. A family ends when the "
        f"last {facts.get('until_lost')} vectors, looked at after every 32, have lost the behaviour; no more than "
        f"{facts['n']} are searched for. {_controlled(what)}"
        f"Vectors are counted from 0. All completions are greedy. Every number comes "
        f"from\n\n```\npython -m experiments post --model {what.model}\n```"
        + (f"\n\n{missing} of its families are not finished and do not stand here." if missing else "")
    )


def _controlled(what: Replication) -> str:
    """Which vectors have controls."""
    some = f"Controls are of {what.controls} vectors at most, spread evenly over a family"
    every = f"; in {' and '.join(what.whole)} of all" if what.whole else ""
    return f"{some}{every}. " if what.controls else ""


def _last(one: Grown, rows: Sequence[dict[str, Any]]) -> str:
    """The index of the last vector that shows the behaviour."""
    kept = [int(row["index"]) for row in rows if row["mode"] == one.base["mode"]]
    return str(kept[-1]) if kept else "-"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _counts(families: Sequence[Grown]) -> str:
    head = ["behaviour", "cap", "match", "keep it", "last", "the family", "isotropic", "covariance", "span", "negated"]
    head += ["at the base's norm", *(f"L ≤ {loss:g}" for loss in LOSSES), "linear null, the same"]
    head += ["posterior: family / isotropic", f"L of the first {FIRST}: family / random base / moved as far"]
    rows = []
    for one in families:
        for match in ("activation", "kl"):
            family = one.of("vector", match)
            if family:
                rows.append(_count_row(one, match, family))
    note = (
        "`keep it`: vectors that show the base's behaviour, of those searched for. The columns from `isotropic` on "
        "count, of so many vectors of the same norms, those that show it; `span` is random in the family's own span. "
        "`L` is the relative activation loss, 0 a perfect match and 1 no effect; the linear null is how many vectors "
        "a linear map with the model's Jacobian at 0 would allow, without a limit on the norm. The posterior is the "
        "median of that of the base's behaviour among those with an opening; a random base has the base's norm, and "
        "one moved as far is so long that it displaces the target activations as far as the base."
    )
    return _table(head, rows) + "\n\n" + note


def _count_row(one: Grown, match: str, family: Sequence[dict[str, Any]]) -> list[object]:
    def beside(name: str) -> str:
        rows = one.of("control", match, control=name)
        return f"{one.kept(rows)} of {len(rows)}"

    names = ("isotropic", "covariance", "span", "negated", "scaled_to_base")
    below = [sum(loss <= limit for loss in numbers(family, "loss")) for limit in LOSSES]
    null = [sum(loss <= limit for loss in numbers(one.of("linear_null"), "loss")) for limit in LOSSES]
    return [
        one.member.behaviour,
        f"{one.member.cap:g}",
        match,
        f"{one.kept(family)} of {len(family)}",
        _last(one, family),
        one.ended(match),
        *map(beside, names),
        *below,
        " / ".join(map(str, null)) if match == "activation" else "-",
        _middles(family, one.of("control", match, control="isotropic"), "posterior", median),
        _middles(
            family[:FIRST], *(one.of("control", match, control=name)[:FIRST] for name in RANDOM_BASES), "loss", fmean
        ),
    ]


def _middles(*rows: Any) -> str:
    """The median or mean of one column in each set of rows."""
    *sets, key, middle = rows
    return " / ".join(number(middle(values)) if (values := numbers(part, key)) else "-" for part in sets)


def _figures(families: Sequence[Grown]) -> dict[str, Lines]:
    figures = {"kept": _kept(families)}
    for one in families:
        if one.member.cap == families[0].member.cap:
            figures[f"{one.member.behaviour}-norms"] = _norms(one)
            figures[f"{one.member.behaviour}-last-kl"] = _last_token(one)
            figures[f"{one.member.behaviour}-losses"] = _losses(one)
    return figures


def _kept(families: Sequence[Grown]) -> Lines:
    series = []
    for k, one in enumerate(families):
        family = one.of("vector")
        counts = [one.kept(family[: index + 1]) for index in range(len(family))]
        label = f"{one.member.behaviour}, {one.member.cap:g}"
        series.append(Series(label, list(range(len(family))), counts, f"c{k % 8}", label))
    return Lines(
        "Activation match; behaviour and largest norm as a multiple of the base's. A flat line has ended.",
        Panel("Vectors that keep the behaviour, up to each index", "count", whole=True),
        tuple(series),
    )


def _by_index(label: str, rows: Sequence[dict[str, Any]], key: str, style: str, *, dots: bool = False) -> Series:
    return Series(label, [row["index"] for row in rows], [row.get(key) for row in rows], style, label, dots=dots)


def _norms(one: Grown) -> Lines:
    return Lines(
        f"Norms of the vectors with a cap of {one.member.cap:g} times the base's norm. The post: 20 against a base of "
        "7, then falling to 0.",
        Panel(f"{one.member.behaviour}: norms", "‖θ‖", lines={"base": float(one.base["norm"])}),
        (_by_index("family", one.of("vector"), "norm", "family"),),
    )


def _last_token(one: Grown) -> Lines:
    key, isotropic = "last_kl_vector_base", control("isotropic")
    random = _by_index(isotropic.label, one.of("control", control="isotropic"), key, isotropic.colour, dots=True)
    return Lines(
        "The direction the post plots, at the prompt's last token: next-token distribution under the vector against "
        "that under the base. The post: near 0 for hundreds of code vectors, then high.",
        Panel(f"{one.member.behaviour}: KL at the last token", "nats, KL(vector || base)", log=True),
        (random, _by_index("family", one.of("vector"), key, "family")),
    )


def _losses(one: Grown) -> Lines:
    bases = [
        _by_index(control(name).label, rows, "loss", control(name).colour)
        for name in ("random_base", "random_base_displaced")
        if (rows := one.of("control", control=name))
    ]
    family = _by_index("family", one.of("vector"), "loss", "family")
    null = _by_index("linear null", one.of("linear_null")[: len(family.x)], "loss", "null")
    return Lines(
        "How well each vector repeats the base's target activations: 0 exactly, 1 not at all. Families of a random "
        "base of the same norm, and of one so long that it moves the activations as far, stand beside.",
        Panel(f"{one.member.behaviour}: relative activation loss", "L", lines={"no effect": 1.0}),
        (null, *bases, family),
    )


def _statements(families: Sequence[Grown]) -> str:
    """The statements of the text, with the activation families' numbers at the larger cap and at the smaller."""
    rows = []
    for claim, measured in STATEMENTS:
        cells = [f"{one.member.behaviour}, {one.member.cap:g}: {measured(one)}" for one in families]
        rows.append([claim, "<br>".join(cells)])
    return _table(["the post", "here (behaviour, cap: measured)"], rows)


def _share(one: Grown, rows: Sequence[dict[str, Any]]) -> str:
    return f"{one.kept(rows)} of {len(rows)}"


def _means(one: Grown, scale: str) -> str:
    rows = sorted(pick(one.rows, kind="mean", match="activation", scale=scale), key=lambda row: int(row["n"]))
    return ", ".join(f"n = {row['n']}: {row['mode']}" for row in rows) or "-"


def _norm_ratio(one: Grown) -> str:
    kept = [row for row in one.of("vector") if row["mode"] == one.base["mode"]]
    return f"{number(fmean(numbers(kept, 'norm')) / float(one.base['norm']))} times" if kept else "none works"


def _turns_into(one: Grown) -> str:
    lost = [str(row["mode"]) for row in one.of("vector") if row["mode"] != one.base["mode"]]
    counts = {mode: lost.count(mode) for mode in dict.fromkeys(lost)}
    return (
        ", ".join(f"{count} {mode}" for mode, count in sorted(counts.items(), key=lambda item: -item[1])) or "nothing"
    )


def _kl_halves(one: Grown) -> str:
    family = one.of("vector")
    parts = [[row for row in family if (row["mode"] == one.base["mode"]) is keeps] for keeps in (True, False)]
    means = [number(fmean(numbers(part, "last_kl_vector_base"))) if part else "-" for part in parts]
    random = number(fmean(numbers(one.of("control", control="isotropic"), "last_kl_vector_base")))
    return f"{means[0]} nats where kept, {means[1]} where lost, {random} of random vectors"


STATEMENTS: tuple[tuple[str, Callable[[Grown], str]], ...] = (
    (
        "Hundreds of mutually orthogonal vectors show the base's behaviour (code: about 800 of 1558, d = 2048)",
        lambda one: _share(one, one.of("vector")) + f", {one.ended()}",
    ),
    ("They need norms of up to 20 where the base has 7 (2.86 times)", _norm_ratio),
    (
        "Scaled to the base's norm they have no effect",
        lambda one: _share(one, one.of("control", control="scaled_to_base")) + " keep the behaviour",
    ),
    ("Late vectors turn into something else (code: refusals, jailbreaks)", _turns_into),
    ("KL at the last token is near 0 while they work and high afterwards", _kl_halves),
    ("The average of the first 2, 3, 20 vectors fails (2: sometimes)", lambda one: _means(one, "plain")),
    ("The average times the root of n works (comments)", lambda one: _means(one, "sqrt_n")),
    ("(not in the post) the vectors negated", lambda one: _share(one, one.of("control", control="negated"))),
)


def _behaviour(families: Sequence[Grown], behaviour: str) -> str:
    chosen = [one for one in families if one.member.behaviour == behaviour]
    parts = [f"## {behaviour}: what the model writes", f"The base: `{_line(chosen[0].base)}`"]
    for one in chosen:
        for match in ("activation", "kl"):
            family = one.of("vector", match)
            if family:
                places = [(name, at(len(family))) for name, at in PLACES if at(len(family)) < len(family)]
                rows = [_text_row(name, family[k], "vector") for name, k in places]
                rows += [_text_row(f"{row['scale']} of {row['n']}", row, "average") for row in one.of("mean", match)]
                head = ["what", "index", "norm", "L", "KL(base‖vector)", "KL(vector‖base)", "shows", "writes"]
                parts += [f"Cap {one.member.cap:g}, {match} match:", _table(head, rows)]
    return "\n\n".join(parts)


def _text_row(name: str, row: dict[str, Any], what: str) -> list[object]:
    keys = ("norm", "loss", "kl_base_vector", "kl_vector_base")
    cells = [number(row.get(key)) for key in keys]
    return [
        name if what == "vector" else f"average: {name}",
        row.get("index", "-"),
        *cells,
        row["mode"],
        f"`{_line(row)}`",
    ]


def _line(row: dict[str, Any]) -> str:
    """A completion in one table cell: model output, so nothing in it may be read as markup."""
    shown = "".join(c if c.isprintable() else " " for c in str(row["text"]))
    text = " ".join(shown.replace("`", "ˋ").replace("|", "¦").split())
    return (text if len(text) <= TEXT else text[: TEXT - 1] + "…") or " "

"""docs/results/why-hundreds.md: what all experiments together say, from results.json alone.

The text is a template beside this file. What it says of a number it says through `above`, `below` or `within`, which
stop the page where the measured interval does not carry the sentence; everything else is listed as it was measured.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, StrictUndefined

from experiments.lab.figures import Lines
from experiments.lab.results import Entry, cell_text
from mi_ortho import Verdict
from mi_ortho.nulls import control
from mi_ortho.pages import ForestCell, Panel, Series, forest_svg, number
from mi_ortho.runs import write_file
from mi_ortho.stats import Measured, counted, in_words, tally_text

TEMPLATE = Path(__file__).with_name("why-hundreds.md.jinja")
NAME = "why-hundreds"
CAPS, FAMILIES = "more_vectors_than_a_linear_response_allows", "families_belong_to_what_the_base_does"
LOSS = 0.7  # up to which the vectors of the central figure are counted: half of the squared effect is missed
TEXT = 90  # characters of a completion
Row = dict[str, Any]


@dataclass(frozen=True)
class Answered:
    """One prediction on one model: where it stands, on which side it was predicted, and what was measured."""

    experiment: str
    key: str
    model: str
    side: str
    confirmatory: bool
    verdict: Verdict


@dataclass(frozen=True, eq=False)
class Quoting:
    """What the template may quote.

    Attributes:
        entries: of results.json, corrected for the number of tests.
    """

    entries: Sequence[Entry]

    def answers(self) -> Iterator[Answered]:
        """Every prediction on every model, in the order of the entries."""
        for entry in self.entries:
            for k, verdict in enumerate(entry["verdicts"]):
                central = k < len(entry["confirmatory"]) and bool(entry["confirmatory"][k])
                key, side = (str(entry[name][k]) if k < len(entry[name]) else "" for name in ("keys", "sides"))
                yield Answered(entry["experiment"], key, entry["model"], side or "at least", central, verdict)

    def models(self) -> list[str]:
        """Those that anything was measured on."""
        return sorted({entry["model"] for entry in self.entries})

    def one(self, name: str, key: str, model: str) -> Verdict:
        """The verdict of one prediction on one model.

        Raises:
            ValueError: it was not measured.
        """
        for each in self.answers():
            if (each.experiment, each.key, each.model) == (name, key, model):
                return each.verdict
        raise ValueError(
            f"got no result of {name} ({key}) on {model}; expected one, for the page quotes it; run `python -m "
            f"experiments {name} --model {model}`"
        )

    def measured(self, name: str, key: str, model: str) -> str:
        """Value, interval, unit and control, linked to the claim's page."""
        verdict = self.one(name, key, model)
        return f"[{_spread(verdict)}, control {number(verdict.control)}]({name}.md)"

    def above(self, name: str, key: str, model: str, least: float) -> str:
        """What was measured, where the whole interval lies at or above `least`.

        Raises:
            ValueError: it does not, and the sentence has to be rewritten.
        """
        return self._carried(name, key, model, least, float("inf"))

    def below(self, name: str, key: str, model: str, most: float) -> str:
        """What was measured, where the whole interval lies at or below `most`; ValueError as `above`."""
        return self._carried(name, key, model, float("-inf"), most)

    def within(self, name: str, key: str, model: str, least: float, most: float) -> str:
        """What was measured, where the whole interval lies between both; ValueError as `above`."""
        return self._carried(name, key, model, least, most)

    def _carried(self, name: str, key: str, model: str, least: float, most: float) -> str:
        verdict = self.one(name, key, model)
        low, high = verdict.interval or (float("-inf"), float("inf"))
        if verdict.outcome == "invalid" or not least <= low <= high <= most:
            raise ValueError(
                f"got {_spread(verdict)} ({verdict.outcome}) in {name} ({key}) on {model}; expected a valid interval "
                f"between {number(least)} and {number(most)}; a sentence of {TEMPLATE.name} says so: rewrite it"
            )
        return self.measured(name, key, model)

    def tally(self, model: str) -> str:
        """How many predictions of a model have which outcome, in words."""
        return tally_text([each.verdict for each in self.answers() if each.model == model])

    def questions(self, *, central: bool) -> str:
        """A list: each question with what was measured on every model, and whether the models agree."""
        lines = []
        for (name, _), group in self.grouped().items():
            if group[0].confirmatory != central:
                continue
            told = "; ".join(
                f"{each.model} **{each.verdict.outcome}**: {_spread(each.verdict)}, control "
                f"{number(each.verdict.control)}"
                for each in group
            )
            lines.append(
                f"- [{group[0].verdict.claim}]({name}.md) {group[0].verdict.statistic.capitalize()}, predicted "
                f"{group[0].side} {number(group[0].verdict.threshold)}. {told}. {agreement(group)}"
            )
        return "\n".join(lines)

    def grouped(self) -> dict[tuple[str, str], list[Answered]]:
        """The answers of all models to each prediction."""
        groups: dict[tuple[str, str], list[Answered]] = {}
        for each in self.answers():
            groups.setdefault((each.experiment, each.key), []).append(each)
        return groups

    def bases(self) -> str:
        """A table: what every base is, what random vectors of its norm do, and what the model writes."""
        lines = [
            "| Model | Behaviour | Norm | Of the stream | Displacement | Random ones' | Random ones' effect "
            "| Prompt | Without | With the base |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for model in self.models():
            rows = self.rows(model, CAPS, "base") or self.rows(model, FAMILIES, "base")
            for row in rows:
                numbers = ("norm", "of_stream", "displacement", "random_displacement", "specific")
                cells = [model, row["behaviour"], *(number(row[name]) for name in numbers)]
                texts = [row[name][:TEXT] for name in ("prompt", "unsteered", "text")]
                lines.append(f"| {' | '.join(map(cell_text, [*cells, *texts]))} |")
        return "\n".join(lines)

    def rows(self, model: str, name: str, kind: str) -> list[Row]:
        """Rows of a finished run that results.json holds; none where it was not run."""
        for entry in self.entries:
            if (entry["experiment"], entry["model"]) == (name, model):
                return [row for row in entry.get("rows", []) if row["kind"] == kind]
        return []

    def power(self) -> str:
        """A table: of what is undecided, the smallest difference from the control that could have been told."""
        lines = ["| Question | Model | Units | Detectable difference | Measured |", "|---|---|---|---|---|"]
        for each in self.answers():
            verdict = each.verdict
            if verdict.outcome == "undecided" and verdict.detectable is not None:
                count = counted(verdict.n, verdict.unit) if verdict.n is not None and verdict.unit else "–"
                cells = [verdict.claim, each.model, count, number(verdict.detectable), _spread(verdict)]
                lines.append(f"| {' | '.join(map(cell_text, cells))} |")
        return "\n".join(lines)


def agreement(group: Sequence[Answered]) -> str:
    """What the models say together of one prediction."""
    words = {each.verdict.outcome for each in group}
    if len(group) == 1:
        return "Asked of one model."
    if len(words) > 1:
        return "The models differ."
    return f"All {len(group)} models agree." if words <= {"supported", "not supported"} else "No model decides it."


def _spread(verdict: Verdict) -> str:
    measured = Measured(verdict.value, verdict.interval, "", verdict.n, verdict.unit, verdict.censored)
    text = in_words(measured)
    if verdict.n is not None and verdict.unit:
        text = text.replace(f"n = {verdict.n}", counted(verdict.n, verdict.unit), 1)
    return text


def forest(quoting: Quoting) -> str:
    """Every reading over its threshold, the central ones first, as a drawing."""
    groups = sorted(quoting.grouped().items(), key=lambda item: not item[1][0].confirmatory)
    rows = [
        (
            f"{'• ' if group[0].confirmatory else ''}{group[0].verdict.claim}",
            {each.model: _cell(each) for each in group},
        )
        for _, group in groups
    ]
    return forest_svg(rows, quoting.models())


def _cell(each: Answered) -> ForestCell:
    verdict = each.verdict
    value, interval = verdict.value, verdict.interval
    if each.side == "within":  # what is held against the margin is the difference from the control
        value, interval = verdict.difference, verdict.difference_interval
    unit = verdict.threshold or 1.0
    move = 0.0 if verdict.threshold else 1.0  # nothing can be measured in thresholds of 0: what is drawn is one more
    ends = (interval[0] / unit + move, interval[1] / unit + move) if interval else None
    scaled = float("nan") if value is None else value / unit + move
    return ForestCell(scaled, ends, each.side, verdict.outcome)  # type: ignore[arg-type]


def by_norm(quoting: Quoting, model: str) -> Lines | None:
    """How many vectors there are below each cap, beside the linear map, its bound, and the families of other bases.

    Medians over the bases whose effect random vectors do not share. None where it was not measured.
    """
    bases = {(row["behaviour"], row["base"]): row for row in quoting.rows(model, CAPS, "base")}
    counts = [row for row in quoting.rows(model, CAPS, "count") if row["loss"] == LOSS and _sound(bases, row)]
    if not counts:
        return None
    caps = sorted({float(row["times"]) for row in counts})
    named = (
        ("found", "the family", "family"),
        ("linear", "search on the linear map", "c6"),
        ("bound", "bound", "null"),
    )
    series = [
        Series(label, caps, [median(float(row[name]) for row in counts if row["times"] == cap) for cap in caps], style)
        for name, label, style in named
    ]
    others = [row for row in quoting.rows(model, FAMILIES, "count") if _sound(bases, row)]
    for group, label, style in (
        ("random", "random base", control("random_base").colour),
        ("displaced", "random base, as far", control("random_base_displaced").colour),
        ("untrained", control("untrained").label, control("untrained").colour),
    ):
        if values := [row["found"] + 1 for row in others if row["group"] == group]:
            series.append(Series(label, [caps[-1]], [median(values)], style, dots=True))
    panel = Panel(f"Vectors by allowed norm, {model}", "vectors", "largest norm, in norms of the base", log=True)
    return Lines(f"Relative loss of at most {LOSS:g}; medians over bases, which are counted.", panel, tuple(series))


def _sound(bases: Mapping[tuple[Any, Any], Row], row: Row) -> bool:
    base = bases.get((row["behaviour"], row["base"]))
    return base is not None and base["specific"] <= 0.2 and base["works"] >= 0.5


def paper(entries: Sequence[Entry], template: str | None = None, figures: Sequence[tuple[str, str]] = ()) -> str:
    """The page as Markdown, with figures as pairs of file and caption."""
    text = TEMPLATE.read_text(encoding="utf-8") if template is None else template
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
    quoting = Quoting(entries)
    names = [name for name in dir(quoting) if not name.startswith("_") and name != "entries"]
    return environment.from_string(text).render({name: getattr(quoting, name) for name in names}, figures=figures)


def write_paper(entries: Sequence[Entry], folder: Path, template: str | None = None) -> list[Path]:
    """Write the page and its figures into a folder; returns their paths."""
    quoting, pictures = Quoting(entries), list[tuple[str, str]]()
    write_file(folder / f"{NAME}-forest.svg", forest(quoting))
    for model in quoting.models():
        if lines := by_norm(quoting, model):
            file = f"{NAME}-{''.join(letter if letter.isalnum() else '-' for letter in model)}.svg"
            write_file(folder / file, lines.svg())
            pictures.append((file, f"{lines.title}. {lines.caption}"))
    page = folder / f"{NAME}.md"
    write_file(page, paper(entries, template, pictures))
    return [page, folder / f"{NAME}-forest.svg", *(folder / file for file, _ in pictures)]

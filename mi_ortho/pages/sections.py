"""The parts every report is made of, and the one template around them. All numbers come from the run's files."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mi_ortho.pages.categories import category_colours
from mi_ortho.pages.data_table import settings, table
from mi_ortho.pages.embed import Visual
from mi_ortho.pages.page import Section, page, render, write_page
from mi_ortho.pages.plots import handle
from mi_ortho.pages.text import clip, command_line, number, visible
from mi_ortho.pages.verdicts import verdict_rows
from mi_ortho.runs.directory import open_run, summary_of
from mi_ortho.runs.files import read_json
from mi_ortho.runs.rows import numbers
from mi_ortho.stats import OUTCOMES

_LONGEST = 4000  # characters of a completion on a page
_LIKE_OTHERS = "steered and read like the others (--sinks include); covariances of controls leave them out"
_MARKED = 400  # words up to which two texts are compared


@dataclass(frozen=True)
class Card:
    """One completion: what it was written under, its text, its behaviour mode, and a remark such as the norm."""

    title: str
    text: str
    mode: str | None = None
    note: str = ""


def write_report(
    run_dir: Path, kind: str, sections: Sequence[Section], *, data: Mapping[str, object] | None = None
) -> Path:
    """Write `report.html` into a run directory, finished or not: the sections inside what all reports share.

    Above them the headline, the verdicts (with the tiles of the summary) and what was run; below them where the
    numbers come from.

    Args:
        run_dir: a run directory; its summary may hold "headline", "verdicts" and "tiles" (pairs of number and label).
        kind: what the report is about, shown above the headline.
        sections: the report's own parts.
        data: what the page's script reads besides the parts' own data.
    """
    run, path = open_run(run_dir), Path(run_dir)
    summary, environment = summary_of(run), part(path, "environment.json")
    model = visible(environment.get("model") or run.config.get("model") or "the embedded model")
    title = f"{kind} · {'the embedded model' if model == 'embedded' else model}"
    rows = run.records()
    verdicts, tiles = summary.get("verdicts") or [], summary.get("tiles") or []
    parts = [
        *([verdict_section(verdicts, tiles=tiles, finished=bool(summary))] if verdicts or tiles or not summary else []),
        run_section(run.config, environment, rows),
        *sections,
        _provenance(environment),
    ]
    headline = visible(summary.get("headline") or f"Unfinished run: {len(rows)} rows so far")
    return write_page(path / "report.html", page(title, parts, headline=headline, kicker=title, data=data))


def part(run_dir: Path, name: str) -> Mapping[str, Any]:
    """One JSON file of a run directory; empty where it is missing."""
    content = read_json(run_dir / name) if (run_dir / name).is_file() else {}
    return content if isinstance(content, Mapping) else {}


def verdict_section(
    verdicts: Sequence[Mapping[str, Any]], *, tiles: Sequence[Sequence[str]] = (), finished: bool = True
) -> Section:
    """The few numbers to know first (pairs of number and label), then each verdict with its drawing."""
    body = render(
        "verdicts.html.jinja", tiles=tiles, verdicts=verdict_rows(verdicts), finished=finished, outcomes=OUTCOMES
    )
    return Section("Verdict", body, "", "verdict")


def run_section(
    config: Mapping[str, Any], environment: Mapping[str, Any], rows: Sequence[Mapping[str, Any]] = ()
) -> Section:
    """The command to copy, the configuration, the machine, and what the rows say of attention sinks."""
    machine = {key: value for key, value in environment.items() if key not in ("argv", "resumed")}
    command = command_line(environment["argv"]) if environment.get("argv") else ""
    groups = [("Configuration", settings(config)), ("Model, machine and versions", settings(machine))]
    body = render(
        "what_ran.html.jinja", command=command, groups=groups, sinks=f"{sinks_line(rows)} {strength_line(rows)}".strip()
    )
    return Section("What was run", body, "", "run")


def sinks_line(rows: Sequence[Mapping[str, Any]]) -> str:
    """One sentence on attention sinks; empty for runs that did not record them.

    >>> sinks_line([{"kind": "sinks", "choice": "exclude", "found": 1, "positions": 180, "factor": 10.0}])[:73]
    '1 of 180 positions is an attention sink (10 times the median norm or more'
    """
    row = next((row for row in reversed(rows) if row.get("kind") == "sinks"), None)
    if row is None:
        return ""
    count, limit = (
        row.get("found"),
        f"{number(row.get('factor'))} times the median norm or more at two boundaries in a row",
    )
    if not count:
        return f"No position is an attention sink ({limit})."
    noun, was = ("is an attention sink", "was") if count == 1 else ("are attention sinks", "were")
    done = row.get("done") or ("neither steered nor read" if row.get("choice") == "exclude" else _LIKE_OTHERS)
    return f"{number(count)} of {number(row.get('positions'))} positions {noun} ({limit}) and {was} {visible(done)}."


def strength_line(rows: Sequence[Mapping[str, Any]]) -> str:
    """One sentence on how long the vectors are in units of the stream; empty where a run did not record it.

    >>> strength_line([{"kind": "sinks", "stream": 125.0}, {"kind": "base", "norm": 14.0}])
    'Where vectors are added the stream has a median norm of 125; the base has 14, 0.112 of it.'
    """
    stream = next((row.get("stream") for row in reversed(rows) if row.get("kind") == "sinks"), None)
    if not isinstance(stream, float) or stream <= 0:
        return ""
    parts = [f"Where vectors are added the stream has a median norm of {number(stream)}"]
    radius = _column(rows, "radius", "radius") or _column(rows, "melbo_search", "norm")[-1:]
    base = _column(rows, "base", "norm")
    if radius and not (base and number(base[0]) == number(radius[0])):
        parts.append(f"R is {number(radius[0])}, {number(radius[0] / stream)} of it")
    if base:
        same = "R = " if radius and len(parts) == 1 else ""
        parts.append(f"the base has {same}{number(base[0])}, {number(base[0] / stream)} of it")
    if family := _column(rows, "vector", "norm"):
        low, high = min(family), max(family)
        span = f"{number(low)} to {number(high)}, {number(low / stream)} to {number(high / stream)} of it"
        alike = f"{number(high)}, {number(high / stream)} of it"
        parts.append(f"its orthogonal vectors have {alike if number(low) == number(high) else span}")
    return "; ".join(parts) + "."


def _column(rows: Sequence[Mapping[str, Any]], kind: str, name: str) -> list[float]:
    return numbers([row for row in rows if row.get("kind") == kind], name)


def table_section(
    title: str,
    rows: Sequence[Mapping[str, object]],
    columns: Mapping[str, str],
    *,
    lead: str = "",
    anchor: str = "",
    short: str = "",
    name: str = "rows",
    chips: Sequence[str] = (),
) -> Section:
    """A section that holds one `table`."""
    lead = lead or "Click a heading to sort. Full precision and full texts are in records.jsonl."
    return Section(title, table(rows, columns, name=name, chips=chips), lead, anchor, short)


def curves(panels: Sequence[Markup], caption: str, *, legend: Sequence[tuple[str, str, str]] = ()) -> Markup:
    """Panels of `curve` side by side; each entry of the legend (key, label, style) hides and shows its series."""
    entries = [(handle(key), label, style) for key, label, style in legend]
    return render("curves.html.jinja", panels=Markup("").join(panels), caption=caption, legend=entries)


def figure(body: Markup | Visual, caption: str) -> Markup:
    """Anything drawn, also a single visual, with a caption below."""
    return Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(body, caption)


def note(text: str) -> Markup:
    """A remark set apart: what is missing and why."""
    return Markup('<p class="note">{}</p>').format(text)


def left_out_section(rows: Sequence[Mapping[str, Any]]) -> Section | None:
    """What the run could not ask of this model and why; None where it asked everything."""
    reasons = dict.fromkeys((str(row["what"]), str(row["reason"])) for row in rows if row.get("kind") == "left_out")
    if not reasons:
        return None
    body = Markup("").join(note(f"{what}: {reason}.") for what, reason in reasons)
    return Section("Left out on this model", body, "", "left-out", "Left out")


def completions(cards: Sequence[Card], *, prompt: str = "") -> Markup:
    """Completions side by side; in every card after the first, the words that the first does not have are marked."""
    modes = category_colours(card.mode for card in cards if card.mode)
    first = shown(cards[0].text) if cards else ""
    entries = [
        (visible(card.title), card, visible(card.note), marked(shown(card.text), first) if k else shown(card.text))
        for k, card in enumerate(cards)
    ]
    return render("completions.html.jinja", cards=entries, prompt=shown(prompt), colours=modes)


def marked(text: str, other: str) -> Markup:
    """The text with the words marked that are not in its longest common part with another text.

    >>> str(marked("a small kite", "a kite"))
    'a <mark>small</mark> kite'
    """
    words, others = re.split(r"(\s+)", text), re.split(r"(\s+)", other)
    if not other or len(words) > 2 * _MARKED or len(others) > 2 * _MARKED:
        return Markup("{}").format(text)
    operations = difflib.SequenceMatcher(None, words, others, autojunk=False).get_opcodes()
    parts = [(word, tag != "equal") for tag, low, high, _, _ in operations for word in words[low:high]]
    mark = Markup("<mark>{}</mark>")
    return Markup("").join(mark.format(word) if changed and word.strip() else word for word, changed in parts)


def glossary(terms: Sequence[tuple[str, str]]) -> Section:
    """What the words of the report mean."""
    entry = Markup("<div><dt>{}</dt><dd>{}</dd></div>")
    body = Markup('<dl class="glossary">{}</dl>').format(Markup("").join(entry.format(*pair) for pair in terms))
    return Section("How to read this", body, "", "reading", "Glossary")


def shown(text: str) -> str:
    """A model's text as a page may hold it: control characters visible, cut if very long."""
    return clip(visible(text), _LONGEST)


def _provenance(environment: Mapping[str, Any]) -> Section:
    names = {"model_hash": "model hash", "commit": "commit", "seed": "seed"}
    details = [f"{name} {clip(visible(environment[key]), 16)}" for key, name in names.items() if key in environment]
    started = f"run started {visible(environment['started'])}" if environment.get("started") else ""
    facts = "; ".join([started, *details] if started else details)
    source, licence = (str(environment.get(f"weights_{name}") or "") for name in ("source", "licence"))
    weights = f"Weights: {source or visible(environment.get('model', ''))}, licence {licence}. " if licence else ""
    text = f"{weights}Numbers come from records.jsonl and summary.json beside this file{facts and f'; {facts}'}"
    return Section("", Markup('<p class="caption">{}. The page loads nothing from a network.</p>').format(text))

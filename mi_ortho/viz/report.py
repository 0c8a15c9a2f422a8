"""The report of a `family` run: one page that tells what was done, what came out, and beside which controls."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mi_ortho.viz import records as read
from mi_ortho.viz import tables
from mi_ortho.viz.embed import Visual, attention, compare, token_values
from mi_ortho.viz.family import cosines, largest_cosines, legend, panels
from mi_ortho.viz.pages import Section, page, render, write_page
from mi_ortho.viz.plots import heat_map
from mi_ortho.viz.text import command_line, number, visible

_SHOWN_VALUES = 12  # token values drawn one below the other before the rest is left to the data files


def family_report(run_dir: Path) -> Path:
    """Write `report.html` into a `family` run directory, finished or not, and return its path.

    Parts the run does not have are left out with the reason stated.
    """
    path = Path(run_dir)
    return write_page(path / "report.html", family_page(read.load_family(path)))


def family_page(run: read.FamilyRun) -> Markup:
    """The report as text."""
    sections = [
        _verdicts(run),
        _what_ran(run),
        _side_by_side(run),
        *(_family(run, match) for match in run.matches),
        *_missing(run),
        _averages(run),
        _cosines(run),
        _table(run),
        _visuals(run),
        _reading(run),
    ]
    model = visible(run.config.get("model") or "the embedded model")
    return page(
        f"Orthogonal family of steering vectors · {model}",
        sections,
        headline=visible(run.summary.get("headline") or _unfinished(run)),
        kicker=f"Orthogonal family of steering vectors · {model}",
        data=tables.table_data(run),
    )


def tiles(run: read.FamilyRun) -> list[tuple[str, str]]:
    """The few numbers to know first, as (number, what it counts)."""
    found = []
    for match in run.matches:
        family = run.family(match)
        found.append(
            (
                f"{sum(map(run.keeps, family))} / {len(family)}",
                f"orthogonal vectors that keep the behaviour ({match} match)",
            )
        )
        controls = [row for name in ("isotropic", "covariance") for row in run.control(match, name)]
        if controls:
            found.append(
                (
                    f"{sum(map(run.keeps, controls))} / {len(controls)}",
                    f"random vectors of the same norms that do ({match} match)",
                )
            )
    matrix = cosines(run)
    if matrix:
        worst = max((value for name, value, _ in largest_cosines(*matrix) if name.startswith("base")), default=None)
        found.append((number(worst, 2), "largest |cos| between two vectors of a family"))
    return found


def verdict_rows(run: read.FamilyRun) -> list[dict[str, Any]]:
    """Each verdict with its outcome in a word and a drawing of value, interval, threshold and control on one scale."""
    outcomes = {True: "supported", False: "not supported", None: "undecided"}
    return [
        {
            **_VERDICT,
            **verdict,
            "outcome": outcomes.get(verdict.get("supported"), "undecided"),
            "drawing": _whisker(verdict),
        }
        for verdict in run.summary.get("verdicts") or []
    ]


_VERDICT = dict.fromkeys(("claim", "prediction", "statistic", "value", "interval", "threshold", "control", "supported"))


def _verdicts(run: read.FamilyRun) -> Section:
    body = render("verdicts.html.jinja", tiles=tiles(run), verdicts=verdict_rows(run), finished=bool(run.summary))
    return Section("Verdict", body, "", "verdict")


def _what_ran(run: read.FamilyRun) -> Section:
    machine = {key: value for key, value in run.environment.items() if key not in ("argv", "resumed")}
    command = command_line(run.environment["argv"]) if run.environment.get("argv") else ""
    groups = [("Configuration", tables.settings(run.config)), ("Model, machine and versions", tables.settings(machine))]
    return Section("What was run", render("what_ran.html.jinja", command=command, groups=groups), "", "run")


def _side_by_side(run: read.FamilyRun) -> Section:
    kept = [(match, row) for match in run.matches for row in run.family(match) if run.keeps(row) and row.get("text")]
    chosen = [kept[len(kept) // 2]] if kept else []
    cards = [("Unsteered", run.unsteered, "")] * bool(run.unsteered) + [
        ("Base vector θ₀", run.base, _norm(run.base))
    ] * bool(run.base)
    cards += [(f"Orthogonal vector, index {row['index']} ({match})", row, _norm(row)) for match, row in chosen]
    body = render(
        "side_by_side.html.jinja",
        prompts=run.where(kind="unsteered"),
        cards=cards,
        colours=run.mode_colours(),
        candidates=run.where(kind="melbo"),
        random=run.where(kind="melbo_control"),
        base=run.base,
    )
    lead = "One prompt, the same weights; the only difference is the vector added to the residual stream."
    return Section("Unsteered and steered", body, lead, "steered", "Steered")


def _family(run: read.FamilyRun, match: str) -> Section:
    end, reason = run.end(match)
    problem = next((row["problem"] for row in run.where(kind="linear_null") if row.get("problem")), "")
    values: dict[str, Any] = {
        "match": match,
        "strips": tables.strips(run, match),
        "colours": run.mode_colours(),
        "end": end,
        "reason": visible(reason),
        "panels": panels(run, match),
        "legend": legend(run, match),
        "size": len(run.family(match)),
        "null": match == "activation" and bool(run.null),
        "problem": visible(problem) if match == "activation" else "",
        "collapsed": sum(row.get("kept") is False for row in run.where(kind="search", match=match)),
        "transfer": tables.transfer_strips(run, match),
        "last": max(row["index"] for row in run.family(match)),
        "base": run.base,
    }
    return Section(
        read.MATCHES.get(match, match),
        render("family.html.jinja", **values),
        "",
        f"family-{match}",
        f"Family ({match})",
    )


def _missing(run: read.FamilyRun) -> list[Section]:
    """A stated reason for each match that this run has no vectors of."""
    absent = [match for match in read.MATCHES if match not in run.matches]
    reason = "This run recorded no vectors with this match, so its curves, strips and averages are left out."
    return [Section(read.MATCHES[match], _note(reason)) for match in absent]


def _averages(run: read.FamilyRun) -> Section:
    found = [(match, *tables.averages(run, match)) for match in run.matches if run.where(kind="mean", match=match)]
    lead = (
        "If the vectors shared one linear direction, their plain mean would work. If their effect is quadratic, the mean needs √n; "
        "if each vector triggers its own feature, it needs n (the sum)."
    )
    body = (
        render("averages.html.jinja", matches=found, colours=run.mode_colours())
        if found
        else _note("This run recorded no averages.")
    )
    return Section("Averages of the first n vectors", body, lead, "averages", "Averages")


def _cosines(run: read.FamilyRun) -> Section:
    found = cosines(run)
    if found is None:
        return Section("Orthogonality", _note("No vectors are stored in this run directory."), "", "cosines")
    matrix, starts = found
    maps = [
        heat_map(matrix, title="Cosines, signed", ticks=starts),
        heat_map(matrix, title="Magnitude of the cosines, logarithmic", scale="log", limits=(-9.0, 0.0), ticks=starts),
    ]
    body = render(
        "cosines.html.jinja",
        maps=maps,
        largest=largest_cosines(matrix, starts),
        size=len(matrix),
        block=-(-len(matrix) // 512),
    )
    return Section("Orthogonality", body, "Cosine of every vector with every other, base and all families.", "cosines")


def _table(run: read.FamilyRun) -> Section:
    lead = "Every vector, control, average and held-out completion. Click a heading to sort; numbers are in nats where they are divergences."
    return Section("All measurements", render("table.html.jinja", matches=run.matches), lead, "table", "Table")


def _visuals(run: read.FamilyRun) -> Section:
    drawn, lost = [], []
    for item in run.visuals.get("items") or []:
        try:
            drawn.append((item, visual_of(item, run)))
        except (KeyError, ValueError) as reason:
            lost.append(f"{item.get('title', item.get('key'))}: {reason}")
    heads = [(visual.title, visual) for item, visual in drawn if item["kind"] == "attention"]
    values = [(visual.title, visual) for item, visual in drawn if item["kind"] != "attention"]
    found = _compared(run, [item for item, _ in drawn if item["kind"] == "attention"])
    body = render("visuals.html.jinja", compared=found, heads=heads, values=values, lost=lost)
    return Section("Inside the model", body, "What the vectors change, token by token.", "visuals", "Inside")


def _compared(run: read.FamilyRun, items: Sequence[Mapping[str, Any]]) -> list[Visual]:
    """For each layer with several attention patterns of one shape, all of them side by side with their differences."""
    found = []
    for layer in dict.fromkeys(item.get("layer") for item in items):
        keys = [item["key"] for item in items if item.get("layer") == layer]
        patterns = {_short_name(key, layer): run.arrays[key].float() for key in keys}
        tokens = [str(token) for token in run.visuals.get("prompt_tokens") or []]
        if (
            len(patterns) > 1
            and len({value.shape for value in patterns.values()}) == 1
            and all(value.shape[-1] == len(tokens) for value in patterns.values())
        ):
            found.append(compare(tokens, patterns, title=f"Attention at layer {layer}, every head"))
    return found


def _short_name(key: str, layer: object) -> str:
    return visible(key.removeprefix("attention_").removesuffix(f"_{layer}").replace("_", " "))


def visual_of(item: Mapping[str, Any], run: read.FamilyRun) -> Visual:
    """One entry of visuals.json as a visual.

    Raises:
        ValueError: its kind is unknown, its array is missing, or array and tokens do not fit.
    """
    if item.get("key") not in run.arrays:
        raise ValueError(f"array {item.get('key')!r} is not in visuals.safetensors")
    tokens, values = (
        [str(token) for token in item.get("tokens") or run.visuals.get("prompt_tokens") or []],
        run.arrays[item["key"]].float(),
    )
    if item.get("kind") == "attention" and values.ndim == 3:
        return attention(tokens, values, title=visible(item.get("title", "")))
    if item.get("kind") == "token_values" and values.ndim in (1, 2):
        shown = values if values.ndim == 1 else values[:, :_SHOWN_VALUES]
        labels = item.get("labels")
        return token_values(tokens, shown, labels and labels[:_SHOWN_VALUES], title=visible(item.get("title", "")))
    raise ValueError(
        f"got kind {item.get('kind')!r} with {values.ndim} axes; expected attention (3) or token_values (1 or 2)"
    )


def _reading(run: read.FamilyRun) -> Section:
    return Section(
        "How to read this",
        render("reading.html.jinja", hash=run.environment.get("model_hash"), started=run.environment.get("started")),
        "",
        "reading",
        "Glossary",
    )


def _unfinished(run: read.FamilyRun) -> str:
    return f"Unfinished run: {len(run.where(kind='vector'))} vectors so far"


def _norm(row: read.Row) -> str:
    return f"‖θ‖ = {number(row['norm'])}" if isinstance(row.get("norm"), int | float) else ""


def _note(text: str) -> Markup:
    return Markup('<p class="note">{}</p>').format(text)


def _whisker(verdict: Mapping[str, Any]) -> Markup:
    """Value (dot), interval (line), threshold (tick) and control (ring) on one scale; empty where there is nothing to compare."""
    points = {key: verdict.get(key) for key in ("value", "threshold", "control")}
    known = {
        key: float(value)
        for key, value in points.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    if "value" not in known or len(known) < 2:
        return Markup("")
    ends = [float(edge) for edge in verdict.get("interval") or [] if isinstance(edge, int | float)]
    low, high = min([*known.values(), *ends]), max([*known.values(), *ends])

    def place(value: float) -> float:
        return round(6 + 108 * (value - low) / ((high - low) or 1.0), 1)

    drawn = [Markup('<line class="axis" x1="2" x2="118" y1="10" y2="10"/>')]
    if len(ends) == 2:
        drawn.append(
            Markup('<line class="interval" x1="{}" x2="{}" y1="10" y2="10"/>').format(place(ends[0]), place(ends[1]))
        )
    if "threshold" in known:
        drawn.append(
            Markup('<line class="threshold" x1="{0}" x2="{0}" y1="2" y2="18"/>').format(place(known["threshold"]))
        )
    if "control" in known:
        drawn.append(Markup('<circle class="control" cx="{}" cy="10" r="3.5"/>').format(place(known["control"])))
    drawn.append(Markup('<circle class="value" cx="{}" cy="10" r="3.5"/>').format(place(known["value"])))
    return Markup('<svg class="whisker" viewBox="0 0 120 20" aria-hidden="true">{}</svg>').format(
        Markup("").join(drawn)
    )

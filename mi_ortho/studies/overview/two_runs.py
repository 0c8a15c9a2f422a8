"""Two runs of one command side by side: different settings and different results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mi_ortho.pages.data_table import settings, table
from mi_ortho.pages.page import Section, page, render, write_page
from mi_ortho.pages.sections import note, part
from mi_ortho.pages.text import clip, command_line, number, visible
from mi_ortho.runs.directory import Run, RunError, open_run
from mi_ortho.stats import outcome
from mi_ortho.studies.overview.folder import command_of
from mi_ortho.studies.overview.two_families import family_sections

_MACHINE = ("model", "model_hash", "device", "dtype", "commit", "python", "packages", "platform")


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two runs as read."""

    name: str
    run: Run
    command: str
    summary: Mapping[str, Any]
    environment: Mapping[str, Any]


def run_comparison(first: Path, second: Path, to: Path | None = None) -> Path:
    """Write a page that sets two runs of one command side by side, and return its path.

    Args:
        first: a run directory, shown as A.
        second: another one, shown as B.
        to: the file to write; `compare-with-<name of the second>.html` in the first directory when left out.

    Raises:
        RunError: one of them is no run, they are of different commands, or both are the same run.
    """
    one, other = _side("A", first), _side("B", second)
    if first.resolve() == second.resolve():
        raise RunError(f"got {first} twice; expected two different runs; name another one")
    if one.command != other.command:
        raise RunError(
            f"got a run of `{one.command}` and a run of `{other.command}`; expected two runs of one command, whose "
            "numbers mean the same; name two of the same"
        )
    target = to or first / f"compare-with-{second.resolve().name}.html"
    return write_page(target, comparison_page(one, other))


def comparison_page(one: Side, other: Side) -> Markup:
    """The page as text."""
    changed, equal = differences(one, other)
    command = one.command.replace("_", " ") or "one command"
    names = [row["key"] for row in changed if not row["key"].startswith("machine: ")]
    listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    headline = f"Two runs of {command} " + (f"that differ in {listed}." if names else "with the same settings.")
    sections = [
        Section("What came out", _results(one, other), "A is the first run named, B the second.", "results", "Results"),
        Section("What was set differently", _settings(changed, equal), "", "settings", "Settings"),
        *(family_sections(one.run.path, other.run.path) if one.command == "family" else []),
        _numbers(one, other),
    ]
    return page(f"Comparison · {command}", sections, headline=visible(headline), kicker=f"Comparison · {command}")


def differences(one: Side, other: Side) -> tuple[list[dict[str, str]], int]:
    """The settings (and facts about the machine) in which two runs differ, as texts, and how many are equal."""
    rows: list[dict[str, str]] = []
    equal = 0
    for prefix, a, b in (
        ("", one.run.config, other.run.config),
        ("machine: ", _machine(one.environment), _machine(other.environment)),
    ):
        first, second = dict(settings(a)), dict(settings(b))
        for key in dict.fromkeys([*first, *second]):
            if first.get(key) != second.get(key):
                rows.append({"key": prefix + key, "a": first.get(key, "–"), "b": second.get(key, "–")})
            else:
                equal += 1
    return rows, equal


def _machine(environment: Mapping[str, Any]) -> dict[str, Any]:
    facts = {key: environment[key] for key in _MACHINE if key in environment}
    return {key: clip(visible(value), 13) if key in ("commit", "model_hash") else value for key, value in facts.items()}


def _side(name: str, path: Path) -> Side:
    run, environment = open_run(path), part(path, "environment.json")
    command = command_of(path, environment) or ("family" if "n_kl" in run.config else "")
    return Side(name, run, command, part(path, "summary.json"), environment)


def _results(one: Side, other: Side) -> Markup:
    """Both headlines, and below them every verdict of either run."""
    heads = [
        {
            "name": side.name,
            "path": visible(side.run.path),
            "headline": visible(side.summary.get("headline") or f"Unfinished: {len(side.run.records())} rows so far"),
            "line": command_line(side.environment.get("argv") or [""]),
            "started": visible(str(side.environment.get("started") or "")[:19].replace("T", " ")),
        }
        for side in (one, other)
    ]
    return render("two_runs.html.jinja", heads=heads, verdicts=_verdicts(one, other))


def _verdicts(one: Side, other: Side) -> list[dict[str, Any]]:
    """Each claim once, with its verdict in either run."""
    sides = [{str(row.get("claim")): row for row in side.summary.get("verdicts") or []} for side in (one, other)]
    return [
        {
            "claim": visible(claim),
            "statistic": visible(next(side[claim] for side in sides if claim in side).get("statistic") or ""),
            "sides": [_verdict_texts(side.get(claim)) for side in sides],
        }
        for claim in dict.fromkeys([*sides[0], *sides[1]])
    ]


def _verdict_texts(verdict: Mapping[str, Any] | None) -> dict[str, str] | None:
    if verdict is None:
        return None
    ends = verdict.get("interval")
    return {
        "value": number(verdict.get("value")),
        "interval": f"[{number(ends[0])}, {number(ends[1])}]" if isinstance(ends, Sequence) and len(ends) == 2 else "",
        "threshold": number(verdict.get("threshold")),
        "control": number(verdict.get("control")),
        "outcome": outcome(verdict),
    }


def _settings(changed: Sequence[Mapping[str, object]], equal: int) -> Markup:
    if not changed:
        return note(f"All {equal} settings and facts about the machine are equal.")
    body = table(changed, {"key": "setting", "a": "A", "b": "B"}, name="settings", unfiltered=["key", "a", "b"])
    return Markup('<div class="prose">{}</div><p class="caption">{} others are equal.</p>').format(body, equal)


def _numbers(one: Side, other: Side) -> Section:
    """Every number of the two summaries except those of verdicts."""
    sides = [dict(_leaves({k: v for k, v in side.summary.items() if k != "verdicts"})) for side in (one, other)]
    rows = [
        {"key": key, "a": sides[0].get(key), "b": sides[1].get(key), "change": _change(sides, key)}
        for key in dict.fromkeys([*sides[0], *sides[1]])
    ]
    if not rows:
        return Section("Numbers of the summaries", note("The summaries hold no numbers besides those of the verdicts."))
    body = table(rows, {"key": "number", "a": "A", "b": "B", "change": "B − A"}, name="numbers")
    return Section("Numbers of the summaries", body, "From summary.json of each run.", "numbers", "Numbers")


def _leaves(value: object, name: str = "") -> list[tuple[str, float]]:
    if isinstance(value, Mapping):
        return [leaf for key, item in value.items() for leaf in _leaves(item, f"{name}.{key}".lstrip("."))]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [leaf for k, item in enumerate(value) for leaf in _leaves(item, f"{name}.{k}")]
    return [(name, value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


def _change(sides: Sequence[Mapping[str, float]], key: str) -> float | None:
    return sides[1][key] - sides[0][key] if all(key in side for side in sides) else None

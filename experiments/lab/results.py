"""docs/results: one page for each claim, models side by side, and the table of verdicts.

Finished runs become entries of results.json, one for each claim and model; pages and index are written from that file
alone, so that a claim measured today stands beside one measured before, and no two pages can disagree.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from experiments.lab.claims import Experiment
from experiments.lab.performing import command_of, cost_of, verdicts_of
from experiments.lab.presets import read_preset
from mi_ortho import Run, Verdict
from mi_ortho.pages import number
from mi_ortho.runs import read_json, started, write_file
from mi_ortho.stats import Gate, Measured, benjamini_hochberg, counted, holm, in_words, outcome, tally_text

Entry = dict[str, Any]
FILE = "results.json"
EARLIER = "earlier.md"
KEPT = (  # whose rows the summary page draws
    "more_vectors_than_a_linear_response_allows",
    "families_belong_to_what_the_base_does",
)

INTRODUCTION = """# Results

One row for each prediction and model. What is predicted lies in `experiments/predictions`, committed before the runs:
the statistic, its unit, its control, the threshold, the margin beyond the control, and the checks of instruments that
must be passed. "Supported" and "not supported" need the whole interval on one side, a control on the other one, and a
p-value that survives the correction for all tests of its model (Holm for those marked as confirmatory, Benjamini and
Hochberg for the rest); what fails its instruments is "invalid"; all else is "undecided". Intervals are over the named
unit of one model: they tell of other bases or prompts, not of other models, and a claim about models needs their
agreement.

```
python -m experiments all --model embedded
python -m experiments all --model embedded/naive
python -m experiments all --model smollm2
python -m experiments results --model embedded    # and so on: enters the finished runs of one model
```
"""


def write_results(runs: Sequence[tuple[Experiment, Run]], folder: Path) -> list[Path]:
    """Enter every finished run into results.json, write its figures, and all pages that the file can tell of.

    Returns the files written.
    """
    paths, entries = [], read_entries(folder)
    for experiment, run in runs:
        rows = [row for row in run.records() if row.get("kind") != "cost"]
        made = entry(experiment, run)
        for k, figure in enumerate(experiment.figures(rows)):
            name = f"{experiment.name}-{_slug(made['model'])}-{k + 1}.svg"
            write_file(folder / name, figure.svg())
            made["figures"].append({"file": name, "title": figure.title, "caption": figure.caption})
            paths.append(folder / name)
        entries = [each for each in entries if _key(each) != _key(made)] + [made]
    entries.sort(key=lambda each: (each["experiment"], each["model"]))
    write_file(folder / FILE, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
    corrected = correct(entries)
    for name in dict.fromkeys(each["experiment"] for each in entries):
        write_file(folder / f"{name}.md", page([each for each in corrected if each["experiment"] == name]))
        paths.append(folder / f"{name}.md")
    write_file(folder / "index.md", index(corrected, (folder / EARLIER).is_file()))
    return [*paths, folder / FILE, folder / "index.md"]


def entry(experiment: Experiment, run: Run) -> Entry:
    """What a finished run says: its verdicts, what they were predicted by, and how to get them again."""
    facts, summary = _json(run.path / "environment.json"), _json(run.path / "summary.json")
    settings = {key: value for key, value in run.config.items() if key not in ("model", "model_hash")}
    predictions = list(experiment.predictions.each.values()) if experiment.predictions else []
    return {
        "experiment": experiment.name,
        "claim": experiment.claim,
        "model": str(facts.get("model")),
        "weights": str(facts.get("model_hash"))[:12],
        "verdicts": verdicts_of(run),
        "confirmatory": [one.confirmatory for one in predictions],
        "keys": [one.key for one in predictions],
        "sides": [one.side for one in predictions],
        "rows": kept(run.records()) if experiment.name in KEPT else [],
        "parts": dict(experiment.parts),
        "prediction": {key: facts.get(f"prediction_{key}", "") for key in ("digest", "commit", "time")},
        "measured": started(run.path),
        "command": command(experiment, run),
        "settings": settings,
        "cost": f"{cost_of(run)} of wall time on {facts.get('device', 'cpu')} with {facts.get('threads')} thread(s), "
        f"{number(summary['megabytes'])} MB at most",
        "figures": [],
    }


def kept(rows: Sequence[Mapping[str, Any]]) -> list[Entry]:
    """The rows that the summary page draws: bases and counts, texts cut."""
    return [
        {key: value[:200] if isinstance(value, str) else value for key, value in row.items()}
        for row in rows
        if row.get("kind") in ("base", "count")
    ]


def read_entries(folder: Path) -> list[Entry]:
    """The entries of results.json; none where there is no such file."""
    return list(json.loads((folder / FILE).read_text("utf-8"))) if (folder / FILE).is_file() else []


def correct(entries: Sequence[Entry]) -> list[Entry]:
    """Entries whose verdicts are corrected for the number of tests of their model (Holm; Benjamini and Hochberg)."""
    corrected = [{**each, "verdicts": [as_verdict(one) for one in each["verdicts"]]} for each in entries]
    for model in dict.fromkeys(each["model"] for each in entries):
        for wanted, method in ((True, holm), (False, benjamini_hochberg)):
            places = [
                (each, k)
                for each in corrected
                for k, _ in enumerate(each["verdicts"])
                if each["model"] == model and _confirmatory(each, k) == wanted
            ]
            verdicts = method([each["verdicts"][k] for each, k in places])
            for (each, k), verdict in zip(places, verdicts, strict=True):
                each["verdicts"][k] = verdict
    return corrected


def _confirmatory(each: Entry, k: int) -> bool:
    return k < len(each["confirmatory"]) and bool(each["confirmatory"][k])


def as_verdict(stored: Mapping[str, Any]) -> Verdict:
    """A verdict from a file."""
    known = {one.name for one in fields(Verdict) if one.init}
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items() if key in known}
    gates = tuple(Gate(**gate) for gate in stored.get("gates") or ())
    return replace(Verdict(**{**values, "gates": ()}), gates=gates)


def page(entries: Sequence[Entry]) -> str:
    """One claim as Markdown, its models side by side; the answer first."""
    first = entries[0]
    parts = [f"# {first['claim']}"]
    for k, verdict in enumerate(first["verdicts"]):
        parts.append(f"## {verdict.claim}" if len(first["verdicts"]) > 1 else "")
        parts += [f"- {answer(each['verdicts'][k], each['model'])}" for each in entries if k < len(each["verdicts"])]
    for each in entries:
        for figure in each["figures"]:
            title = cell_text(figure["title"])
            parts.append(f"![{title}]({figure['file']})\n\n**{title}, {each['model']}.** {figure['caption']}")
    parts += ["## What was predicted", *(f"**{_ended(part)}** {text}" for part, text in first["parts"].items())]
    parts.append("## What every number stands on")
    parts.append(_table(entries))
    parts.append("## How to get it again")
    for each in entries:
        settings = ", ".join(f"{key} {_setting(value)}" for key, value in each["settings"].items())
        parts.append(f"```\n{each['command']}\n```")
        parts.append(
            f"Model {each['model']}, weights {each['weights']}; {settings}. {_provenance(each)} Cost: {each['cost']}."
        )
    return "\n\n".join(part for part in parts if part) + "\n"


def answer(verdict: Verdict, model: str) -> str:
    """One sentence from the measured interval: outcome, value, control, difference, unit, and what failed.

    >>> answer(Verdict("c", "p", "cosine", 0.5, (0.4, 0.6), 0.2, 0.1, True, n=8, unit="base"), "m")
    '**m: supported.** cosine: 0.50 [0.40, 0.60], n = 8 bases; control 0.1; threshold 0.2.'
    """
    measured = Measured(verdict.value, verdict.interval, verdict.kind, verdict.n, verdict.unit, verdict.censored)
    text = (
        f"**{model}: {verdict.outcome}.** {verdict.statistic}: {in_words(measured)}; control {number(verdict.control)}"
    )
    if verdict.n is not None and verdict.unit:
        text = text.replace(f"n = {verdict.n}", f"n = {counted(verdict.n, verdict.unit)}", 1)
    if verdict.difference is not None:
        text += f"; difference {in_words(Measured(verdict.difference, verdict.difference_interval, ''))}"
    text += f"; threshold {number(verdict.threshold)}."
    return text + (f" Why: {verdict.failed or verdict.why}." if verdict.failed or verdict.why else "")


def _ended(text: str) -> str:
    return text if text.endswith("?") else f"{text}."


def _provenance(each: Entry) -> str:
    """Of which commit the predictions were, and when it was measured."""
    prediction = each["prediction"]
    if not prediction["digest"]:
        return f"Measured {each['measured']}; its thresholds lay in the experiment's file."
    commit = f"of commit {prediction['commit']} ({prediction['time']})" if prediction["commit"] else "not committed"
    return f"Predictions {prediction['digest']} {commit}; measured {each['measured']}."


def _table(entries: Sequence[Entry]) -> str:
    columns = "| Model | Prediction | Interval | n | Detectable | p (corrected) | Checks | Separates |"
    lines = [columns, "|---|---|---|---|---|---|---|---|"]
    for each in entries:
        for verdict in each["verdicts"]:
            checks = "; ".join(f"{'✓' if gate.passed else '✗'} {gate.text}" for gate in verdict.gates)
            p_values = f"{number(verdict.p_value)} ({number(verdict.p_adjusted)})"
            count = counted(verdict.n, verdict.unit) if verdict.n is not None else "–"
            count += f", {verdict.censored} censored" if verdict.censored else ""
            cells = [each["model"], verdict.prediction, verdict.kind, count, number(verdict.detectable), p_values]
            lines.append(f"| {' | '.join(map(cell_text, [*cells, checks, verdict.separates]))} |")
    return "\n".join(lines)


def command(experiment: Experiment, run: Run) -> str:
    """The command of a run as one line."""
    preset = str(run.config.get("preset", "")).rpartition(" ")[0]
    return " ".join(command_of(experiment, run.config, read_preset(preset) if preset else None))


def index(entries: Sequence[Entry], earlier: bool = False) -> str:
    """The table of verdicts, one row for each prediction with the outcome on every model."""
    models = list(dict.fromkeys(each["model"] for each in entries))
    verdicts = [verdict for each in entries for verdict in each["verdicts"]]
    note = (
        f"\nWhat an earlier version said of all claims, by thresholds alone: [{EARLIER}]({EARLIER}).\n"
        if earlier
        else ""
    )
    lines = [
        f"{INTRODUCTION}{note}",
        f"{len(verdicts)} predictions on {len(models)} models: {tally_text(verdicts)}." if verdicts else "",
        "",
        f"| Question | {' | '.join(models)} |",
        f"|---|{'---|' * len(models)}",
    ]
    for name in dict.fromkeys(each["experiment"] for each in entries):
        by_model = {each["model"]: each["verdicts"] for each in entries if each["experiment"] == name}
        for k, verdict in enumerate(max(by_model.values(), key=len)):
            # a model measured before a prediction was added has fewer verdicts
            cells = [_cell(by_model[m][k]) if k < len(by_model.get(m, ())) else "not asked" for m in models]
            lines.append(f"| [{cell_text(verdict.claim)}]({name}.md) | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(verdict: Verdict) -> str:
    interval = verdict.interval
    spread = f" [{number(interval[0])}, {number(interval[1])}]" if interval else ""
    return f"**{outcome(verdict)}** {number(verdict.value)}{spread}, control {number(verdict.control)}"


def cell_text(text: object) -> str:
    """Text inside a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _key(each: Entry) -> tuple[str, str]:
    return each["experiment"], each["model"]


def _slug(model: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in model)


def _setting(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _json(path: Path) -> dict[str, Any]:
    content = read_json(path)
    return content if isinstance(content, dict) else {}

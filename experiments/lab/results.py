"""docs/results: one page for each experiment and the table of verdicts, written only from finished runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.lab.claims import Experiment
from experiments.lab.performing import command_of, cost_of, verdicts_of
from experiments.lab.presets import read_preset
from mi_ortho import Run
from mi_ortho.pages import number
from mi_ortho.runs import read_json, write_file
from mi_ortho.stats import outcome

INTRODUCTION = """# Results

One row for each prediction. Thresholds are constants of the experiments' files, written before the runs; a verdict is
"supported" or "not supported" only where the whole 95 % interval lies on one side of the threshold, otherwise
"undecided", or "invalid" where an instrument failed its own check. A letter before a claim is its number among those
about refusal and layers. All of it is printed by

```
python -m experiments all
python -m experiments results
```
"""


def write_results(runs: Sequence[tuple[Experiment, Run]], folder: Path) -> list[Path]:
    """Write the page and the figures of every finished run, and the index; returns the files."""
    paths = []
    for experiment, run in runs:
        rows = [row for row in run.records() if row.get("kind") != "cost"]
        names = []
        for k, figure in enumerate(experiment.figures(rows)):
            names.append((f"{experiment.name}-{k + 1}.svg", figure))
            write_file(folder / names[-1][0], figure.svg())
        write_file(folder / f"{experiment.name}.md", page(experiment, run, names))
        paths += [folder / f"{experiment.name}.md", *(folder / name for name, _ in names)]
    write_file(folder / "index.md", index(runs))
    return [*paths, folder / "index.md"]


def page(experiment: Experiment, run: Run, figures: Sequence[tuple[str, Any]]) -> str:
    """One experiment as Markdown."""
    facts, summary = _json(run.path / "environment.json"), _json(run.path / "summary.json")
    parts = [f"# {experiment.claim}", str(summary["headline"]), _table(verdicts_of(run))]
    for name, figure in figures:
        title = cell_text(figure.title)
        parts.append(f"![{title}]({name})\n\n**{title}.** {figure.caption}")
    parts += [f"**{part}.** {text}" for part, text in experiment.parts.items()]
    parts.append(f"```\n{command(experiment, run)}\n```")
    model = f"model {facts.get('model')}, weights {str(facts.get('model_hash'))[:12]}"
    settings = ", ".join(
        f"{key} {_setting(value)}" for key, value in run.config.items() if key not in ("model", "model_hash")
    )
    parts.append(
        f"Measured on {model}; {settings}. Cost: {cost_of(run)} of wall time on "
        f"{facts.get('device', 'cpu')} with {facts.get('threads')} thread(s), "
        f"{number(summary['megabytes'])} MB at most."
    )
    return "\n\n".join(parts) + "\n"


def command(experiment: Experiment, run: Run) -> str:
    """The command of a run as one line."""
    preset = str(run.config.get("preset", "")).rpartition(" ")[0]
    return " ".join(command_of(experiment, run.config, read_preset(preset) if preset else None))


def index(runs: Sequence[tuple[Experiment, Run]]) -> str:
    """The table of verdicts."""
    lines = [
        INTRODUCTION,
        "| Claim | Prediction | Measured | Threshold | Control | Verdict | Cost |",
        "|---|---|---|---|---|---|---|",
    ]
    for experiment, run in runs:
        for verdict in verdicts_of(run):
            cells = [f"[{cell_text(verdict['claim'])}]({experiment.name}.md)", *_cells(verdict)[1:], cost_of(run)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _table(verdicts: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| Claim | Prediction | Measured | Threshold | Control | Verdict |", "|---|---|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(_cells(verdict))} |" for verdict in verdicts)])


def _cells(verdict: Mapping[str, Any]) -> list[str]:
    interval = verdict.get("interval")
    spread = f" [{number(interval[0])}, {number(interval[1])}]" if interval else ""
    numbers = [f"{number(verdict['value'])}{spread} ({cell_text(verdict['statistic'])})", number(verdict["threshold"])]
    texts = [cell_text(verdict["claim"]), cell_text(verdict["prediction"])]
    return [*texts, *numbers, number(verdict["control"]), outcome(verdict)]


def cell_text(text: object) -> str:
    """Text inside a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _setting(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _json(path: Path) -> dict[str, Any]:
    content = read_json(path)
    return content if isinstance(content, dict) else {}

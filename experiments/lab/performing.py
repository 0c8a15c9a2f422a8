"""Running an experiment: into a run directory, resumed where it stopped, judged, and rendered."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.lab.bench import Bench, Cost, Say, Track, identity
from experiments.lab.claims import Experiment
from experiments.lab.needs import check
from experiments.lab.presets import Preset
from experiments.lab.reporting import write_experiment_report
from mi_ortho import Run, Verdict, open_run, open_subject, start
from mi_ortho.pages import number
from mi_ortho.runs import newest_first, numbers, pick, read_json, to_json, write_file
from mi_ortho.stats import outcome, tally
from mi_ortho.studies.shared import Subject, model_hash


def settings_of(config: Any, preset: Preset | None = None) -> dict[str, object]:
    """What a run is identified by: its configuration, the weights it was measured on, and a preset's prompts."""
    extra = {"preset": preset.name} if preset else {}
    return {**identity(config), "model_hash": model_hash(config.model), **extra}


def perform(
    experiment: Experiment,
    config: Any,
    out: Path,
    *,
    subject: Subject | None,
    fresh: bool,
    say: Say,
    track: Track,
    preset: Preset | None = None,
    device: str = "cpu",
) -> Run:
    """Run one experiment or continue it, judge its rows, write its report; a finished one is only rendered again.

    Args:
        experiment: the claim.
        config: its configuration.
        out: folder that run directories are made in.
        subject: the model, where it is loaded already, with the preset's prompts.
        fresh: measure again what is finished.
        say: prints a line.
        track: shows progress.
        preset: what the configuration was made by.
        device: where a model that is loaded here goes.

    Raises:
        ValueError: the model lacks what the experiment needs (before the run directory is made), or turns out to.
    """
    settings = settings_of(config, preset)
    if fresh or finished_run(experiment, config, out, preset) is None:
        subject = subject or opened(config.model, preset, device)
        check(experiment.needs, config, subject)
    facts = {
        "model": config.model or "embedded",
        "model_hash": settings["model_hash"],
        "experiment": experiment.name,
        "device": device if subject is None else str(subject.device),
        **({} if subject is None else subject.prompts([*subject.texts.train, *subject.texts.held_out])),
        "argv": command_of(experiment, settings, preset),
        **(experiment.predictions.provenance() if experiment.predictions else {}),
    }
    with start(out, experiment.name, settings, fresh=fresh, facts=facts, source=experiment.path) as run:
        if run.finished:
            say(f"{experiment.name}: already finished in {run.path}")
        else:
            say(f"{experiment.name}: {run.path}")
            measure(experiment, config, Bench(run, subject or opened(config.model, preset, device), say, track))
            run.summary(summary(experiment, run))
    write_experiment_report(experiment, open_run(run.path))
    return run


def opened(model: str | None, preset: Preset | None = None, device: str = "cpu") -> Subject:
    """The model, with a preset's prompts."""
    subject = open_subject(model, device=device)
    return preset.prompted(subject) if preset else subject


def measure(experiment: Experiment, config: Any, bench: Bench) -> None:
    """Let an experiment write its rows, and after them what they took; nothing where it refuses before the first."""
    cost = Cost()
    try:
        experiment.run(config, bench)
    except ValueError:
        if bench.run.records():
            bench.record(kind="cost", **cost.row())
        raise
    except BaseException:
        with suppress(OSError):
            bench.record(kind="cost", **cost.row())
        raise
    bench.record(kind="cost", **cost.row())


def command_of(experiment: Experiment, settings: Mapping[str, object], preset: Preset | None = None) -> list[str]:
    """The command of a run: its name, a preset, and every setting that differs from the standard one (or its)."""
    config = type(experiment.config)()
    standard = asdict(preset.configured(config, smoke=False) if preset else config)
    model = settings.get("model")
    flags = ["--preset", preset.source] if preset else []
    flags += ["--model", str(model)] if model and model != standard.get("model") else []
    changes = [
        f"{key}={_setting(value)}"
        for key, value in settings.items()
        if key in standard and key != "model" and _as_list(value) != _as_list(standard[key])
    ]
    return [*experiment.command.split(), *flags, *(part for change in changes for part in ("--set", change))]


def _setting(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _as_list(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def summary(experiment: Experiment, run: Run) -> dict[str, object]:
    """summary.json: headline, verdicts, cost."""
    rows = run.records()
    costs = pick(rows, kind="cost")
    verdicts = experiment.judge([row for row in rows if row.get("kind") != "cost"])
    worked = numbers(costs, "cpu_seconds")
    return {
        "headline": headline(experiment, verdicts),
        "verdicts": verdicts,
        "seconds": sum(numbers(costs, "seconds")),
        "cpu_seconds": sum(worked) if len(worked) == len(costs) else None,  # older parts did not record it
        "megabytes": max(numbers(costs, "megabytes")),
    }


def judge_again(experiment: Experiment, run: Run) -> None:
    """Bring what a finished run says of its rows up to date with the code that judges them: summary and report.

    Its rows and its predictions are what they were; that the predictions are those of the run is another check.
    """
    stored, now = read_json(run.path / "summary.json"), summary(experiment, run)
    if isinstance(stored, dict) and json.loads(to_json(now["verdicts"])) != stored.get("verdicts"):
        changes = {key: now[key] for key in ("headline", "verdicts")}
        write_file(run.path / "summary.json", to_json({**stored, **changes}, indent=1) + "\n")
        write_experiment_report(experiment, run)


def headline(experiment: Experiment, verdicts: list[Verdict]) -> str:
    """One sentence: the claim with its outcome, or how many of several predictions held."""
    if len(verdicts) == 1:
        return f"{verdicts[0].outcome.capitalize()}: {experiment.claim}."
    count = tally(verdicts)["supported"]
    return f"{count} of {len(verdicts)} predictions supported: {experiment.claim}."


def finished_run(experiment: Experiment, config: Any, out: Path, preset: Preset | None = None) -> Run | None:
    """The newest finished run of exactly this configuration and these weights; None where there is none."""
    settings = settings_of(config, preset)
    for path in newest_first(path.parent for path in (out / experiment.name).glob("*/summary.json")):
        run = open_run(path)
        if run.config == _plain(settings):
            return run
    return None


def _plain(settings: Mapping[str, object]) -> dict[str, object]:
    return {key: _as_list(value) for key, value in settings.items()}


def verdicts_of(run: Run) -> list[dict[str, Any]]:
    """The verdicts a finished run holds, as plain mappings."""
    content = read_json(run.path / "summary.json")
    return list(content.get("verdicts", [])) if isinstance(content, dict) else []


def cost_of(run: Run) -> str:
    """What a finished run took, in words; CPU time only where all of its parts recorded it."""
    content = read_json(run.path / "summary.json")
    values = content if isinstance(content, dict) else {}
    cpu = values.get("cpu_seconds")
    return f"{number(values.get('seconds'))} s" + (f" ({number(cpu)} s of CPU)" if cpu is not None else "")


def cpu_seconds(run: Run) -> float:
    """What a finished run took of all CPUs; on the clock where a part of it did not record that."""
    content = read_json(run.path / "summary.json")
    values = content if isinstance(content, dict) else {}
    return float(values.get("cpu_seconds") or values["seconds"])


def verdict_lines(run: Run) -> list[str]:
    """The verdicts of a run and what it took as plain lines."""
    lines = [
        f"  {outcome(verdict):14} {verdict['claim']}: {number(verdict['value'])} "
        f"(threshold {number(verdict['threshold'])}, control {number(verdict['control'])})"
        for verdict in verdicts_of(run)
    ]
    return [*lines, f"  took {cost_of(run)}"]

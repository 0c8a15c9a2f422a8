"""Running an experiment: into a run directory, resumed where it stopped, judged, and rendered."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.lab.bench import Bench, Cost, Say, Track
from experiments.lab.claims import Experiment
from experiments.lab.judging import column, of
from experiments.lab.reporting import write_experiment_report
from mi_ortho import Run, Verdict, open_run, open_subject, start
from mi_ortho.files import read_json
from mi_ortho.subject import Subject, model_hash

WORDS = {True: "supported", False: "not supported", None: "undecided"}


def settings_of(config: Any) -> dict[str, object]:
    """What a run is identified by: its configuration and the weights it was measured on."""
    return {**asdict(config), "model_hash": model_hash(config.model)}


def perform(
    experiment: Experiment, config: Any, out: Path, *, subject: Subject | None, fresh: bool, say: Say, track: Track
) -> Run:
    """Run one experiment or continue it, judge its rows, write its report; a finished one is only rendered again.

    Args:
        experiment: the claim.
        config: its configuration.
        out: folder that run directories are made in.
        subject: the model, where it is loaded already.
        fresh: measure again what is finished.
        say: prints a line.
        track: shows progress.
    """
    settings = settings_of(config)
    facts = {"model": config.model or "embedded", "model_hash": settings["model_hash"], "experiment": experiment.name,
             "argv": command_of(experiment, settings)}  # fmt: skip
    with start(out, experiment.name, settings, fresh=fresh, facts=facts, source=experiment.path) as run:
        if run.finished:
            say(f"{experiment.name}: already finished in {run.path}")
        else:
            say(f"{experiment.name}: {run.path}")
            bench = Bench(run, subject or open_subject(config.model), say, track)
            cost = Cost()
            try:
                experiment.run(config, bench)
            finally:
                with suppress(OSError):
                    bench.record(kind="cost", **cost.row())
            run.summary(summary(experiment, run))
    write_experiment_report(experiment, open_run(run.path))
    return run


def command_of(experiment: Experiment, settings: Mapping[str, object]) -> list[str]:
    """The command of a run: its name, and every setting that differs from the standard one."""
    standard = asdict(type(experiment.config)())
    model = ["--model", str(settings["model"])] if settings.get("model") else []
    changes = [f"{key}={_setting(value)}" for key, value in settings.items()
               if key in standard and key != "model" and _listed(value) != _listed(standard[key])]  # fmt: skip
    return [*experiment.command.split(), *model, *(part for change in changes for part in ("--set", change))]


def _setting(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def summary(experiment: Experiment, run: Run) -> dict[str, object]:
    """summary.json: headline, verdicts, cost."""
    rows = run.records()
    costs = of(rows, kind="cost")
    verdicts = experiment.judge([row for row in rows if row.get("kind") != "cost"])
    return {
        "headline": headline(experiment, verdicts),
        "verdicts": verdicts,
        "seconds": sum(column(costs, "seconds")),
        "megabytes": max(column(costs, "megabytes")),
    }


def headline(experiment: Experiment, verdicts: list[Verdict]) -> str:
    """One sentence: the claim with its outcome, or how many of several predictions held."""
    if len(verdicts) == 1:
        return f"{WORDS[verdicts[0].supported].capitalize()}: {experiment.claim}."
    held = sum(verdict.supported is True for verdict in verdicts)
    return f"{held} of {len(verdicts)} predictions supported: {experiment.claim}."


def finished_run(experiment: Experiment, config: Any, out: Path) -> Run | None:
    """The newest finished run of exactly this configuration and these weights; None where there is none."""
    wanted = settings_of(config)
    for path in sorted((out / experiment.name).glob("*/summary.json"), reverse=True):
        run = open_run(path.parent)
        if run.config == _plain(wanted):
            return run
    return None


def _plain(settings: Mapping[str, object]) -> dict[str, object]:
    return {key: _listed(value) for key, value in settings.items()}


def verdicts_of(run: Run) -> list[dict[str, Any]]:
    """The verdicts a finished run holds, as plain mappings."""
    found = read_json(run.path / "summary.json")
    return list(found.get("verdicts", [])) if isinstance(found, dict) else []

"""The commands `family` and `melbo`: search, measurement, summary, report."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mi_ortho.interventions.subspace import max_abs_cosine
from mi_ortho.model.prompt_files import with_texts
from mi_ortho.runs.directory import Run
from mi_ortho.runs.rows import pick
from mi_ortho.runs.settings import settings_of
from mi_ortho.steering.files import header
from mi_ortho.studies.family.config import FamilyConfig
from mi_ortho.studies.family.finished import MATCHES
from mi_ortho.studies.family.inside import save_visuals
from mi_ortho.studies.family.job import Job, check, check_alone, check_behaviour, prepare
from mi_ortho.studies.family.stages import candidates, cosines, solve, unsteered
from mi_ortho.studies.family.verdicts import summarise
from mi_ortho.studies.shared.best_layers import best_layers
from mi_ortho.studies.shared.left_out import left_out
from mi_ortho.studies.shared.positions import sinks_setting
from mi_ortho.studies.shared.progress import Say, Track
from mi_ortho.studies.shared.run import perform
from mi_ortho.studies.shared.subject import Subject, load_subject

FAMILY_REPORT = "mi_ortho.studies.family.page:family_report"
MELBO_REPORT = "mi_ortho.studies.family.page_melbo:melbo_report"


def family(config: FamilyConfig, out: Path, *, fresh: bool, at: Path | None, say: Say, track: Track) -> Run:
    """Find, measure and report a family; continue it where an earlier call was interrupted."""

    def compute(job: Job, subject: Subject) -> None:
        solve(job)
        _finish(job, subject)

    return _perform("family", config, config, compute, out, FAMILY_REPORT, fresh=fresh, at=at, say=say, track=track)


def melbo_only(config: FamilyConfig, out: Path, *, fresh: bool, at: Path | None, say: Say, track: Track) -> Run:
    """Find MELBO vectors, and record and report what each makes the model write."""
    used = replace(config, n=1, n_kl=0, random_bases=0)
    return _perform("melbo", config, used, _melbo, out, MELBO_REPORT, fresh=fresh, at=at, say=say, track=track)


def _perform(
    name: str,
    config: FamilyConfig,
    used: FamilyConfig,
    compute: Callable[[Job, Subject], None],
    out: Path,
    report: str,
    *,
    fresh: bool,
    at: Path | None,
    say: Say,
    track: Track,
) -> Run:
    """Load, check everything that can be wrong in the settings `used` by the command, then perform it."""
    layers = auto_layers(config, out, say)
    config, used = replace(config, **layers), replace(used, **layers)
    config = with_texts(replace(config, radius=None) if config.radius == "lambda" else config)
    check_alone(used)
    subject = load_subject(config, say)
    check(used, subject.model)
    check_behaviour(config, subject.modes)
    train = subject.texts.train if config.prompts is None else config.prompts
    held_out = subject.texts.held_out if config.held_out is None else config.held_out
    texts = [*train, *held_out]
    settings = settings_of(config) | {"prompts": list(train), "held_out": list(held_out)}
    settings |= sinks_setting(config.sinks, subject.model, texts, config.system, say)
    facts = subject.facts(config.seed, texts, config.system)

    def solve_run(run: Run) -> None:
        compute(prepare(run, config, subject.model, subject.modes, train, held_out, say=say, track=track), subject)

    return perform(name, out, settings, facts, fresh=fresh, at=at, say=say, solve=solve_run, report=report)


def auto_layers(config: FamilyConfig, out: Path, say: Say) -> dict[str, Any]:
    """The settings that the newest atlas under `out` decides: layers that are auto, and the norm that goes with them.

    A norm that was given belongs to other layers and gives way; "auto" and "lambda" find one for these.

    Raises:
        ValueError: only one layer is auto; or RunError, see `best_layers`.
    """
    if (config.source, config.target) != ("auto", "auto"):
        _ = config.layers  # one auto alone raises
        return {}
    best = best_layers(out, config.model)
    say(f"blocks {best.source} to {best.target}, norm {best.radius:.4g}: the best of {best.run}")
    radius = config.radius if isinstance(config.radius, str) else best.radius
    return {"source": best.source, "target": best.target, "radius": radius}


def _melbo(job: Job, _: Subject) -> None:
    """Vectors, completions and summary of `melbo`."""
    run = job.run
    unsteered(job)
    vectors = candidates(job)
    run.save_tensors("vectors", {"melbo": vectors}, _header(job))
    rows = run.records()
    names, plain = job.setting.modes.behaviours, pick(rows, kind="unsteered")[0]["mode"]
    behaviours = sorted({str(row["mode"]) for row in pick(rows, kind="melbo")}.intersection(names))
    changed = [
        sum(row["mode"] != plain and row["mode"] in names for row in pick(rows, kind=kind))
        for kind in ("melbo", "melbo_control")
    ]
    run.summary(
        {
            "headline": f"{len(vectors)} orthogonal MELBO vectors show {len(behaviours)} behaviours "
            f"({', '.join(behaviours) or 'none that the rules know'}); {changed[0]} of them show another than "
            f"without steering, {changed[1]} random vectors of the same norm do.",
            "max_abs_cosine": {"melbo": max_abs_cosine(vectors)},
            "sinks": left_out(rows),
        }
    )


def _finish(job: Job, subject: Subject) -> None:
    """Visuals, one file of vectors, summary: after this the run is complete."""
    run, rows = job.run, job.run.records()
    shards = run.load_rows("vectors")
    named = {"base": shards["base"].reshape(-1)}
    for match in reversed(MATCHES):
        if match in shards:
            named |= {f"{match}_{k}": shards[match][k] for k in (0, 1, 2) if k < len(shards[match])}
    mode = str(pick(rows, kind="base")[0]["mode"])
    natural = subject.texts.natural.get(mode, ())
    save_visuals(
        run,
        job.setting,
        job.train[0],
        {k: v.to(job.device) for k, v in named.items()},
        next(iter(natural), None),
        job.config.layers[1],
    )
    largest = cosines(job)
    run.consolidate("vectors", _header(job))
    config = job.config
    run.summary(summarise(rows, largest, subject.title, (config.fixed_norm or config.norm_cap) or None))


def _header(job: Job) -> dict[str, str]:
    return header(
        job.setting.site, job.config.model or "embedded", {"where": job.config.where, "run": job.run.path.name}
    )

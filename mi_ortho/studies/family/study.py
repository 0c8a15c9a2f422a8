"""The commands `family` and `melbo`: search, measurement, summary, report."""

from dataclasses import replace
from pathlib import Path

from mi_ortho.interventions.subspace import max_abs_cosine
from mi_ortho.model.prompt_files import with_texts
from mi_ortho.runs.directory import Run, start
from mi_ortho.runs.rows import pick
from mi_ortho.runs.settings import settings_of
from mi_ortho.steering.files import header
from mi_ortho.studies.family.config import FamilyConfig
from mi_ortho.studies.family.finished import MATCHES
from mi_ortho.studies.family.inside import save_visuals
from mi_ortho.studies.family.job import Job, check, check_alone, check_behaviour, prepare
from mi_ortho.studies.family.stages import candidates, cosines, solve, unsteered
from mi_ortho.studies.family.verdicts import summarise
from mi_ortho.studies.shared.left_out import left_out
from mi_ortho.studies.shared.positions import sinks_of
from mi_ortho.studies.shared.progress import Say, Track
from mi_ortho.studies.shared.subject import Subject, open_subject


def family(config: FamilyConfig, out: Path, *, fresh: bool, at: Path | None, say: Say, track: Track) -> Run:
    """Find, measure and report a family; continue it where an earlier call was interrupted."""
    subject, job = _open(config, "family", out, fresh, at, say, track)
    with job.run as run:
        if run.finished:
            say(f"already finished: {run.path} (--fresh computes it again)")
        else:
            solve(job)
            _finish(job, subject)
    if not (run.path / "report.html").is_file():
        from mi_ortho.studies.family.page import family_report

        family_report(run.path)
    return run


def melbo_only(config: FamilyConfig, out: Path, *, fresh: bool, at: Path | None, say: Say, track: Track) -> Run:
    """Find MELBO vectors, and record and report what each makes the model write."""
    _, job = _open(config, "melbo", out, fresh, at, say, track)
    with job.run as run:
        if not run.finished:
            unsteered(job)
            vectors = candidates(job)
            run.save_tensors("vectors", {"melbo": vectors}, _header(job))
            rows = run.records()
            default = job.setting.modes.default
            unchanged = (pick(rows, kind="unsteered")[0]["mode"], default)
            behaviours = sorted({str(row["mode"]) for row in pick(rows, kind="melbo")} - {default})
            changed = [
                sum(row["mode"] not in unchanged for row in pick(rows, kind=kind))
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
    if not (run.path / "report.html").is_file():
        from mi_ortho.studies.family.page_melbo import melbo_report

        melbo_report(run.path)
    return run


def _open(
    config: FamilyConfig, name: str, out: Path, fresh: bool, at: Path | None, say: Say, track: Track
) -> tuple[Subject, Job]:
    """Load, check everything that can be wrong, then open the run directory."""
    config = with_texts(config)
    check_alone(config if name == "family" else replace(config, n=1, n_kl=0))
    say(f"loading {config.model or 'the embedded model'}")
    subject = open_subject(
        config.model, device=config.device, dtype=config.dtype, trust_remote_code=config.trust_remote_code
    )
    check(config if name == "family" else replace(config, n=1, n_kl=0, random_bases=0), subject.model)
    check_behaviour(config, subject.modes)
    texts = subject.texts
    train = config.prompts if config.prompts is not None else texts.train
    held_out = config.held_out if config.held_out is not None else texts.held_out
    settings = settings_of(config) | {"prompts": list(train), "held_out": list(held_out)}
    if sinks_of(config.sinks, subject.model, [*train, *held_out], config.system) == "exclude":
        settings["sinks"] = "exclude"  # part of what the run is; models without sinks are as they were
        say("attention sinks are left out of steering and reading (--sinks include takes them in)")
    run = start(
        out, name, settings, fresh=fresh, at=at, facts=subject.facts(config.seed, [*train, *held_out], config.system)
    )
    say(f"run {run.path}")
    try:
        return subject, prepare(run, config, subject.model, subject.modes, train, held_out, say=say, track=track)
    except BaseException:
        run.close()
        raise


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
        job.config.target,
    )
    largest = cosines(job)
    run.consolidate("vectors", _header(job))
    config = job.config
    run.summary(summarise(rows, largest, subject.title, (config.fixed_norm or config.norm_cap) or None))


def _header(job: Job) -> dict[str, str]:
    return header(
        job.setting.site, job.config.model or "embedded", {"where": job.config.where, "run": job.run.path.name}
    )

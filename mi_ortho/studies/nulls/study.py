"""The command `nulls`: hold a finished family run against linear, quadratic and random null models."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mi_ortho.runs.directory import Run, RunError, start
from mi_ortho.runs.rows import Row, stage
from mi_ortho.runs.settings import check_settings, settings_of
from mi_ortho.studies.family.finished import Source, newest_family, open_source
from mi_ortho.studies.nulls.bench import Bench, prepare_bench
from mi_ortho.studies.nulls.config import NullsConfig
from mi_ortho.studies.nulls.diversity import diversity_rows
from mi_ortho.studies.nulls.linear import gradient_rows, linear_rows
from mi_ortho.studies.nulls.shape import completion_rows, composition_rows, dose_rows, sign_rows
from mi_ortho.studies.nulls.spectrum import spectrum_rows
from mi_ortho.studies.nulls.verdicts import headline, verdicts
from mi_ortho.studies.shared.left_out import sinks_row
from mi_ortho.studies.shared.progress import Say, Track
from mi_ortho.studies.shared.subject import Subject, open_subject

STAGES = {
    "linear": linear_rows,
    "gradients": gradient_rows,
    "dose": dose_rows,
    "completions": completion_rows,
    "composition": composition_rows,
    "signs": sign_rows,
    "spectrum": spectrum_rows,
    "multiplicity": diversity_rows,
}


def nulls(config: NullsConfig, out: Path, *, fresh: bool, at: Path | None, say: Say, track: Track) -> Run:
    """Test a family run; continue where an earlier call was interrupted."""
    check(config)
    source = open_source(Path(config.run) if config.run else newest_family(out, config.model))
    config = replace(config, run=str(source.path), model=source.config.model)
    say(f"testing {source.path}")
    subject = _subject(config, source)
    facts = subject.facts(config.seed, source.train, source.config.system) | {"source": source.path.name}
    run = start(out, "nulls", settings_of(config), fresh=fresh, at=at, facts=facts)
    with run:
        if run.finished:
            say(f"already finished: {run.path} (--fresh computes it again)")
        else:
            say(f"run {run.path}")
            _solve(prepare_bench(run, config, source, subject, say, track))
    if not (run.path / "report.html").is_file():
        from mi_ortho.studies.nulls.page import nulls_report

        nulls_report(run.path)
    return run


def check(config: NullsConfig) -> None:
    """Raise ValueError for anything in the configuration that cannot work."""
    check_settings(config)
    if not 0 < config.threshold < 1:
        raise ValueError(f"got threshold {config.threshold}; expected between 0 and 1; 0.5 suits a saturating effect")
    for name, least in (("nodes", 1), ("samples", 2), ("draws", 10)):
        if getattr(config, name) < least:
            raise ValueError(f"got {name}={getattr(config, name)}; expected at least {least}; raise --{name}")


def _subject(config: NullsConfig, source: Source) -> Subject:
    known = source.config
    subject = open_subject(
        known.model, device=config.device, dtype=known.dtype, trust_remote_code=known.trust_remote_code
    )
    if source.digest is not None and source.digest != subject.digest:
        raise RunError(
            f"got run {source.path}, made with other weights of {subject.title} ({str(source.digest)[:12]}, now "
            f"{str(subject.digest)[:12]}); expected the same model; run `mi-ortho family` again"
        )
    return subject


def _computed(bench: Bench, name: str, compute: Callable[[Bench], list[Row]]) -> list[Row]:
    bench.say(f"{name}: computing")
    return compute(bench)


def _solve(bench: Bench) -> None:
    texts = [*bench.source.train, *(bench.source.config.held_out or ())]
    stage(bench.run, "sinks", lambda: [sinks_row(bench.setting, texts)])
    for done, (name, compute) in enumerate(STAGES.items()):
        stage(bench.run, name, lambda name=name, compute=compute: _computed(bench, name, compute))
        bench.track("stages", done + 1, len(STAGES))
    rows = bench.run.records()
    found = verdicts(rows)
    bench.run.summary(
        {"headline": headline(rows, found, bench.subject.title), "source": str(bench.source.path), "verdicts": found}
    )

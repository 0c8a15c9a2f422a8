"""The command `nulls`: hold a finished family run against linear, quadratic and random null models."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mi_ortho.runs.directory import Run
from mi_ortho.runs.rows import Row, stage
from mi_ortho.runs.settings import check_settings, settings_of
from mi_ortho.studies.family.finished import newest_family, open_source, source_subject
from mi_ortho.studies.nulls.bench import Bench, prepare_bench
from mi_ortho.studies.nulls.config import PARTS, NullsConfig
from mi_ortho.studies.nulls.diversity import diversity_rows
from mi_ortho.studies.nulls.linear import gradient_rows, linear_rows
from mi_ortho.studies.nulls.shape import completion_rows, composition_rows, dose_rows, sign_rows
from mi_ortho.studies.nulls.spectrum import spectrum_rows
from mi_ortho.studies.nulls.verdicts import headline, verdicts
from mi_ortho.studies.shared.left_out import sinks_row
from mi_ortho.studies.shared.progress import Say, Track
from mi_ortho.studies.shared.run import perform

REPORT = "mi_ortho.studies.nulls.page:nulls_report"
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
    subject = source_subject(source, device=config.device)
    facts = subject.facts(config.seed, source.train, source.config.system) | {"source": source.path.name}

    def solve(run: Run) -> None:
        _solve(prepare_bench(run, config, source, subject, say, track))

    settings = settings_of(config)
    return perform("nulls", out, settings, facts, fresh=fresh, at=at, say=say, solve=solve, report=REPORT)


def check(config: NullsConfig) -> None:
    """Raise ValueError for anything in the configuration that cannot work."""
    check_settings(config)
    if not 0 < config.threshold < 1:
        raise ValueError(f"got threshold {config.threshold}; expected between 0 and 1; 0.5 suits a saturating effect")
    unknown = [name for name in config.parts if name not in PARTS]
    if unknown or not config.parts:
        raise ValueError(f"got parts {list(config.parts)}; expected some of {', '.join(PARTS)}; correct --parts")
    for name, least in (("nodes", 1), ("samples", 2), ("draws", 10), ("dosed", 1)):
        if getattr(config, name) < least:
            raise ValueError(f"got {name}={getattr(config, name)}; expected at least {least}; raise --{name}")


def _announced(bench: Bench, name: str, compute: Callable[[Bench], list[Row]]) -> list[Row]:
    bench.say(f"{name}: computing")
    return compute(bench)


def _solve(bench: Bench) -> None:
    texts = [*bench.source.train, *(bench.source.config.held_out or ())]
    stage(bench.run, "sinks", lambda: [sinks_row(bench.setting, texts)])
    chosen = [name for name in PARTS if name in bench.config.parts]
    for done, name in enumerate(chosen):
        stage(bench.run, name, lambda name=name: _announced(bench, name, STAGES[name]))
        bench.track("stages", done + 1, len(chosen))
    reason = "the setting parts does not name it"
    left_out = [{"kind": "left_out", "what": name, "reason": reason} for name in PARTS if name not in chosen]
    if left_out:
        stage(bench.run, "left out", lambda: left_out)
    rows = bench.run.records()
    claims = verdicts(rows)
    bench.run.summary(
        {"headline": headline(rows, claims, bench.subject.title), "source": str(bench.source.path), "verdicts": claims}
    )

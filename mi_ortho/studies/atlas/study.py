"""The command `atlas`: a run from its settings to its page."""

from dataclasses import replace
from pathlib import Path

from mi_ortho.model.prompt_files import read_texts
from mi_ortho.runs.directory import Run
from mi_ortho.runs.settings import settings_of
from mi_ortho.studies.atlas.bench import Bench, check, check_on, pairs_of
from mi_ortho.studies.atlas.config import AtlasConfig
from mi_ortho.studies.atlas.stages import solve
from mi_ortho.studies.atlas.verdicts import summarise
from mi_ortho.studies.shared.positions import sinks_of, sinks_setting
from mi_ortho.studies.shared.progress import Say, Track
from mi_ortho.studies.shared.run import perform
from mi_ortho.studies.shared.subject import load_subject

REPORT = "mi_ortho.studies.atlas.page:atlas_report"


def atlas(config: AtlasConfig, out: Path, *, fresh: bool, at: Path | None, say: Say, track: Track) -> Run:
    """Try every pair of layers and report which are worth a family; continue where an earlier call was interrupted."""
    check(config)
    given = config.prompts if config.prompts is None else read_texts(config.prompts)
    subject = load_subject(config, say)
    check_on(config, subject)
    texts = subject.texts.train[:1] if given is None else given
    pairs = pairs_of(config, int(subject.model.cfg.n_layers))
    sources, blocks = (tuple(sorted(layers)) for layers in ({a for a, _ in pairs}, {b - a for a, b in pairs}))
    config = replace(config, prompts=texts, sources=sources, blocks=blocks)
    settings = settings_of(config) | sinks_setting(config.sinks, subject.model, texts, config.system, say)
    facts = subject.facts(config.seed, texts, config.system)

    def compute(run: Run) -> None:
        sinks = sinks_of(config.sinks, subject.model, texts, config.system)
        solve(Bench(run, config, subject, texts, pairs, sinks, say, track))
        run.summary(summarise(run.records(), subject.title, config.behaviour))

    return perform("atlas", out, settings, facts, fresh=fresh, at=at, say=say, solve=compute, report=REPORT)

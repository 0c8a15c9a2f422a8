"""The command `dct`: deep causal transcoding of a slice by several methods, beside random directions."""

from dataclasses import replace
from pathlib import Path

from mi_ortho.model.prompt_files import with_texts
from mi_ortho.runs.directory import Run
from mi_ortho.runs.settings import check_settings, settings_of
from mi_ortho.steering import files as vectors
from mi_ortho.studies.dct.bench import Study, check, prepare_study
from mi_ortho.studies.dct.config import DctConfig
from mi_ortho.studies.dct.copies import copy_rows
from mi_ortho.studies.dct.effects import trial_rows, unsteered_rows
from mi_ortho.studies.dct.fits import RANDOM, agreement_rows, factor_sets, fit, load_fit, scale_rows, stacked
from mi_ortho.studies.dct.spectrum import spectrum_rows
from mi_ortho.studies.dct.verdicts import summarise
from mi_ortho.studies.shared.left_out import sinks_row
from mi_ortho.studies.shared.positions import readout_of, sinks_setting, where
from mi_ortho.studies.shared.progress import Say, Track
from mi_ortho.studies.shared.run import perform
from mi_ortho.studies.shared.subject import Subject, load_subject

REPORT = "mi_ortho.studies.dct.page:dct_report"
HELD_OUT = 4  # of the model's own held-out prompts that completions are judged on


def dct(config: DctConfig, out: Path, *, fresh: bool, at: Path | None, say: Say, track: Track) -> Run:
    """Transcode a slice of a model; continue where an earlier call was interrupted."""
    config = with_texts(config)
    check_settings(config)
    _ = where(config.where), readout_of(config.readout)  # wrong ones raise
    subject = load_subject(config, say)
    config = _complete(config, subject)
    check(config, subject)
    texts = [*(config.prompts or ()), *(config.held_out or ())]
    facts = subject.facts(config.seeds[0], texts, config.system)
    settings = settings_of(config) | sinks_setting(config.sinks, subject.model, texts, config.system, say)

    def solve(run: Run) -> None:
        _solve(prepare_study(run, config, subject, say, track))

    return perform("dct", out, settings, facts, fresh=fresh, at=at, say=say, solve=solve, report=REPORT)


def _complete(config: DctConfig, subject: Subject) -> DctConfig:
    """The model's own prompts where none are given: the run's configuration names all it depends on."""
    train = subject.texts.train if config.prompts is None else config.prompts
    held_out = subject.texts.held_out[:HELD_OUT] if config.held_out is None else config.held_out
    if not train:
        raise ValueError("got no prompts; expected at least one whose response is transcoded; give some with --prompts")
    return replace(config, prompts=tuple(train), held_out=tuple(text for text in held_out if text not in train))


def _solve(study: Study) -> None:
    """Every stage that the run does not hold yet, then the summary."""
    config, maps = study.config, study.maps(study.config.source, study.config.target)
    study.stage("sinks", lambda: [sinks_row(study.setting, [*study.train, *study.held_out])])
    study.stage("scale", lambda: scale_rows(study, maps))
    radius = float(study.rows(kind="radius")[-1]["radius"])
    study.stage("unsteered", lambda: unsteered_rows(study))
    study.say(f"norm {radius:.4g}; spectra of the Jacobian at 0")
    study.stage("spectrum", lambda: spectrum_rows(study))
    sets = factor_sets(config)
    for done, (name, seed) in enumerate(sets):
        study.say(f"{name}, seed {seed}: {config.k} factors")
        study.stage(f"fit {name} {seed}", lambda name=name, seed=seed: fit(study, maps, radius, name, seed))
        factors = load_fit(study, name, seed)
        arguments = (study, maps, name, seed, factors)
        study.stage(f"trial {name} {seed}", lambda arguments=arguments: trial_rows(*arguments))
        if seed == config.seeds[0] and name != RANDOM:
            study.stage(f"copies {name} {seed}", lambda arguments=arguments: copy_rows(*arguments))
        study.track("fits", done + 1, len(sets))
    study.stage("agreement", lambda: agreement_rows(study))
    title = study.subject.title
    header = vectors.header(study.setting.site, title, {"command": "dct", "radius": radius, "where": config.where})
    study.run.save_tensors("vectors", stacked(study), header)
    study.run.summary(summarise(study.run.records(), title))

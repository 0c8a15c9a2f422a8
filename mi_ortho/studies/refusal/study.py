"""The command `refusal`: extract, select, ablate, compare, in one run directory; and export of an edited model."""

import hashlib
from dataclasses import asdict
from pathlib import Path

import torch

from mi_ortho.model import Model, export_model, intervene, orthogonalised
from mi_ortho.refusal.extraction import instruction_suffix, residual_sites
from mi_ortho.refusal.places import ablate_everywhere
from mi_ortho.runs.directory import Run, open_run
from mi_ortho.runs.files import read_tensors, to_json, write_file
from mi_ortho.runs.settings import check_settings, settings_of
from mi_ortho.studies.refusal.bench import Sets, Study, prompt_sets
from mi_ortho.studies.refusal.compare import compare
from mi_ortho.studies.refusal.config import RefusalConfig
from mi_ortho.studies.refusal.directions import choose, extract
from mi_ortho.studies.refusal.refusals import measure_refusals
from mi_ortho.studies.refusal.trial import edit_refused, try_out
from mi_ortho.studies.refusal.verdicts import summarise
from mi_ortho.studies.refusal.words import hardly_refuses
from mi_ortho.studies.shared.progress import Say, Track
from mi_ortho.studies.shared.run import perform
from mi_ortho.studies.shared.subject import Subject, load_subject

REPORT = "mi_ortho.studies.refusal.page:refusal_report"
STAGES = ("extract", "select", "ablate", "compare")


def refusal(
    config: RefusalConfig, out: Path, *, fresh: bool, at: Path | None, say: Say, track: Track, until: str = "compare"
) -> Run:
    """Find, try and compare refusal directions; each stage continues the run that the earlier ones began.

    `until` names the last stage to run: extract, select, ablate or compare; only the last finishes the run.
    """
    subject, sets = _open(config, say)
    prompts = to_json(asdict(sets), indent=1)
    digest = hashlib.sha256(prompts.encode()).hexdigest()[:16]
    settings = settings_of(config) | {"prompts": f"prompts.json, sha256 {digest}"}
    facts = subject.facts(config.seed, [text for texts in asdict(sets).values() for text in texts])

    def solve(run: Run) -> None:
        write_file(run.path / "prompts.json", prompts + "\n")
        _stages(Study(run, config, subject, sets, say, track), until)

    return perform("refusal", out, settings, facts, fresh=fresh, at=at, say=say, solve=solve, report=REPORT)


def _stages(study: Study, until: str) -> None:
    last = STAGES.index(until)
    if not study.about_refusal:
        study.stage("classes", lambda: [study.classes_row()])
    if study.config.refusal_tokens is None:
        measure_refusals(study)
    if study.about_refusal and hardly_refuses(study.run.records()):
        study.run.summary(summarise(study.run.records(), study.subject.title))
        return
    extraction = extract(study)
    best = choose(study, extraction).best if last >= 1 else None
    if best is not None and last >= 2:
        try_out(study, extraction, best)
    if best is not None and last >= 3:
        compare(study, extraction, best)
    if last >= 3:
        study.run.summary(summarise(study.run.records(), study.subject.title))


def _open(config: RefusalConfig, say: Say) -> tuple[Subject, Sets]:
    """The subject and its prompts; everything that can be wrong raises here."""
    _check(config)
    subject = load_subject(config, say)
    residual_sites(subject.model, config.streams)
    _require_ablation(subject.model, say)
    if config.positions is None:
        instruction_suffix(subject.model)
    sets = prompt_sets(config, subject)
    sizes = len(sets.train_harmful), len(sets.train_harmless)
    if sizes[0] != sizes[1]:
        say(
            f"{sizes[0]} harmful and {sizes[1]} harmless training prompts: each class is averaged by itself, so they "
            "need not be as many"
        )
    return subject, sets


def _require_ablation(model: Model, say: Say) -> None:
    """Raise ValueError if the model does not allow ablation; say so if only its weights cannot be edited."""
    direction = torch.randn(int(model.cfg.d_model), generator=torch.Generator().manual_seed(0))
    with intervene(model, ablate_everywhere(model, direction)):
        pass
    reason = edit_refused(model, direction)
    if reason is not None:
        say(f"leaving out the direction ablated in the weights: {reason}")


def _check(config: RefusalConfig) -> None:
    check_settings(config)
    if not 0.0 <= config.last_layers < 1.0:
        raise ValueError(f"got last_layers={config.last_layers}; expected a share from 0 to below 1; lower it")
    if config.angle_step and not 1 <= config.angle_step <= 180:
        raise ValueError(
            f"got angle_step={config.angle_step}; expected 1 to 180 degrees, or 0 for no circle; correct it"
        )
    least = dict.fromkeys(("random", "matrix", "rounds", "cone"), 0)
    least |= dict.fromkeys(("train", "validation", "test", "cone_steps", "circle_prompts", "max_new_tokens"), 1)
    for name, floor in least.items():
        if getattr(config, name) < floor:
            raise ValueError(f"got {name}={getattr(config, name)}; expected at least {floor}; raise it")


def export_edited(run: Path, folder: Path, say: Say) -> Path:
    """Write the model of a refusal run, with the selected direction taken out of its weights, in Hugging Face format.

    Raises:
        ValueError: the run has no selected direction, or the folder exists.
    """
    config = open_run(run).config
    path = Path(run) / "direction.safetensors"
    if not path.is_file():
        raise ValueError(
            f"got {run} without a selected direction; expected a run of `mi-ortho refusal`; run its select stage"
        )
    name = config.get("model")
    subject = load_subject(RefusalConfig(model=None if name is None else str(name), dtype=str(config["dtype"])))
    say(f"orthogonalising {subject.title} against the direction of {run}")
    with orthogonalised(subject.model, read_tensors(path)[0]["vector"]):
        return export_model(subject.model, folder)

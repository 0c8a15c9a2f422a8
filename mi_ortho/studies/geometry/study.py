"""The command `geometry`: the layers of a model and of its control networks, and verdicts on claims about them."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mi_ortho.geometry import write_space
from mi_ortho.interventions.sites import Site
from mi_ortho.model import Model, load_shuffled, load_untrained
from mi_ortho.model.prompt_sets import load_prompts, shipped_prompts
from mi_ortho.model.trajectories import write_matrices
from mi_ortho.runs.directory import Run
from mi_ortho.runs.rows import stage
from mi_ortho.runs.settings import check_settings, settings_of
from mi_ortho.stats import tally_text
from mi_ortho.studies.geometry.config import GeometryConfig
from mi_ortho.studies.geometry.layers import overlaps
from mi_ortho.studies.geometry.survey import STAGES, Effort, read_network, stages
from mi_ortho.studies.geometry.verdicts import claims
from mi_ortho.studies.shared.progress import Say, Track
from mi_ortho.studies.shared.run import perform
from mi_ortho.studies.shared.subject import DTYPES, Subject, load_subject

REPORT = "mi_ortho.studies.geometry.page:geometry_report"
Rows = list[dict[str, Any]]
Matrices = list[tuple[Site, Tensor]]


def geometry(config: GeometryConfig, out: Path, *, fresh: bool, at: Path | None, say: Say, track: Track) -> Run:
    """Measure, judge and report the geometry of a model's layers; continue where an earlier call was interrupted."""
    check_settings(config)
    subject = load_subject(config, say)
    sets = prompt_sets(config, subject)
    matrices = _check(config, subject.model, say)
    settings = settings_of(config) | {name: list(texts) for name, texts in sets.items()}
    facts = subject.facts(config.seed, [text for texts in sets.values() for text in texts])

    def solve(run: Run) -> None:
        _measure(config, subject, sets, run, say, track)
        if matrices:
            run.save_tensors("overlap", {"both": overlaps(matrices, config.directions)})
        verdicts = claims(run.records())
        run.summary({"headline": headline(subject.title, verdicts), "verdicts": verdicts})

    return perform("geometry", out, settings, facts, fresh=fresh, at=at, say=say, solve=solve, report=REPORT)


def prompt_sets(config: GeometryConfig, subject: Subject) -> dict[str, tuple[str, ...]]:
    """Two disjoint sets of prompts: those of the settings, else of the model folder, else of this package."""
    natural, limit = subject.texts.natural, config.limit
    if config.harmful is not None:
        harmful = load_prompts(config.harmful, column=config.harmful_column).instructions
    elif natural.get("harmful"):
        harmful = (*natural["harmful"], *subject.texts.train, *subject.texts.held_out)
    else:
        harmful = shipped_prompts("harmful").instructions
    if config.harmless is not None:
        harmless = load_prompts(config.harmless, column=config.harmless_column).instructions
    elif natural.get("benign"):
        others = [natural[name] for name in subject.modes.names if name in natural and name != "refuse"]
        harmless = (*natural["benign"], *(text for texts in others for text in texts))
    else:
        harmless = shipped_prompts("harmless").instructions
    first = tuple(dict.fromkeys(harmful))[:limit]
    return {"harmful": first, "harmless": tuple(text for text in dict.fromkeys(harmless) if text not in first)[:limit]}


def headline(title: str, verdicts: list[Any]) -> str:
    """One sentence with the number of claims by outcome."""
    return f"Of {len(verdicts)} claims about the layers of {title}, {tally_text(verdicts)}."


def _measure(
    config: GeometryConfig, subject: Subject, sets: Mapping[str, tuple[str, ...]], run: Run, say: Say, track: Track
) -> None:
    """Every stage of every network that the run does not have yet."""
    parts = [
        (network, name) for network, names in STAGES.items() for name in names if config.controls or network == "model"
    ]

    @lru_cache(maxsize=1)  # networks come one after the other
    def todo(network: str) -> Mapping[str, Callable[[], Rows]]:
        say(f"reading {sum(map(len, sets.values()))} prompts: {network}")
        return stages(read_network(_network(network, config, subject), sets, batch=config.batch), _effort(config))

    for done, (network, name) in enumerate(parts, start=1):
        stage(
            run,
            f"{network} {name}",
            lambda network=network, name=name: [{**row, "network": network} for row in todo(network)[name]()],
        )
        track("stages", done, len(parts))


def _network(name: str, config: GeometryConfig, subject: Subject) -> Model:
    if name == "model":
        return subject.model
    make = {"untrained": load_untrained, "shuffled": load_shuffled}[name]
    return make(
        config.model,
        seed=config.seed,
        device=subject.device,
        dtype=DTYPES[subject.dtype],
        trust_remote_code=config.trust_remote_code,
    )


def _effort(config: GeometryConfig) -> Effort:
    return Effort(
        config.draws,
        config.directions,
        config.rotations,
        config.splits,
        config.neighbours,
        config.triangles,
        config.copies,
        config.seed,
    )


def _check(config: GeometryConfig, model: Model, say: Say) -> Matrices:
    """The output matrices of the model, none if that part has to be left out.

    Raises:
        ValueError: a setting or the model would make a later stage fail.
    """
    counts = {
        name: getattr(config, name)
        for name in ("limit", "draws", "rotations", "splits", "neighbours", "triangles", "copies", "batch")
    }
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"got {name}={value}; expected at least 1; choose a larger --{name}")
    if int(model.cfg.n_layers) < 6:
        raise ValueError(
            f"got a model of {model.cfg.n_layers} layers; expected at least 6, because growth laws are "
            "fitted to its curves; take a deeper model"
        )
    try:
        matrices = write_matrices(model)
    except ValueError as error:
        say(f"leaving out the shared directions of the weights: {error}")
        return []
    for _, matrix in matrices[:2]:
        write_space(torch.eye(*matrix.shape), config.directions)
    return matrices

"""A configured family run: what is fixed before any search, and what every stage of it shares."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.behaviours import CHAT_MODES, CHAT_OPENINGS, Modes
from mi_ortho.derivatives.first import gauss_newton
from mi_ortho.elicitation import Goal, OrthoSettings
from mi_ortho.elicitation.objectives import Match, Penalised
from mi_ortho.interventions.sites import resid_post
from mi_ortho.model import Model, Slice, readout, slice_model
from mi_ortho.runs.directory import Run
from mi_ortho.runs.rows import pick, stage
from mi_ortho.runs.seeds import random_stream
from mi_ortho.runs.settings import check_settings
from mi_ortho.steering import Setting, Yardstick, measure
from mi_ortho.studies.family.config import FamilyConfig
from mi_ortho.studies.family.finished import ortho_settings
from mi_ortho.studies.shared.positions import readout_of, sinks_of, where
from mi_ortho.studies.shared.progress import Say, Track

BATCH = 32  # vectors measured together; fixed, so that a resumed run measures in the same batches


@dataclass(frozen=True, eq=False)
class Job:
    """A configured family run: the run directory, the model, and what is fixed before any search."""

    run: Run
    config: FamilyConfig
    setting: Setting
    train: tuple[str, ...]
    held_out: tuple[str, ...]
    z: Slice
    say: Say = print
    track: Track = field(default=lambda stage, done, total: None)

    @property
    def device(self) -> torch.device:
        """Where vectors live."""
        return torch.device(self.config.device)

    def read_by(self, readout: str) -> Slice:
        """z on the training prompts with another readout than that of the matches."""
        return slice_model(
            self.setting.model,
            self.setting.prompts(self.train),
            source=self.setting.site,
            target=resid_post(self.config.layers[1]),
            readout=readout_of(readout),
            where=self.setting.where,
        )

    @cached_property
    def positions(self) -> Slice:
        """z at every position: where new attention sinks are counted."""
        return self.read_by("all")

    def generator(self, stage: int) -> torch.Generator:
        """A separate random stream for each stage, so that skipping a finished stage changes no other."""
        return random_stream(self.config.seed, stage, times=1009, device=self.device)

    def rows(self, **values: object) -> list[dict[str, Any]]:
        """Recorded rows with these values."""
        return pick(self.run.records(), **values)

    def stage(self, name: str, compute: Callable[[], Sequence[Mapping[str, object]]], **rows: object) -> None:
        """Record the rows of a stage unless the run has them.

        Runs of earlier versions did not mark stages; there its rows are those with the values `rows`.
        """
        stage(self.run, name, compute, old=lambda row: bool(pick([row], **rows)))


def prepare(
    run: Run,
    config: FamilyConfig,
    model: Model,
    modes: Modes,
    train: Sequence[str],
    held_out: Sequence[str],
    *,
    say: Say = print,
    track: Track | None = None,
) -> Job:
    """Fix the setting and the activation map. Wrong arguments raise here, before any long work."""
    check(config, model)
    source, target = config.layers
    site = resid_post(source)
    setting = Setting(
        model,
        site,
        where(config.where),
        modes,
        config.system,
        config.max_new_tokens,
        config.temperature,
        config.seed,
        sinks_of(config.sinks, model, [*train, *held_out], config.system),
        {mode: texts[:OPENINGS] for mode, texts in CHAT_OPENINGS.items()} if modes is CHAT_MODES else {},
    )
    z = slice_model(
        model,
        setting.prompts(train),
        source=site,
        target=resid_post(target),
        readout=readout_of(config.readout),
        where=where(config.where),
    )
    setting.prompts(held_out or train)
    readout(model)  # the logits are measured after the search only
    return Job(run, config, setting, tuple(train), tuple(held_out), z, say, track or (lambda stage, done, total: None))


LEAST = {
    "restarts": 1,
    "block": 1,
    "candidate_block": 1,
    "patience": 1,
    "norm_cap": 0,
    "fixed_norm": 0,
    "penalty": 0,
    "temperature": 0,
}


def check_alone(config: FamilyConfig) -> None:
    """Raise ValueError for settings that cannot work on any model; needs no model."""
    radius = config.radius
    if isinstance(radius, float | int) and not 0 < radius < float("inf"):
        raise ValueError(f"got radius {radius}; expected a positive number, auto or lambda; correct --radius")
    check_settings(config, LEAST)
    _ = where(config.where), readout_of(config.readout), readout_of(config.melbo_readout)  # wrong ones raise
    if config.sinks not in ("include", "exclude"):
        raise ValueError(f"got sinks {config.sinks!r}; expected exclude or include; correct --sinks")
    if config.n + config.n_kl == 0 or config.candidates == 0:
        raise ValueError("got no vectors to search for; expected n or n_kl, and candidates, above 0; raise them")
    if config.solver not in ("projected", "published"):
        raise ValueError(f"got solver {config.solver!r}; expected projected or published; correct --solver")
    if config.solver == "published" and config.n == 0:
        raise ValueError("got solver published with n=0; expected activation-matched vectors; raise --n")
    steps = 1 if config.max_steps is None else config.max_steps
    if min(steps, config.answer_tokens, config.max_new_tokens) < 1:
        raise ValueError("got a step or token limit below 1; expected at least 1; raise it")


def check(config: FamilyConfig, model: Model) -> None:
    """Raise ValueError for anything in the configuration that cannot work on this model."""
    check_alone(config)
    layers, width = int(model.cfg.n_layers), int(model.cfg.d_model)
    source, target = config.layers
    if not 0 <= source < layers or not 0 <= target < layers:
        raise ValueError(
            f"got source {source} and target {target}; expected layers from 0 to {layers - 1}; "
            "choose others with --source and --target"
        )
    if source >= target:
        raise ValueError(f"got source {source}, target {target}; expected source < target; steer earlier or read later")
    for name in ("n", "n_kl", "candidates", "random_bases", "displaced_bases", "controls"):
        if not 0 <= getattr(config, name) <= width - (name != "candidates"):
            raise ValueError(
                f"got {name}={getattr(config, name)}; expected 0 to {width - (name != 'candidates')}: "
                f"d_model is {width} and every vector is orthogonal to the others; lower it"
            )


def check_behaviour(config: FamilyConfig, modes: Modes) -> None:
    """Raise ValueError for a behaviour that none of the rules names."""
    if not config.base and config.behaviour not in ("auto", *modes.behaviours):
        raise ValueError(
            f"got behaviour {config.behaviour!r}; expected auto or one that the rules know: "
            f"{', '.join(modes.behaviours)}; correct --behaviour, or write a rule for it into modes.json"
        )


NARROW, RIDGE = 256, 0.05
SAMPLES = {"activation": 128, "kl": 32}  # of the sketch; one of a distribution runs to the logits and costs more
OPENINGS = 1  # of each mode: every vector is measured on all of them


def preconditioned(
    job: Job, goal: Goal, base: Float[Tensor, " d_model"], norm: float, stream: int
) -> tuple[OrthoSettings, Float[Tensor, "d_model d_model"]]:
    """Search settings and the curvature that goes with them.

    A model wider than NARROW gets a sketch of few samples and a larger ridge: the usual 2 d_model backward passes at
    each of two points cost as much as dozens of its searches.
    """
    settings, wide = ortho_settings(job.config, norm), len(base) > NARROW
    inner = goal.objective if isinstance(goal, Penalised) else goal
    samples = SAMPLES["activation" if isinstance(inner, Match) else "kl"]
    curvature = gauss_newton(goal, base, generator=job.generator(stream), samples=samples if wide else None)
    return replace(settings, damping=RIDGE) if wide else settings, curvature


def goal_of(job: Job, yard: Yardstick, name: str, base: Float[Tensor, " d_model"]) -> Goal:
    """The objective of one match, with the norm penalty if the configuration has one."""
    goal = yard.activation if name == "activation" else yard.behaviour
    return Penalised(goal, job.config.penalty, float(base.norm())) if job.config.penalty else goal


def record_measurements(
    job: Job,
    yard: Yardstick,
    vectors: Float[Tensor, "k d_model"],
    label: dict[str, Any],
    title: str,
    held_out: Sequence[str] = (),
    how: Callable[[Yardstick, Tensor, Sequence[str]], list[dict[str, Any]]] = measure,
    indices: Sequence[int] | None = None,
) -> None:
    """Record measurements of all vectors, one stage a batch; `label` holds the values that all their rows share.

    `indices` are the vectors' own, where they are not counted from 0.
    """
    numbers = list(range(len(vectors)) if indices is None else indices)
    for start in range(0, len(vectors), BATCH):
        part, named = vectors[start : start + BATCH], numbers[start : start + BATCH]

        def compute(part: Tensor = part, named: Sequence[int] = named) -> list[dict[str, Any]]:
            measured = how(yard, part, held_out)
            return [{**label, "index": index, **row} for index, row in zip(named, measured, strict=True)]

        def old(row: Mapping[str, Any], named: Sequence[int] = named) -> bool:
            return bool(pick([row], **label)) and int(row["index"]) in named

        stage(job.run, f"{title}, from {start}", compute, old=old)
        job.track(title, start + len(part), len(vectors))

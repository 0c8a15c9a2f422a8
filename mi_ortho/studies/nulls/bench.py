"""What all stages of `nulls` share: the source run, its map and the effects of its vectors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.elicitation.objectives import ActivationMap, Match, match
from mi_ortho.interventions.sites import resid_post
from mi_ortho.model import slice_model
from mi_ortho.runs.directory import Run
from mi_ortho.runs.seeds import random_stream
from mi_ortho.steering import Setting, Yardstick, judged_by_answers, log_odds, yardstick
from mi_ortho.studies.family.finished import Source
from mi_ortho.studies.nulls.config import NullsConfig
from mi_ortho.studies.shared.positions import readout_of, sinks_of, where
from mi_ortho.studies.shared.progress import Say, Track
from mi_ortho.studies.shared.subject import Subject

ROWS = 64  # vectors of one pass


@dataclass(frozen=True, eq=False)
class Share:
    """A measure of vectors as a share of the base's change of it: 0 without steering, 1 under the base.

    Attributes:
        raw: maps (n, d_model) to (n,).
        nothing: the measure without steering.
        base: the measure under the base.
    """

    raw: Callable[[Tensor], Tensor]
    nothing: float
    base: float

    def __call__(self, theta: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
        values = torch.cat([self.raw(part) for part in theta.split(ROWS)])
        return (values - self.nothing) / (self.base - self.nothing)


def share(raw: Callable[[Tensor], Tensor], base: Float[Tensor, " d_model"], what: str) -> Share:
    """`raw` as a share of the base's own change.

    Raises:
        ValueError: the base does not raise it.
    """
    with torch.no_grad():
        nothing, full = raw(torch.stack([torch.zeros_like(base), base])).tolist()
    if not full > nothing:
        raise ValueError(
            f"got a base that changes the {what} by {full - nothing:.3g}; expected an increase; "
            "take a family with another base"
        )
    return Share(raw, nothing, full)


@dataclass(frozen=True, eq=False)
class Bench:
    """A source run, its model, and the maps its vectors are judged by.

    Attributes:
        run: where results go.
        z: steering vector to pooled target activations.
        goal: the activation match of the base.
        yard: the base's completions and what a vector is compared with.
        effects: by match, as shares of the base's: the displacement along the base's, and the gain in log-odds.
    """

    run: Run
    config: NullsConfig
    source: Source
    subject: Subject
    setting: Setting
    z: ActivationMap
    goal: Match
    yard: Yardstick
    effects: Mapping[str, Share]
    say: Say
    track: Track

    @property
    def base(self) -> Float[Tensor, " d_model"]:
        """The base vector on the model's device."""
        return self.source.base.to(self.subject.device)

    def family(self, name: str) -> Float[Tensor, "n d_model"]:
        """The vectors of one match on the model's device."""
        return self.source.families[name].to(self.subject.device)

    def generator(self, stage: int) -> torch.Generator:
        """A separate random stream for each use, on the CPU."""
        return random_stream(self.config.seed, stage, times=1013)


def prepare_bench(run: Run, config: NullsConfig, source: Source, subject: Subject, say: Say, track: Track) -> Bench:
    """Build the maps of the source run again, with its prompts, sites, readout and teacher-forced answers."""
    family_config = source.config
    site, base = resid_post(family_config.layers[0]), source.base.to(subject.device)
    setting = Setting(
        subject.model,
        site,
        where(family_config.where),
        subject.modes,
        family_config.system,
        family_config.max_new_tokens,
        sinks=sinks_of(family_config.sinks, subject.model, source.train, family_config.system),
    )
    if source.is_unnamed:
        setting = judged_by_answers(setting, [*source.train, *(family_config.held_out or ())], base)
    z = slice_model(
        subject.model,
        setting.prompts(source.train),
        source=site,
        target=resid_post(family_config.layers[1]),
        readout=readout_of(family_config.readout),
        where=where(family_config.where),
    )
    goal = match(z, base)
    yard = yardstick(setting, source.train, base, goal, answer_tokens=family_config.answer_tokens)
    effects = {
        "activation": share(_along(goal, z, base), base, "activations"),
        "kl": share(lambda theta: log_odds(yard, theta), base, "log-odds of its answers"),
    }
    return Bench(run, config, source, subject, setting, z, goal, yard, effects, say, track)


def _along(goal: Match, z: ActivationMap, base: Float[Tensor, " d_model"]) -> Callable[[Tensor], Tensor]:
    with torch.no_grad():
        towards = (goal.goal - z(torch.zeros_like(base)[None])[0]).flatten()
    return lambda theta: z(theta).flatten(1) @ towards

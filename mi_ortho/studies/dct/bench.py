"""What all stages of `dct` share: the run, the maps of the slice, and the goal that factors are ranked by."""

import resource
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.derivatives.means import pooled
from mi_ortho.elicitation.objectives import ActivationMap, FunctionMap
from mi_ortho.interventions.sites import resid_post
from mi_ortho.model import Slice, logit_slice, slice_model
from mi_ortho.model.logits import kl_divergence, masked_mean
from mi_ortho.runs.directory import Run
from mi_ortho.runs.rows import Row, pick, stage
from mi_ortho.runs.seeds import random_stream
from mi_ortho.steering import Completion, Setting, complete, unsteered_completions
from mi_ortho.studies.dct.config import DctConfig
from mi_ortho.studies.shared.positions import readout_of, sinks_of, where
from mi_ortho.studies.shared.progress import Say, Track
from mi_ortho.studies.shared.subject import Subject

METHODS = ("linear", "projected", "quadratic", "exponential")
NATURAL = 12  # prompts that show a behaviour without steering
WHOLE = 48  # tokens of their completions at least: a program that is cut off is not recognised as one


@dataclass(frozen=True, eq=False)
class Study:
    """One run of the command and what is fixed before any fit.

    Attributes:
        run: where results go.
        setting: where vectors are added and how completions are judged.
        train: texts whose mean response is transcoded.
        held_out: texts that factors are tried on besides the first of `train`.
        plain: unsteered completions of `train` followed by `held_out`.
        logits: steering vector to logits along the unsteered completions of `train`.
        goal: weight of each token in the score that factors are ranked by; None ranks by weight alone.
    """

    run: Run
    config: DctConfig
    subject: Subject
    setting: Setting
    train: tuple[str, ...]
    held_out: tuple[str, ...]
    plain: tuple[Completion, ...]
    logits: Slice
    goal: Float[Tensor, " d_vocab"] | None
    say: Say
    track: Track

    @property
    def width(self) -> int:
        """Width of the residual stream."""
        return int(self.subject.model.cfg.d_model)

    def maps(self, source: int, target: int) -> tuple[ActivationMap, ...]:
        """Maps from block `source` to block `target`, one for each batch of training prompts.

        Each is averaged over the positions read. Batches have one size, so the mean of the maps is that over prompts.
        """
        n, most = len(self.train), min(self.config.batch, len(self.train))
        size = next(size for size in range(most, 0, -1) if n % size == 0)
        parts = [self.train[start : start + size] for start in range(0, n, size)]
        options: Row = {"readout": readout_of(self.config.readout), "where": where(self.config.where)}
        sites: Row = {"source": resid_post(source), "target": resid_post(target)}
        model = self.subject.model
        return tuple(pooled(slice_model(model, self.setting.prompts(part), **sites, **options)) for part in parts)

    def first_logits(self) -> FunctionMap:
        """Steering vector to the logits of the first answer token, mean over the training prompts."""
        return FunctionMap(lambda theta: self.logits(theta)[..., 0, :].mean(-2), self.width)

    def divergence(self, vectors: Float[Tensor, "n d_model"]) -> list[float]:
        """KL(unsteered || steered) in nats along the unsteered completions, mean over positions and prompts."""
        real = self.logits.real.flatten()
        with torch.no_grad():
            p = self.logits(torch.zeros_like(vectors[:1])).flatten(1, -2)
            logits = [self.logits(part).flatten(1, -2) for part in vectors.split(16)]
            return [
                x
                for q in logits
                for x in masked_mean(kl_divergence(p_logits=p.expand_as(q), q_logits=q), real).tolist()
            ]

    def generator(self, name: str) -> torch.Generator:
        """A separate random stream for each use, on the device of the vectors."""
        return random_stream(name, device=self.subject.device)

    def stage(self, name: str, compute: Callable[[], Sequence[Mapping[str, object]]]) -> None:
        """Record the rows of a stage and its cost, unless the run has them."""

        def timed_rows() -> list[Mapping[str, object]]:
            began = time.perf_counter()
            rows = compute()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            cost = {"kind": "cost", "stage": name, "seconds": time.perf_counter() - began, "megabytes": peak}
            return [*rows, cost]

        stage(self.run, name, timed_rows)

    def rows(self, **values: object) -> list[Row]:
        """Recorded rows with these values."""
        return pick(self.run.records(), **values)


def check(config: DctConfig, subject: Subject) -> None:
    """Raise ValueError for anything in the configuration that cannot work on this model."""
    layers, width = int(subject.model.cfg.n_layers), int(subject.model.cfg.d_model)
    if not 0 <= config.source < config.target < layers:
        raise ValueError(
            f"got source {config.source} and target {config.target}; expected 0 <= source < target < "
            f"{layers}, the model's layers; choose others with --source and --target"
        )
    unknown = [name for name in config.method if name not in METHODS]
    if unknown or not config.method:
        raise ValueError(
            f"got method {', '.join(unknown) or 'none'}; expected {', '.join(METHODS)}, one or several; "
            "correct --method"
        )
    if not 1 <= config.k <= width:
        raise ValueError(
            f"got k={config.k}; expected 1 to d_model={width}: no more directions can be orthonormal; lower --k"
        )
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise ValueError(f"got seeds {config.seeds}; expected at least one, all different; correct --seeds")
    if config.radius is not None and not 0 < config.radius < float("inf"):
        raise ValueError(f"got radius {config.radius}; expected a positive number; leave it out to have it calibrated")
    for name, choices in (("retract", ("qr", "polar")), ("solver", ("dense", "krylov", "randomised"))):
        if getattr(config, name) not in choices:
            raise ValueError(f"got {name} {getattr(config, name)!r}; expected {', '.join(choices)}; correct --{name}")
    if config.readout == "all":
        raise ValueError(
            "got readout all; expected mean or a number of last positions, which are averaged; correct --readout"
        )
    if not 0 < config.damping <= 1 or not 0 < config.ratio < float("inf"):
        raise ValueError(
            f"got damping {config.damping} and ratio {config.ratio}; expected damping from 0 to 1 and a "
            "positive ratio; correct them"
        )
    least = {"steps": 1, "projections": 1, "draws": 10, "batch": 1, "chunk": 1, "answer_tokens": 1, "max_new_tokens": 1}
    for name, value in least.items():
        if getattr(config, name) < value:
            raise ValueError(f"got {name}={getattr(config, name)}; expected at least {value}; raise --{name}")
    behaviours = subject.modes.behaviours
    if config.behaviour is not None and config.behaviour not in behaviours:
        raise ValueError(
            f"got behaviour {config.behaviour!r}; expected one of {', '.join(behaviours)}; correct --behaviour"
        )


def prepare_study(run: Run, config: DctConfig, subject: Subject, say: Say, track: Track) -> Study:
    """A study with its unsteered completions, map to the logits and goal; wrong prompts and behaviours raise here."""
    train, held_out = tuple(config.prompts or ()), tuple(config.held_out or ())
    setting = Setting(
        subject.model,
        resid_post(config.source),
        where(config.where),
        subject.modes,
        config.system,
        config.max_new_tokens,
        sinks=sinks_of(config.sinks, subject.model, [*train, *held_out], config.system),
    )
    width = int(subject.model.cfg.d_model)
    plain = unsteered_completions(setting, [*train, *held_out], width, subject.device)
    answers = [_answer(done, subject, config.answer_tokens) for done in plain[: len(train)]]
    logits = logit_slice(subject.model, setting.prompts(train, answers), source=setting.site, where=setting.where)
    goal = _goal(config, subject, setting, plain[: len(train)], width)
    return Study(run, config, subject, setting, train, held_out, tuple(plain), logits, goal, say, track)


def _answer(done: Completion, subject: Subject, most: int) -> list[int]:
    end = subject.model.tokenizer.eos_token_id
    return list(done.ids[:most]) or ([] if end is None else [end])


def _goal(
    config: DctConfig, subject: Subject, setting: Setting, plain: Sequence[Completion], width: int
) -> Float[Tensor, " d_vocab"] | None:
    """The weight of each token: its share among first tokens of the behaviour minus that among the ones to avoid."""
    if config.behaviour is None and config.toward is None:
        return None
    away = _first_tokens(subject, config.away) if config.away else [done.ids[0] for done in plain if done.ids]
    if config.toward:
        toward = _first_tokens(subject, config.toward)
    else:
        texts = subject.texts.natural.get(str(config.behaviour), ())[:NATURAL]
        longer = replace(setting, max_new_tokens=max(setting.max_new_tokens, WHOLE))
        completions = complete(longer, texts, torch.zeros(1, width, device=subject.device))[0] if texts else []
        toward = [done.ids[0] for done in completions if done.mode == config.behaviour and done.ids]
        if not toward:
            raise ValueError(
                f"got behaviour {config.behaviour!r}, which none of {len(texts)} prompts of "
                f"{subject.title} shows by itself; expected some; name its first words with --toward"
            )
    goal = torch.zeros(int(subject.model.cfg.d_vocab), device=subject.device)
    for tokens, sign in ((toward, 1.0), (away, -1.0)):
        for token, count in Counter(tokens).items():
            goal[token] += sign * count / len(tokens)
    if not goal.abs().max() > 0:
        raise ValueError(
            "got the same first tokens toward the behaviour and away from it; expected others; name them "
            "with --toward and --away"
        )
    return goal


def _first_tokens(subject: Subject, texts: Sequence[str]) -> list[int]:
    token_ids = [subject.model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    if not all(token_ids):
        raise ValueError(
            f"got {list(texts)!r} to stand for a behaviour; expected texts of at least one token; "
            "correct --toward and --away"
        )
    return [ids[0] for ids in token_ids]

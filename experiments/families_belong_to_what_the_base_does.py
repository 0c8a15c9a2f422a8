"""The family belongs to what its base does: other bases, other targets and other networks have smaller ones.

Source: the controls the post does not have; hypotheses H1 and H2, decisive experiment D6.
Prediction: a base that shows the behaviour has at least 2 times as many orthogonal vectors that miss at most half of
    its squared effect as a random base of its norm, a base with the covariance of real activations, a random target
    equally far away, and the strongest MELBO base of an untrained and of a shuffled network.
Control: each of these families is the control of the behaviour's; the same searches, norm caps and numbers of vectors.
Refuted if: the interval of log2((count + 1) / (count of the control + 1)) lies below 1 for one of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log2
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Bench, Case, Ranking, Setup, at_least, bars, cases, column, needs, pick
from experiments.lab.families import candidates, stored, unbased, with_model
from mi_ortho import Verdict, match, random_vectors, resid_post
from mi_ortho.elicitation import Match
from mi_ortho.model import load_shuffled, load_untrained, ordinary_activations
from mi_ortho.nulls import control, covariance_matched
from mi_ortho.studies.shared import DTYPES

MISSED = 0.5**0.5  # relative loss at which half of the squared effect is missed
TWICE = 1.0  # as a logarithm to base 2
CONTROLS = {  # as a sentence names them
    "random": "a random base of its norm",
    "covariance": "a base with the covariance of activations",
    "target": "a random target equally far away",
    "untrained": "an untrained network",
    "shuffled": "a network with shuffled weights",
}
LABELS = {**CONTROLS, **{name: control(name).label for name in ("untrained", "shuffled")}}


@dataclass(frozen=True)
class Config(Setup):
    """Where to search."""


SMOKE = Config(cases=1, n=4, max_steps=10)
NEEDS = (needs.family,)


def run(config: Config, bench: Bench) -> None:
    """One row for each case and group."""
    networks = {}
    for case in cases(bench, config):
        for group in ("behaviour", *CONTROLS):
            if bench.has(case=case.index, group=group):
                continue
            if group in ("untrained", "shuffled"):
                networks[group] = networks.get(group) or other_network(bench, config, group)
                goal, base, home = foreign(case, networks[group])
            else:
                (goal, base), home = on_model(case, group), case
            name = "activation" if group == "behaviour" else f"activation, {group}"
            losses = home.grow(name, goal, base, config.n).losses
            bench.record(
                case=case.index,
                group=group,
                found=int((losses <= MISSED).sum()),
                searched=config.n,
                moved=float(goal.scale),
                best=float(losses.min()) if len(losses) else None,
            )
        bench.track("case", case.index + 1, config.cases)


def on_model(case: Case, group: str) -> tuple[Match, Tensor]:
    """Goal and base of a group on the model itself."""
    if group == "behaviour":
        return case.match, case.base
    if group == "target":
        return random_target(case.match, case.generator(12)), case.base
    if group == "random":
        base = random_vectors(1, len(case.base), case.norm, case.generator(13))[0]
    else:
        prompts, site = case.setting.prompts(case.texts), resid_post(case.setup.source)
        activations = ordinary_activations(case.setting.model, prompts, site)
        direction = covariance_matched(activations, 1, case.generator(14))[0]
        base = direction * (case.norm / direction.norm())
    return match(case.z, base), base


def random_target(goal: Match, generator: torch.Generator) -> Match:
    """The same distance from z(0) in a random direction."""
    with torch.no_grad():
        origin = goal.z(torch.zeros(1, goal.z.d_model).to(goal.goal))[0]
    towards = torch.randn(goal.goal.shape, generator=generator, device=generator.device).to(goal.goal)
    return replace(goal, goal=origin + goal.scale * towards / towards.norm())


def other_network(bench: Bench, config: Config, name: str) -> Bench:
    """The same architecture with other weights."""
    subject = bench.subject
    make = {"untrained": load_untrained, "shuffled": load_shuffled}[name]
    model = make(subject.name, seed=config.seed, device=subject.device, dtype=DTYPES[subject.dtype])
    return with_model(bench, model, f"{name} {config.seed}")


def foreign(case: Case, bench: Bench) -> tuple[Match, Tensor, Case]:
    """The strongest MELBO base of another network on the same prompts, at the norm that moves it comparably.

    The norm is the share of that network's own activations that the base's is of the model's.
    """
    ratio = activation_norm(bench, case) / activation_norm(case.bench, case)
    setup = replace(case.setup, radius=case.setup.radius * ratio, candidates=1)
    home = unbased(bench, setup, case.index, case.texts)
    key = {
        "weights": bench.subject.digest,
        "texts": case.texts,
        "radius": setup.radius,
        "source": setup.source,
        "target": setup.target,
        "seed": setup.seed,
        "base": "strongest",
    }
    base = stored(bench, key, lambda: {"base": candidates(home)[0]})["base"]
    return match(home.z, base), base, replace(home, base=base)


def activation_norm(bench: Bench, case: Case) -> float:
    """Median norm of the residual stream at the source."""
    prompts, site = case.setting.prompts(case.texts), resid_post(case.setup.source)
    return float(ordinary_activations(bench.subject.model, prompts, site).norm(dim=-1).median())


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """The behaviour's family against each control's."""
    counts = {row["case"]: row["found"] for row in pick(rows, group="behaviour")}
    verdicts = []
    for group, what in CONTROLS.items():
        pairs = [(counts[row["case"]], row["found"]) for row in pick(rows, group=group) if row["case"] in counts]
        verdicts.append(
            at_least(
                f"The behaviour's base has a larger family than {what}",
                "at least twice as many vectors",
                "log2((count + 1) / (count of the control + 1)); the control is its count",
                [log2((a + 1) / (b + 1)) for a, b in pairs],
                TWICE,
                [float(b) for _, b in pairs],
            )
        )
    return verdicts


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """Counts by group."""
    groups = [("the behaviour's base", column(pick(rows, group="behaviour"), "found"), "value")]
    groups += [(label, column(pick(rows, group=name), "found"), "control") for name, label in LABELS.items()]
    caption = "Missing at most half of the squared effect; means over bases."
    return [bars("Vectors that repeat the base", caption, groups)]

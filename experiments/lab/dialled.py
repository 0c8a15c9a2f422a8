"""Families on small organisms whose behaviours have set frequencies: bases, their controls, and how many vectors."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.stats import rankdata

from experiments.lab.bases import Base, Place, as_far, unbased
from experiments.lab.bench import Bench
from experiments.lab.directions import mean_difference
from experiments.lab.kept import families_folder, locked, trying
from experiments.organism.dial import Organism, materialise, organisms, plan, read_rows, train_set
from experiments.organism.recipe import PRESETS
from mi_ortho import open_subject
from mi_ortho.runs import numbers as column
from mi_ortho.stats import average
from mi_ortho.studies.shared import Subject

RECIPE = PRESETS["dial"]
RAREST = 0.05  # of the frequencies that are learnt: a missing family of a behaviour the model lacks says nothing
WAIT = 5.0  # seconds between two looks at a set that another worker trains
LOSSES = {"half": 0.5**0.5, "most": 0.75**0.5}  # relative losses at which that much of the squared effect is missed
RANDOM = 8  # random vectors that tell how specific a base is


@dataclass(frozen=True)
class Dialled(Place):
    """Which set of organisms, where to steer in them, and how long the bases are.

    Attributes:
        dial: folder written by `python -m experiments.organism dial`; empty: a set is trained beside the run folders.
        steps: of training of each organism, where the set is trained here.
        seeds: of training that are taken.
        length: norm of a base over the median norm of the activations it is added to.
        prompts: of each behaviour, for the bases.
        bases: prompts that those of one organism are measured on.
    """

    dial: str = ""
    steps: int = RECIPE.steps
    seeds: int = 5
    length: float = 1.0
    prompts: int = 8
    source: int = 1
    target: int = 3
    norm_cap: float = 2.0
    behaviours: tuple[str, ...] = ("code", "alien")
    bases: int = 2
    own_models: ClassVar[bool] = True


@dataclass(frozen=True, eq=False)
class Organisms:
    """A set on disk: its folder, a row of facts for each organism and, by name, what `materialise` finds each by."""

    folder: Path
    rows: list[dict[str, Any]]
    known: Mapping[str, Organism | str]

    def bench(self, bench: Bench, name: str) -> Bench:
        """The same bench on one organism of the set."""
        row = next(row for row in self.rows if row["name"] == name)
        to = families_folder(bench) / "dial" / f"{name}-{row['sha256'][:12]}"
        with locked(to):  # another worker may want the same one, or be reading it
            if not to.is_dir():
                unfinished = to.with_name(f"{to.name}.part")
                materialise(self.folder, self.known[name], unfinished).rename(to)
        return replace(bench, subject=open_subject(str(to), device=str(bench.device)))


def open_set(bench: Bench, config: Dialled, needed: Sequence[Organism]) -> Organisms:
    """The set that was named, or else the organisms needed, trained where they are missing.

    Those lie in the folder `dial` beside the run folders of all experiments, under a lock: one worker trains, the
    others wait until what they want is there. A training that was killed continues at its last checkpoint.

    Raises:
        ValueError: there is no set in the folder named; the message names the command that makes it.
    """
    if config.dial:
        rows = named_rows(Path(config.dial))
        return Organisms(Path(config.dial), rows, {row["name"]: row["name"] for row in rows})
    whole = config.steps == RECIPE.steps
    folder = families_folder(bench).with_name("dial" if whole else f"dial-{config.steps}-steps")
    announced = False
    while absent := missing_of(folder, needed):
        with trying(folder / "set") as mine:
            if mine:
                bench.say(f"training organisms into {folder}: {plan(absent)}; a killed training continues")
                train_set(folder, needed, bench.say, None if whole else 0)
            elif not announced:
                bench.say(f"waiting for another worker, which trains organisms into {folder}")
                announced = True
        if not mine:
            time.sleep(WAIT)
    by_name = {each.name: each for each in needed}
    return Organisms(folder, [row for row in read_rows(folder) if row["name"] in by_name], by_name)


def named_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a set that must be there already; ValueError names the command that makes it."""
    if not (folder / "dial.json").is_file():
        raise ValueError(
            f"got no set of organisms in {folder}; expected the folder that `python -m experiments.organism dial --out "
            f"{folder}` writes; make it, name another with --set dial=FOLDER, or leave the setting out to train one"
        )
    return read_rows(folder)


def own_set(config: Dialled, subject: Subject) -> None:
    """A need (see `needs`): no other model is asked about, and a set that is named exists."""
    if config.model not in (None, "embedded"):
        raise ValueError(
            f"got {subject.title}; expected no model, as this is asked of organisms that are trained for it; leave out "
            "--model"
        )
    if config.dial:
        named_rows(Path(config.dial))


def trained(config: Dialled) -> list[Organism]:
    """Every organism with learnt frequencies, seed by seed, and the kept steps of the balanced ones."""
    recipe = replace(RECIPE, steps=config.steps)
    every = [each for seed in range(config.seeds) for each in organisms(recipe, (seed,))]
    return [each for each in every if min(each.shares) >= RAREST]


def balanced(config: Dialled) -> list[Organism]:
    """Of those, the organisms with equal frequencies, at every kept step."""
    return [each for each in trained(config) if each.shares[0] == each.shares[1]]


def missing_of(folder: Path, needed: Sequence[Organism]) -> list[Organism]:
    """The organisms that the folder does not hold yet."""
    there = {row["name"] for row in read_rows(folder)} if (folder / "dial.json").is_file() else set()
    return [each for each in needed if each.name not in there]


def record_organisms(bench: Bench, config: Dialled, organisms: Organisms, wanted: Sequence[Mapping[str, Any]]) -> None:
    """Rows of `measure` for each of these organisms and every prompt, labelled by what the organism was trained on."""
    for done, row in enumerate(wanted):
        facts = {"organism": row["name"], "trained": row["seed"], "step": row["step"]}
        for k in range(config.bases):
            for part in bench.stage(organism=row["name"], prompt=k):
                for found in measure(organisms.bench(part, row["name"]), config, k):
                    name = found["behaviour"]
                    learnt = {"frequency": row[name], "learnt": row.get(f"mode: {name}")}
                    part.record(**facts, prompt=k, **learnt, **found)
        bench.track("organism", done + 1, len(wanted))


def measure(bench: Bench, config: Dialled, index: int) -> Iterator[dict[str, Any]]:
    """For each behaviour the counts around its base ("own"), around one that moves the target as far as the other
    behaviour's does ("far"), and around a random one that moves it as far as its own ("random").

    The base is the mean activation on the behaviour's prompts minus that on all others: it exists however rare the
    behaviour is, which MELBO vectors that show it do not.
    """
    texts = bench.subject.texts.held_out
    place = Place(**{one.name: getattr(config, one.name) for one in fields(Place)})  # shared by all that is asked
    bare = replace(unbased(bench, place, (texts[index % len(texts)],)), index=index)
    norm, homes = config.length * bare.stream, dict[str, Base]()
    for name in config.behaviours:
        direction = mean_difference(replace(bare, behaviour=name), config.prompts)
        if direction is not None:
            homes[name] = replace(bare, vector=norm * direction / direction.norm())
    moves = {name: home.displacement(home.vector[None]) for name, home in homes.items()}
    furthest = max(moves.values())
    for number, (name, home) in enumerate(homes.items()):
        judge = replace(home, behaviour=name)
        chance = home.random(torch.full((RANDOM,), norm).to(home.vector), 21)
        shown = {"works": judge.shows(home.vector[None])[0], "specific": fmean(judge.shows(chance))}
        longer = home.vector if moves[name] == furthest else as_far(home.z, home.vector[None], furthest)[0]
        others = {"own": home.vector, "far": longer, "random": home.displaced(1, 22 + number)[0]}
        for kind, vector in others.items():
            family = home.around(vector, f"{'own' if vector is home.vector else kind} {name} {config.length}")
            counts = {key: int(family.count(loss=loss).value) for key, loss in LOSSES.items()}
            moved = float(home.displacement(vector[None])[0])
            yield {
                "behaviour": name,
                "kind": kind,
                **counts,
                "censored": not family.ended,
                "moved": moved,
                **shown,
                "room": bench.width - 2,
            }


def checks(rows: Sequence[Mapping[str, Any]], loss: str) -> dict[str, float]:
    """What the checks of instruments give on rows of trained organisms: some are not made where nothing was asked."""
    counts = [float(1 < row[loss] < row["room"]) for row in rows]
    found = {name: average(row[name] for row in rows) for name in ("learnt", "works", "specific")}
    return {name: value for name, value in {**found, "counted": average(counts)}.items() if value is not None}


def correlation(rows: Sequence[Mapping[str, Any]], against: str, loss: str) -> float | None:
    """Rank correlation of the counts with another column of the rows, displacement taken out of both.

    None where some count was cut off, which has no rank.
    """
    if any(row["censored"] for row in rows):
        return None
    return partial_correlation(list(zip(*(column(rows, name) for name in (against, loss, "moved")), strict=True)))


def partial_correlation(triples: Sequence[tuple[float, ...]]) -> float | None:
    """Rank correlation of the first two, with the third's rank taken out of both; 0 where the second never changes.

    None where nothing is left of one.
    """
    if len(triples) < 4:
        return None
    if len({second for _, second, _ in triples}) == 1:
        return 0.0
    first, second, third = (rankdata(values) - (len(triples) + 1) / 2 for values in zip(*triples, strict=True))
    if np.ptp(third) > 0:
        first, second = (x - third * (x @ third) / (third @ third) for x in (first, second))
    sizes = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / sizes if sizes > 1e-9 else None

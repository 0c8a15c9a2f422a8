"""Families on the small organisms whose behaviours have set frequencies: one base and one count for each behaviour."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from experiments.lab.bench import Bench
from experiments.lab.families import Case, Setup, families_folder, locked, trying, unbased
from experiments.organism.dial import Organism, materialise, organisms, plan, read_rows, train_set
from experiments.organism.recipe import PRESETS
from mi_ortho import displace, match, melbo, open_subject, random_vectors, resid_post
from mi_ortho.model import ordinary_activations
from mi_ortho.runs import random_stream
from mi_ortho.studies.shared import Subject

BEHAVIOURS = ("code", "alien")
BASES = ("own", "random", "melbo")
RECIPE = PRESETS["dial"]
WAIT = 5.0  # seconds between two looks at a set that another worker trains
MISSED = 0.5**0.5  # relative loss at which half of the squared effect is missed


@dataclass(frozen=True)
class Dialled(Setup):
    """Which set of organisms, where to steer in them, and how long the bases are.

    Attributes:
        dial: folder written by `python -m experiments.organism dial`; empty: a set is trained beside the run folders.
        steps: of training of each organism, where the set is trained here.
        length: norm of a base over the median norm of the activations it is added to.
        prompts: of each behaviour, for the bases.
    """

    dial: str = ""
    steps: int = RECIPE.steps
    source: int = 1
    target: int = 3
    norm_cap: float = 2.0
    length: float = 1.0
    n: int = 16
    group: int = 1
    cases: int = 2
    prompts: int = 8


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


def ready_set(config: Dialled, subject: Subject) -> None:
    """A need (see `needs`): a set that is named exists; the subject plays no part in it."""
    if config.dial:
        named_rows(Path(config.dial))


def with_frequencies(config: Dialled, seeds: int) -> list[Organism]:
    """Every organism of a set that is trained here: each frequency with each of so many seeds, and the kept steps."""
    return organisms(replace(RECIPE, steps=config.steps), range(seeds))


def along_training(config: Dialled) -> list[Organism]:
    """Of that set, the organism whose weights are kept during training, at every kept step."""
    every = with_frequencies(config, 1)
    return [each for each in every if each.recipe == every[0].recipe]


def missing_of(folder: Path, needed: Sequence[Organism]) -> list[Organism]:
    """The organisms that the folder does not hold yet."""
    there = {row["name"] for row in read_rows(folder)} if (folder / "dial.json").is_file() else set()
    return [each for each in needed if each.name not in there]


def unmeasured(bench: Bench, config: Dialled, organism: str) -> list[tuple[str, int]]:
    """The behaviours and prompts that an organism is not measured on yet."""
    return [
        (behaviour, k)
        for behaviour in BEHAVIOURS
        for k in range(config.cases)
        if not bench.has(organism=organism, behaviour=behaviour, case=k)
    ]


def measure(bench: Bench, config: Dialled, behaviour: str, index: int) -> dict[str, float]:
    """For the base of a behaviour, a random and a MELBO base: the count of vectors, and how far the base moves z.

    The base is the mean activation on the behaviour's prompts minus that on all others: it exists however rare the
    behaviour is, which MELBO vectors that show it do not.
    """
    prompt = bench.subject.texts.held_out[index % len(bench.subject.texts.held_out)]
    case = unbased(bench, config, index, (prompt,))
    norm = config.length * float(activations(case, (prompt,)).norm(dim=-1).median())
    stream = random_stream(config.seed, index, times=1009, device=bench.device)
    random = random_vectors(1, bench.width, 1.0, stream)[0]
    strongest = melbo(displace(case.z), radius=norm, generator=bench.generator(config.seed + index), max_steps=10)[0]
    counts: dict[str, float] = {}
    for name, base in (
        ("own", mean_difference(case, behaviour, config.prompts)),
        ("random", random),
        ("melbo", strongest.vector),
    ):
        base = norm * base / base.norm()
        steered = replace(case, base=base)
        key = f"activation, {name} {behaviour if name == 'own' else ''} {config.length}"
        losses = steered.grow(key, match(case.z, base), base, config.n).losses
        counts |= {name: int((losses <= MISSED).sum()), f"{name}_moved": float(match(case.z, base).scale)}
    return counts


def activations(case: Case, texts: tuple[str, ...]) -> Tensor:
    """At the source, at every position that is no attention sink."""
    return ordinary_activations(case.setting.model, case.setting.prompts(texts), resid_post(case.setup.source))


def mean_difference(case: Case, behaviour: str, count: int) -> Tensor:
    """Mean activation on the behaviour's prompts minus the mean over those of all other behaviours."""
    texts: Mapping[str, tuple[str, ...]] = case.bench.subject.texts.natural
    names = [name for name in case.bench.subject.modes.names if name in texts]
    means = {name: activations(case, texts[name][:count]).mean(0) for name in names}
    return means[behaviour] - torch.stack([value for name, value in means.items() if name != behaviour]).mean(0)


def partial_correlation(triples: Sequence[tuple[float, float, float]]) -> float | None:
    """Rank correlation of the first two, with the third's rank taken out of both; None where nothing is left of one."""
    if len(triples) < 4:
        return None
    first, second, third = (rankdata(values) - (len(triples) + 1) / 2 for values in zip(*triples, strict=True))
    if np.ptp(third) > 0:
        first, second = (x - third * (x @ third) / (third @ third) for x in (first, second))
    sizes = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / sizes if sizes > 1e-9 else None

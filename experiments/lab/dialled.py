"""Families on the small organisms whose behaviours have set frequencies: one base and one count for each behaviour."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from experiments.lab.bench import Bench
from experiments.lab.families import Case, Setup, unbased
from experiments.organism.dial import materialise, read_rows
from mi_ortho import displace, match, melbo, open_subject, random_vectors, resid_post
from mi_ortho.model import read

BEHAVIOURS = ("code", "alien")
BASES = ("own", "random", "melbo")
MISSED = 0.5**0.5  # relative loss at which half of the squared effect is missed


@dataclass(frozen=True)
class Dialled(Setup):
    """Where the set of organisms is, where to steer in them, and how long the bases are.

    Attributes:
        dial: folder written by `python -m experiments.organism dial`.
        length: norm of a base over the median norm of the activations it is added to.
        prompts: of each behaviour, for the bases.
    """

    dial: str = "dial"
    source: int = 1
    target: int = 3
    norm_cap: float = 2.0
    length: float = 1.0
    n: int = 16
    group: int = 1
    cases: int = 2
    prompts: int = 8


def rows_of(config: Dialled) -> list[dict[str, Any]]:
    """The organisms of the set.

    Raises:
        ValueError: there is none; the message names the command that makes it.
    """
    folder = Path(config.dial)
    if not (folder / "dial.json").is_file():
        raise ValueError(
            f"got no set of organisms in {folder}; expected the folder that `python -m experiments.organism dial --out "
            f"{folder}` writes; make it, or name another with --set dial=FOLDER"
        )
    return read_rows(folder)


def organism(bench: Bench, config: Dialled, name: str) -> Bench:
    """The same bench on one organism of the set."""
    folder = bench.run.path.parent.parent / "families" / "dial" / name
    return replace(bench, subject=open_subject(str(materialise(Path(config.dial), name, folder))))


def measure(bench: Bench, config: Dialled, behaviour: str, index: int) -> dict[str, float]:
    """The count of vectors for the base of a behaviour, for a random and a MELBO base, and how far each base moves it.

    The base is the mean activation on the behaviour's prompts minus that on all others: it exists however rare the
    behaviour is, which MELBO vectors that show it do not.
    """
    prompt = bench.subject.texts.held_out[index % len(bench.subject.texts.held_out)]
    case = unbased(bench, config, index, (prompt,))
    norm = config.length * float(activations(case, (prompt,)).norm(dim=-1).median())
    random = random_vectors(1, bench.width, 1.0, bench.generator(config.seed * 1009 + index))[0]
    strongest = melbo(displace(case.z), radius=norm, generator=bench.generator(config.seed + index), max_steps=10)[0]
    found: dict[str, float] = {}
    for name, base in (("own", mean_difference(case, behaviour, config.prompts)), ("random", random),
                       ("melbo", strongest.vector)):  # fmt: skip
        base = norm * base / base.norm()
        grown = replace(case, base=base)
        key = f"activation, {name} {behaviour if name == 'own' else ''} {config.length}"
        losses = grown.grow(key, match(case.z, base), base, config.n).losses
        found |= {name: int((losses <= MISSED).sum()), f"{name}_moved": float(match(case.z, base).scale)}
    return found


def activations(case: Case, texts: tuple[str, ...]) -> Tensor:
    """At the source, at every real position."""
    prompts, site = case.setting.prompts(texts), resid_post(case.setup.source)
    return read(case.setting.model, prompts, [site])[site][prompts.mask].float()


def mean_difference(case: Case, behaviour: str, count: int) -> Tensor:
    """Mean activation on the behaviour's prompts minus the mean over those of all other behaviours."""
    texts: Mapping[str, tuple[str, ...]] = case.bench.subject.texts.natural
    names = [name for name in case.bench.subject.modes.names if name in texts]
    means = {name: activations(case, texts[name][:count]).mean(0) for name in names}
    return means[behaviour] - torch.stack([value for name, value in means.items() if name != behaviour]).mean(0)


def partial_correlation(found: Sequence[tuple[float, float, float]]) -> float | None:
    """Rank correlation of the first two, with the third's rank taken out of both; None where nothing is left of one."""
    if len(found) < 4:
        return None
    first, second, third = (rankdata(values) - (len(found) + 1) / 2 for values in zip(*found, strict=True))
    if np.ptp(third) > 0:
        first, second = (x - third * (x @ third) / (third @ third) for x in (first, second))
    sizes = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / sizes if sizes > 1e-9 else None

"""Bases on maps of known answer: what the claims about families measure on a model, measured where the truth is known.

A claim's `measure` is given planted bases; its readings are judged by its file of predictions, as those of a run are.
"""

import importlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from toys import DTYPE, rotation

from experiments.lab import Base, Bench, Family, Place, pick
from experiments.lab.predictions import read_predictions
from experiments.lab.readings import judged
from mi_ortho import FunctionMap
from mi_ortho.behaviours import GENERIC_MODES
from mi_ortho.studies.nulls import Share

BEHAVIOURS, COUNT = ("code", "alien", "help"), 9  # bases, three of each behaviour
LABELS = ("loss", "bound", "scale")  # numbers of rows that are known exactly
Effect = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class PlantedBase(Base):
    """A base whose map, effect and families are given; a family that is not given is searched for on the map.

    Attributes:
        response: of vectors, a share of the base's: the effect on behaviour.
        given: families by their names.
    """

    response: Effect = field(default=lambda theta: theta[:, 0])
    given: Mapping[str, Family] = field(default_factory=dict)

    @cached_property
    def effect(self) -> Share:
        """As planted."""
        return Share(self.response, 0.0, 1.0)

    @cached_property
    def yard(self) -> Any:
        """Its distributions are its activations."""
        return SimpleNamespace(behaviour=self.match)

    def shows(self, vectors: Tensor, texts: Sequence[str] | None = None) -> list[float]:
        """A vector with half of the effect shows the behaviour everywhere."""
        return [float(one >= 0.5) for one in self.effect(vectors)]

    def grow(self, name: str, *args: Any, **options: Any) -> Family:
        """The given family of this name, or one that is searched for."""
        return self.given[name] if name in self.given else super().grow(name, *args, **options)


def family_of(vectors: Tensor, effect: Effect, *, losses: Tensor | None = None, ended: bool = True) -> Family:
    """A family with the effects that the response gives its vectors."""
    return Family(vectors, torch.zeros(len(vectors)) if losses is None else losses, lambda: effect(vectors), ended)


def bench_of(folder: Path | None = None) -> Any:
    """A bench without a model; rows are kept, files lie beside a run in the folder."""
    subject: Any = SimpleNamespace(device=torch.device("cpu"), digest="planted", name=None, modes=GENERIC_MODES)
    run: Any = SimpleNamespace(path=(folder or Path()) / "claim" / "run")
    return Bench(run, subject, held=[])


def planted_base(
    k: int, vector: Tensor, effect: Effect, *, z: Effect | None = None, folder: Path | None = None, **families: Any
) -> PlantedBase:
    """The k-th of the bases, three of each behaviour in turn; vectors of its families, or families."""
    given = {name: each if isinstance(each, Family) else family_of(each, effect) for name, each in families.items()}
    made = FunctionMap(z or (lambda theta: theta), len(vector))
    nothing: Any = None
    place = (bench_of(folder), Place(max_steps=20), BEHAVIOURS[k % 3], k // 3, (f"prompt {k}",), nothing)
    return PlantedBase(*place, made, vector, response=effect, given=given)  # pyright: ignore[reportArgumentType]


def measured(
    measure: Callable[[Any], None], make: Callable[[int], Base], count: int = COUNT, **gates: float
) -> list[dict[str, Any]]:
    """The rows of a claim's `measure` on planted bases, each after the row about the base itself.

    No two bases of a model give the very same numbers, from which nothing is concluded; these differ by some percent.
    """
    rows: list[dict[str, Any]] = []
    for k in range(count):
        base = make(k)
        measure(base)
        rows.append({"kind": "base", **base.units, "specific": 0.02, "works": 1.0, **gates})
        rows += [differing(row, k) for row in base.bench.held or []]
    return rows


def differing(row: Mapping[str, Any], k: int) -> dict[str, Any]:
    """A row whose numbers are a little smaller than they are, or just above 0, each by another share."""
    labels = [value for value in row.values() if isinstance(value, str)]
    shares = {key: zlib.crc32(f"{k} {key} {labels}".encode()) % 5 for key in row}
    return {
        key: value * (1 - 0.01 * shares[key]) + 1e-5 * shares[key]
        if isinstance(value, float) and key not in LABELS
        else value
        for key, value in row.items()
    }


def planted_rows(values: Callable[[int], Sequence[Mapping[str, Any]]], count: int = COUNT) -> list[dict[str, Any]]:
    """Rows as a run writes them, where a claim's `measure` needs a model."""

    def measure(base: Base) -> None:
        for row in values(BEHAVIOURS.index(base.behaviour) + 3 * base.index):
            base.bench.record(**base.units, **row)

    return measured(measure, lambda k: planted_base(k, torch.ones(2, dtype=DTYPE), lambda theta: theta[:, 0]), count)


def outcomes(name: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each prediction of a claim comes to on these rows."""
    found = importlib.import_module(f"experiments.{name}").readings(rows)
    return [verdict.outcome for verdict in judged(read_predictions(name), list(found))]


def failing(name: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Everything that planted failures of the instruments come to: unspecific, not shown, and too few bases."""
    unspecific = [{**row, "specific": 0.8} if row.get("kind") == "base" else row for row in rows]
    unshown = [{**row, "works": 0.1} if row.get("kind") == "base" else row for row in rows]
    few = [row for behaviour in BEHAVIOURS[:2] for base in (0, 1) for row in pick(rows, behaviour=behaviour, base=base)]
    return [outcome for each in (unspecific, unshown, few) for outcome in outcomes(name, each)]


def changed_rows(rows: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any], **values: Any) -> list[dict[str, Any]]:
    """The rows with other values where they are the chosen ones; a function is given the row."""
    return [
        {**row, **{key: value(row) if callable(value) else value for key, value in values.items()}}
        if pick([row], **chosen)
        else dict(row)
        for row in rows
    ]


# --- families whose answer is known


def along(direction: Tensor) -> Effect:
    """A linear effect, 1 at the direction itself."""
    return lambda theta: theta @ direction / direction.square().sum()


def energy(inside: Tensor, norm: float) -> Effect:
    """A quadratic effect, 1 for any vector of this norm inside a subspace."""
    return lambda theta: (theta @ inside.mT).square().sum(-1) / norm**2


def thresholds(features: Tensor, norm: float) -> Effect:
    """Separate features, each with effect 1 at this norm and none below 0.8 of it."""
    return lambda theta: ((theta @ features.mT / norm - 0.8).clamp_min(0) / 0.2).sum(-1)


def largest(features: Tensor) -> Effect:
    """The share of the largest feature in a vector's square, whatever its length: means of features undo each other."""
    return lambda theta: (theta @ features.mT).square().amax(-1) / theta.square().sum(-1).clamp_min(1e-12)


def equal_shares(n: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """n orthonormal vectors with equal components along one unit direction, and that direction."""
    vectors = rotation(width, seed)[:n]
    return vectors, vectors.sum(0) / n**0.5


def told(kind: str, seed: int, n: int = 12, width: int = 24) -> tuple[Tensor, Effect]:
    """A family of n vectors of norm 1 and its effect: "linear", "quadratic", "features" or "largest"."""
    vectors, direction = equal_shares(n, width, seed)
    effects = {
        "linear": along(direction / n**0.5),
        "quadratic": energy(vectors, 1.0),
        "features": thresholds(vectors, 1.0),
        "largest": largest(vectors),
    }
    return vectors, effects[kind]

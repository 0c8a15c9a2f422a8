"""The families of orthogonal vectors that many experiments look at: searched for once, kept, and shared by all of them.

A family depends on the weights, the place, the prompts, the rules that chose its base, the seed, the limits of the
search and the versions of the libraries, and on nothing else. It lies in the folder `families` beside the run
directories, one file each, written every few vectors. Whoever needs it first makes it under a lock, others wait; a
search that was interrupted continues.
"""

import hashlib
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.lab.bench import LATER, Bench, identity
from mi_ortho import (
    Lbfgs,
    OrthoSettings,
    Slice,
    Status,
    behaviours,
    displace,
    match,
    melbo,
    melbo_ortho,
    resid_post,
    slice_model,
)
from mi_ortho.behaviours import Modes
from mi_ortho.derivatives import gauss_newton
from mi_ortho.elicitation import Goal, Match, Progress
from mi_ortho.model import EMBEDDED
from mi_ortho.runs import LockedError, hold, random_stream, read_tensors, to_json, versions, write_tensors
from mi_ortho.steering import Setting, Yardstick, complete, log_odds, unsteered_completions, yardstick
from mi_ortho.studies.nulls import Share, share
from mi_ortho.studies.shared import Subject, where

DEMO: dict[str, Any] = tomllib.loads((EMBEDDED / "demo.toml").read_text("utf-8"))
SAVE_EVERY = 8
Effect = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Setup:
    """Where the families of an experiment are searched for; the values are those of the embedded model's demo.

    Attributes:
        model: a name or folder; None is the embedded model.
        source, target: block after which vectors are added, and block after which activations are compared.
        radius: norm of the base vectors.
        norm_cap: largest norm of the others, as a multiple of the base's; 0 for none.
        place: which positions are steered.
        behaviour: what the base must make the model show.
        candidates: MELBO vectors the base is chosen from.
        max_steps: steps of each search.
        group: prompts that one family is searched on together.
        cases: such groups, each with a base of its own.
        n: vectors of each family.
        seed: of everything random.
        temperature: of completions; 0 is greedy.
    """

    model: str | None = None
    source: int = DEMO["source"]
    target: int = DEMO["target"]
    radius: float = DEMO["radius"]
    norm_cap: float = DEMO.get("norm_cap", 0.0)
    place: str = DEMO.get("where", "all")
    behaviour: str = DEMO.get("behaviour", "code")
    candidates: int = 32
    max_steps: int = DEMO.get("max_steps", 30)
    group: int = len(DEMO["prompts"])
    cases: int = 8
    n: int = 24
    seed: int = 1
    temperature: float = field(default=0.0, metadata=LATER)


@dataclass(frozen=True, eq=False)
class Case:
    """Prompts with a base vector of their own: what a family is searched for and judged by.

    Attributes:
        bench: where files go.
        setup: how to search.
        index: its number.
        texts: the prompts.
        setting: where vectors are added.
        z: steering vector to the mean activation at the target.
        base: the base vector.
    """

    bench: Bench
    setup: Setup
    index: int
    texts: tuple[str, ...]
    setting: Setting
    z: Slice
    base: Tensor

    @cached_property
    def match(self) -> Match:
        """The activation match of the base."""
        return match(self.z, self.base)

    @cached_property
    def yard(self) -> Yardstick:
        """The base's own completions, teacher-forced, beside the unsteered ones."""
        return yardstick(self.setting, self.texts, self.base, self.match)

    @cached_property
    def activation(self) -> Share:
        """theta to its share of the base's displacement, along it."""
        with torch.no_grad():
            towards = (self.match.goal - self.z(torch.zeros_like(self.base)[None])[0]).flatten()
        return share(lambda theta: self.z(theta).flatten(1) @ towards, self.base, "activations")

    @cached_property
    def behaviour(self) -> Share:
        """theta to its share of the base's gain in log-odds of its answers against the unsteered ones."""
        return share(lambda theta: log_odds(self.yard, theta), self.base, "log-odds of its answers")

    @property
    def norm(self) -> float:
        """Norm of the base vector."""
        return float(self.base.norm())

    @property
    def cap(self) -> float:
        """The norm no vector may exceed."""
        return self.setup.norm_cap * self.norm if self.setup.norm_cap else math.inf

    def keeps(self, vectors: Tensor, texts: tuple[str, ...] | None = None) -> list[float]:
        """For each vector the share of texts whose completion shows the base's behaviour."""
        done = complete(self.setting, texts or self.texts, vectors)
        return [sum(one.mode == self.setup.behaviour for one in each) / len(each) for each in done]

    def generator(self, stage: int) -> torch.Generator:
        """The random stream of one stage of this case."""
        return random_stream(self.setup.seed * 1009 + self.index, stage, times=101, device=self.bench.device)

    def family(self, name: str = "kl", n: int | None = None, **changes: Any) -> "Family":
        """The family that repeats the base's "activation" or its distributions ("kl"), with other settings if asked."""
        goal: Goal = self.match if name == "activation" else self.yard.behaviour
        return self.grow(name, goal, self.base, n or self.setup.n, **changes)

    def grow(self, name: str, goal: Goal, base: Tensor, n: int, **changes: Any) -> "Family":
        """Any family of this case: `name` must tell its goal and its base from all others."""
        settings = replace(
            OrthoSettings(max_norm=self.cap, solver=Lbfgs(max_steps=self.setup.max_steps), patience=4), **changes
        )
        limits = {key: str(value) for key, value in asdict(settings).items()}
        return grown(self.bench, {**key_of(self), "family": name, **limits}, goal, base, n, settings, self.setup.seed)


@dataclass(frozen=True, eq=False)
class Family:
    """Vectors orthogonal to a base and to each other, with the loss each ended at, and how many searches it took."""

    vectors: Tensor
    losses: Tensor
    attempts: int


def key_of(case: Case) -> dict[str, object]:
    """What the files of a case are named by."""
    setup = {key: value for key, value in identity(case.setup).items() if key not in ("n", "cases", "model")}
    return {**weights_of(case.bench), **setup, "texts": case.texts, "rules": rules_of(case.bench.subject.modes)}


def rules_of(modes: Modes) -> str:
    """A digest of the rules by which a base is chosen: the model's, and the code that applies them."""
    digest = hashlib.sha256(to_json(asdict(modes)).encode())
    for file in sorted(Path(str(behaviours.__file__)).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:20]


def weights_of(bench: Bench) -> dict[str, object]:
    """Which network: its files, or its name where they are not here, and what was done to its weights."""
    return {"weights": bench.subject.digest or bench.subject.name}


def cases(bench: Bench, setup: Setup) -> list[Case]:
    """The first groups of prompts on which some MELBO vector shows the behaviour, with the strongest such vector.

    Raises:
        ValueError: the layers do not exist, or too few groups have such a vector.
    """
    bench.require_layers(setup.source, setup.target)
    groups = groups_of(bench.subject, setup)
    ready: list[Case] = []
    for group in groups[: max(12, 4 * setup.cases)]:
        case = prepare(bench, setup, len(ready), group)
        ready += [case] if case is not None else []
        if len(ready) == setup.cases:
            return ready
    if not ready:
        raise ValueError(
            f"got no MELBO vector with behaviour {setup.behaviour!r} on {len(groups)} groups of "
            f"prompts of {bench.subject.title}; expected at least one; change radius, source, target or behaviour"
        )
    bench.say(f"only {len(ready)} of {setup.cases} groups of prompts have a base with behaviour {setup.behaviour!r}")
    return ready


def groups_of(subject: Subject, setup: Setup) -> list[tuple[str, ...]]:
    """The model's prompts in groups, training prompts first; what is left over makes none."""
    texts = tuple(dict.fromkeys([*subject.texts.train, *subject.texts.held_out]))
    return [texts[k : k + setup.group] for k in range(0, len(texts) - setup.group + 1, setup.group)]


def prepare(bench: Bench, setup: Setup, index: int, texts: tuple[str, ...]) -> Case | None:
    """A case with its base; None where no candidate shows the behaviour, or it is shown without steering."""
    case = unbased(bench, setup, index, texts)

    def make() -> dict[str, Tensor]:
        vectors, shares = candidates(case), None
        plain = unsteered_completions(case.setting, texts, case.z.d_model, bench.device)[0].mode
        if plain != setup.behaviour:
            shares = case.keeps(vectors)
        good = [k for k, value in enumerate(shares or []) if value > 0.5]
        return {"base": vectors[good[0]] if good else vectors[:0].flatten()}

    base = stored(bench, {**key_of(case), "base": "melbo"}, make)["base"]
    return replace(case, base=base) if len(base) else None


def unbased(bench: Bench, setup: Setup, index: int, texts: tuple[str, ...]) -> Case:
    """The maps of a case whose base is still to be chosen."""
    site = resid_post(setup.source)
    setting = Setting(
        bench.subject.model,
        site,
        where(setup.place),
        bench.subject.modes,
        temperature=setup.temperature,
        seed=setup.seed,
    )
    z = slice_model(
        bench.subject.model,
        setting.prompts(texts),
        source=site,
        target=resid_post(setup.target),
        where=where(setup.place),
    )
    return Case(bench, setup, index, texts, setting, z, torch.zeros(bench.width, device=bench.device))


def candidates(case: Case) -> Tensor:
    """Orthogonal vectors of the radius that move the target activations most, the strongest first."""
    setup, setting = case.setup, case.setting
    z = slice_model(
        setting.model,
        setting.prompts(case.texts),
        source=setting.site,
        target=resid_post(setup.target),
        readout="all",
        where=setting.where,
    )
    results = melbo(displace(z), radius=setup.radius, n=setup.candidates, generator=case.generator(0), max_steps=10)
    results.sort(key=lambda one: -one.loss)
    return torch.stack([one.vector for one in results])


def with_model(bench: Bench, model: Any, name: str) -> Bench:
    """The same bench on other weights; `name` tells its files from those of the model itself."""
    digest = f"{bench.subject.digest or bench.subject.name} {name}"
    return replace(bench, subject=replace(bench.subject, model=model, digest=digest))


def grown(
    bench: Bench, key: Mapping[str, object], goal: Goal, base: Tensor, n: int, settings: OrthoSettings, seed: int
) -> Family:
    """The first n vectors of a family, searched for from where the last search for it stopped."""
    file = file_of(bench, key)
    with locked(file):
        state = _stored_state(file, base)
        if len(state["vectors"]) < n and not int(state["counts"][2]):
            _extend(state, file, goal, base, n, settings, seed)
    return Family(state["vectors"][:n], state["losses"][:n], int(state["counts"][0]))


def _stored_state(file: Path, base: Tensor) -> dict[str, Tensor]:
    """A family's file: vectors, losses, and counts (searches, failed ones in a row at the end, 1 if it has ended)."""
    nothing = {"vectors": base.new_zeros(0, len(base)), "losses": base.new_zeros(0), "counts": torch.zeros(3).long()}
    tensors = read_tensors(file)[0] if file.is_file() else {}
    return nothing | {name: value.to(nothing[name].device) for name, value in tensors.items()}


def _extend(
    state: dict[str, Tensor], file: Path, goal: Goal, base: Tensor, n: int, settings: OrthoSettings, seed: int
) -> None:
    """Search on until there are n vectors or the family ends, writing the file every few searches."""
    attempts, collapsed, _ = state["counts"].tolist()
    curvature = gauss_newton(goal, base, generator=torch.Generator().manual_seed(seed))
    resume = Progress(state["vectors"], attempts, collapsed)
    for result in melbo_ortho(goal, base, seed=seed, settings=settings, curvature=curvature, resume=resume):
        attempts += 1
        bad = result.status in (Status.COLLAPSED, Status.NONFINITE)
        collapsed = collapsed + 1 if bad else 0
        if not bad:
            state["vectors"] = torch.cat([state["vectors"], result.vector[None]])
            state["losses"] = torch.cat([state["losses"], state["losses"].new_tensor([result.loss])])
        done = len(state["vectors"]) >= n
        state["counts"] = torch.tensor([attempts, collapsed, 0])
        if done or attempts % SAVE_EVERY == 0:
            write_tensors(file, state)
        if done:
            return
    state["counts"] = torch.tensor([attempts, collapsed, 1])
    write_tensors(file, state)


def stored(bench: Bench, key: Mapping[str, object], make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What `make` gives, computed once for each key; where it finds nothing, asked again the next time."""
    file = file_of(bench, key)
    with locked(file):
        if file.is_file():
            tensors = read_tensors(file)[0]
        else:
            tensors = dict(make())
            if all(map(len, tensors.values())):
                write_tensors(file, tensors)
        return {name: value.to(bench.device) for name, value in tensors.items()}


def file_of(bench: Bench, key: Mapping[str, object]) -> Path:
    """The file of a key under these versions of the libraries, in the folder beside the run directories."""
    digest = hashlib.sha256(to_json({**key, **versions()}).encode()).hexdigest()[:20]
    return families_folder(bench) / f"{digest}.safetensors"


def families_folder(bench: Bench) -> Path:
    """What experiments share lies here, beside their run directories."""
    return bench.run.path.parent.parent / "families"


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Only one process at a time works on a file; the lock ends with the process that holds it."""
    with hold(file.with_suffix(".lock"), wait=True):
        yield


@contextmanager
def trying(file: Path) -> Iterator[bool]:
    """The same lock without waiting: whether this process has it now."""
    try:
        lock = hold(file.with_suffix(".lock"))
    except LockedError:
        yield False
        return
    with lock:
        yield True

"""Base vectors of several behaviours, the families that repeat them, and what both are compared with.

A base is a MELBO vector that makes a model show a behaviour it does not show unsteered, on prompts of its own. Bases
and families are made once for a model and a place and shared by all experiments: they lie in the folder `families`
beside the run directories, under names that hold everything they depend on.
"""

import math
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from experiments.lab.bench import LATER, Bench, identity
from experiments.lab.kept import file_of, locked, rules_of, stored, weights_of
from mi_ortho import (
    ActivationMap,
    Lbfgs,
    OrthoSettings,
    Slice,
    Status,
    displace,
    match,
    melbo,
    melbo_ortho,
    random_vectors,
    resid_post,
    slice_model,
)
from mi_ortho.behaviours import CHAT_MODES, CHAT_OPENINGS, INCOHERENT
from mi_ortho.derivatives import gauss_newton
from mi_ortho.elicitation import Goal, Match, Progress
from mi_ortho.interventions import orthonormal_rows
from mi_ortho.model import new_sinks, ordinary_activations
from mi_ortho.nulls import covariance_matched, with_norms
from mi_ortho.runs import pick, random_stream, read_tensors, write_tensors
from mi_ortho.stats import Count
from mi_ortho.steering import (
    ModePosterior,
    Setting,
    Yardstick,
    complete,
    mode_posterior,
    natural_openings,
    unsteered_completions,
    yardstick,
)
from mi_ortho.studies.nulls import Share, share
from mi_ortho.studies.shared import readout_of, where

MODELS = Path(__file__).resolve().parents[1] / "presets" / "models"
TRIED = 16  # random vectors that tell how specific an effect is
MODES = 5  # of which a posterior is one, at least
SAVE_EVERY = 8
LOST, WITHOUT = 0.95, 0.05  # relative loss, and share of the base's effect, from which a vector repeats nothing


@dataclass(frozen=True)
class Place:
    """Where bases are looked for and families grown; the values of each model lie in experiments/presets/models.

    Attributes:
        model: a name or folder; None is the embedded model.
        source, target: block after which vectors are added, and block after which activations are compared.
        radius: norm of the bases.
        norm_cap: largest norm of a family's vectors, as a multiple of the base's.
        where: which positions are steered.
        readout: which positions of the target are compared.
        behaviours: what bases make the model show.
        bases: of each behaviour, each on prompts of its own.
        candidates: MELBO vectors that a base is chosen from.
        max_steps: steps of each search.
        group: prompts that one family is searched on together.
        most: vectors of a family, where it does not end before; 0: as many as there are dimensions.
        most_kl: the same for families that repeat distributions, whose every step runs the whole model; 0: as `most`.
        lost: a family ends when so many vectors in a row have lost it: a relative loss of .95 of those that repeat
            activations, a twentieth of the base's effect of those that repeat distributions.
        tokens: of a completion.
        seed: of everything random.
    """

    model: str | None = None
    source: int = 3
    target: int = 6
    radius: float = 13.8
    norm_cap: float = 1.6
    where: str = "prompt"
    readout: str = "mean"
    behaviours: tuple[str, ...] = ("code", "alien", "help")
    bases: int = 3
    candidates: int = 32
    max_steps: int = 50
    group: int = 1
    most: int = 0
    most_kl: int = field(default=0, metadata=LATER)
    lost: int = 10
    tokens: int = 32
    seed: int = 1
    own_models: ClassVar[bool] = False  # whether its models are not the one that is named, nor its place that one's


SIZES = ("behaviours", "bases", "candidates", "max_steps", "most", "most_kl")  # that a smoke run keeps


def at_model(config: Any, model: str | None, *, smoke: bool = False) -> Any:
    """A configuration with the place, sizes and behaviours that a model's file in experiments/presets/models says."""
    if not isinstance(config, Place) or config.own_models:
        return replace(config, model=model)
    path = MODELS / f"{(model or 'embedded').replace('/', '-')}.toml"
    values = tomllib.loads(path.read_text("utf-8")) if path.is_file() else {}
    known = {one.name for one in fields(Place)}
    if strange := set(values) - known:
        raise ValueError(f"got {path} with {', '.join(sorted(strange))}; expected settings of a place; correct it")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return replace(config, model=model, **{k: v for k, v in values.items() if not (smoke and k in SIZES)})


@dataclass(frozen=True, eq=False)
class Family:
    """Vectors orthogonal to a base and to each other, in the order they were found.

    Attributes:
        vectors, losses: those that did not collapse, and the loss each ended at.
        measure: gives the effect of each, as a share of the base's; NaN around a vector without a behaviour.
        ended: whether the search went on until the family ended, so that counts of it are not cut off.
    """

    vectors: Tensor
    losses: Tensor
    measure: Callable[[], Tensor]
    ended: bool

    @cached_property
    def effects(self) -> Tensor:
        """Of each vector as a share of the base's: measured when asked for, as it may cost more than the search."""
        return self.measure()

    def spread(self, count: int) -> Tensor:
        """So many of the vectors, spread evenly over the family."""
        indices = torch.linspace(0, len(self.vectors) - 1, min(count, len(self.vectors))).round().long()
        return self.vectors[indices.to(self.vectors.device)]

    def before_end(self, lost: int, most: int | None = None) -> Tensor:
        """The vectors without the last ones, which only showed that the family had ended; at most so many, spread."""
        count = len(self.vectors) - (lost if self.ended else 0)
        first = replace(self, vectors=self.vectors[: max(0, count)])
        return first.spread(count if most is None else most) if count > 0 else first.vectors

    def working(self, effect: float = 0.5) -> Tensor:
        """The vectors with at least this share of the base's effect."""
        return self.vectors[self.effects >= effect]

    def count(self, *, loss: float | None = None, effect: float | None = None) -> Count:
        """N: how many have at most this loss, or at least this share of the base's effect."""
        chosen = self.losses <= loss if loss is not None else self.effects >= (0.5 if effect is None else effect)
        return Count(int(chosen.sum()), not self.ended)


@dataclass(frozen=True, eq=False)
class Base:
    """A base vector on its prompts: what families are grown around and vectors are compared with.

    Attributes:
        bench: where files go.
        place: how to search.
        behaviour, index: which of the bases it is.
        texts: the prompts.
        setting: where vectors are added, and by which rules answers are judged.
        z: steering vector to the activations at the target.
        vector: the base.
    """

    bench: Bench
    place: Place
    behaviour: str
    index: int
    texts: tuple[str, ...]
    setting: Setting
    z: Slice
    vector: Tensor

    @property
    def units(self) -> dict[str, Any]:
        """What a reading of this base is labelled by."""
        return {"behaviour": self.behaviour, "base": self.index}

    @property
    def norm(self) -> float:
        """Of the base."""
        return float(self.vector.norm())

    @property
    def stream(self) -> float:
        """Median norm of the residual stream where vectors are added, attention sinks left out."""
        prompts, site = self.setting.prompts(self.texts), self.setting.site
        return float(ordinary_activations(self.setting.model, prompts, site).norm(dim=-1).median())

    @cached_property
    def match(self) -> Match:
        """The activation match of the base."""
        return match(self.z, self.vector)

    @cached_property
    def yard(self) -> Yardstick:
        """The base's own completions, teacher-forced, beside the unsteered ones."""
        return yardstick(self.setting, self.texts, self.vector, self.match)

    @cached_property
    def posterior(self) -> ModePosterior:
        """The posterior of modes on the first prompt."""
        return mode_posterior(self.setting, self.texts[0], opened(self.setting, self.bench))

    @cached_property
    def effect(self) -> Share:
        """The posterior of the behaviour as a share of the base's rise of it: 0 unsteered, 1 under the base."""
        return share(lambda theta: self.posterior.of(self.behaviour, theta), self.vector, "posterior of its behaviour")

    @torch.no_grad()
    def displacement(self, vectors: Tensor) -> Tensor:
        """How far each vector moves the activations at the target."""
        return change(self.z, vectors).norm(dim=-1)

    @torch.no_grad()
    def along(self, vectors: Tensor, axes: Tensor) -> Tensor:
        """The displacement by each vector along that by its axis (one for all, or one each), as a share of it."""
        moved, towards = (change(self.z, each) for each in (vectors, axes))
        return (moved * towards).sum(-1) / towards.square().sum(-1)

    def shows(self, vectors: Tensor, texts: Sequence[str] | None = None) -> list[float]:
        """For each vector the share of texts whose greedy completion shows the behaviour and can be read."""
        done = complete(self.setting, list(texts or self.texts), vectors)
        return [sum(one.mode == self.behaviour for one in each) / len(each) for each in done]

    def random(self, norms: Tensor, stage: int) -> Tensor:
        """Isotropic random vectors of these norms."""
        drawn = random_vectors(len(norms), len(self.vector), 1.0, self.generator(stage)).to(self.vector)
        return with_norms(drawn, norms)

    def covariant(self, norms: Tensor, stage: int) -> Tensor:
        """Random vectors of these norms with the covariance of activations, attention sinks left out."""
        prompts, site = self.setting.prompts(self.texts), resid_post(self.place.source)
        activations = ordinary_activations(self.setting.model, prompts, site)
        return with_norms(covariance_matched(activations, len(norms), self.generator(stage)).to(self.vector), norms)

    def displaced(self, count: int, stage: int) -> Tensor:
        """Isotropic random vectors, each as long as it takes to move the target as far as the base does."""
        drawn = self.random(torch.full((count,), self.norm).to(self.vector), stage)
        return as_far(self.z, drawn, self.displacement(self.vector[None]))

    def orthogonal(self, vectors: Tensor, stage: int) -> dict[str, Tensor]:
        """As many random orthogonal vectors as these: each as long as one of them, or moving the target as far."""
        random = with_norms(orthonormal_rows(self.random(vectors.norm(dim=-1), stage)), vectors.norm(dim=-1))
        return {"random": random, "displaced": as_far(self.z, random, self.displacement(vectors))}

    def generator(self, stage: int) -> torch.Generator:
        """The random stream of one stage of this base."""
        return random_stream(self.place.seed * 1009 + self.index, stage, times=101, device=self.bench.device)

    def family(self, name: str = "activation", *, cap: float | None = None, most: int | None = None) -> Family:
        """The family that repeats the base's "activation" or its distributions ("kl"), below a multiple of its norm."""
        goal: Goal = self.match if name == "activation" else self.yard.behaviour
        return self.grow(name, goal, self.vector, cap=cap, most=most)

    def around(self, other: Tensor, name: str, *, cap: float | None = None, most: int | None = None) -> Family:
        """The family that repeats the activations of another vector; its effects are shares of this base's."""
        return self.grow(f"activation of {name}", match(self.z, other), other, cap=cap, most=most)

    def grow(
        self,
        name: str,
        goal: Goal,
        around: Tensor,
        *,
        cap: float | None = None,
        fixed: bool = False,
        most: int | None = None,
    ) -> Family:
        """Any family: `name` must tell its goal and what it is grown around from all others of this base.

        With `fixed` its vectors are as long as the cap.
        """
        norm = (self.place.norm_cap if cap is None else cap) * float(around.norm())
        solver = Lbfgs(max_steps=self.place.max_steps)
        settings = OrthoSettings(max_norm=norm, min_norm=norm if fixed else 0.0, solver=solver, patience=4)
        limits = {key: str(value) for key, value in asdict(settings).items()}
        key = {**key_of(self.bench, self.place, self.behaviour, self.index, self.texts), "family": name, **limits}
        limit = self.place.most if isinstance(goal, Match) else self.place.most_kl or self.place.most
        return grown(self, key, goal, around, settings, most or limit or len(around) - 2)


@torch.no_grad()
def change(z: ActivationMap, vectors: Tensor) -> Tensor:
    """z(theta) - z(0), one flat row a vector."""
    start = z(torch.zeros_like(vectors[:1])).flatten(1)
    return torch.cat([z(part).flatten(1) - start for part in vectors.split(64)])


def as_far(z: ActivationMap, vectors: Tensor, wanted: Tensor) -> Tensor:
    """Each vector made as long as it takes to move z so far (one number, or one each), at most 32 times as long."""
    low, high = torch.zeros(len(vectors)).to(vectors), torch.full((len(vectors),), 32.0).to(vectors)
    for _ in range(12):
        middle = (low + high) / 2
        short = change(z, middle[:, None] * vectors).norm(dim=-1) < wanted
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return high[:, None] * vectors


def key_of(bench: Bench, place: Place, behaviour: str, index: int, texts: tuple[str, ...]) -> dict[str, object]:
    """What the files of a base are named by."""
    left = ("model", "behaviours", "bases", "most", "most_kl", "lost")
    settings = {key: value for key, value in identity(place).items() if key not in left}
    names = {"texts": texts, "behaviour": behaviour, "index": index, "rules": rules_of(bench.subject.modes)}
    return {**weights_of(bench), **settings, **names}


def grown(
    base: Base, key: Mapping[str, object], goal: Goal, around: Tensor, settings: OrthoSettings, most: int
) -> Family:
    """The vectors of a family until it ends, or the first `most`; searched on from where the last search stopped."""
    file = file_of(base.bench, key)
    with locked(file):
        state = _stored_state(file, around)
        if len(state["vectors"]) < most and not has_ended(state, base.place.lost):
            _extend(state, file, base, goal, around, settings, most)
    whole = (
        state if len(state["vectors"]) <= most else {**state, "lost": state["lost"][:most], "counts": torch.zeros(3)}
    )
    ended = has_ended(whole, base.place.lost) or most >= len(around) - 2
    vectors = state["vectors"][:most]
    return Family(vectors, state["losses"][:most], lambda: _effects(base, file, vectors), ended)


def _effects(base: Base, file: Path, vectors: Tensor) -> Tensor:
    """The effects of a family's vectors from its file; those that are missing are measured and written."""
    with locked(file):
        state = _stored_state(file, vectors[0] if len(vectors) else base.vector)
        missing = state["effects"][: len(vectors)].isnan().nonzero().flatten().tolist() if base.behaviour else []
        for k in missing:
            state["effects"][k] = float(base.effect(vectors[k : k + 1])[0])
        if missing:
            write_tensors(file, state)
    return state["effects"][: len(vectors)]


def _stored_state(file: Path, around: Tensor) -> dict[str, Tensor]:
    """A family's file; counts are searches made, how many collapsed in a row at the end, and 1 if none is left."""
    numbers = {name: around.new_zeros(0) for name in ("losses", "effects", "lost")}
    nothing = {"vectors": around.new_zeros(0, len(around)), **numbers, "counts": torch.zeros(3).long()}
    tensors = read_tensors(file)[0] if file.is_file() else {}
    return nothing | {name: value.to(nothing[name].device) for name, value in tensors.items()}


def has_ended(state: Mapping[str, Tensor], lost: int) -> bool:
    """Whether a family has ended: no direction was left, or all of the last vectors have lost it."""
    last = state["lost"][-lost:]
    return bool(state["counts"][2]) or (len(last) == lost and bool(last.all()))


def _extend(
    state: dict[str, Tensor],
    file: Path,
    base: Base,
    goal: Goal,
    around: Tensor,
    settings: OrthoSettings,
    most: int,
) -> None:
    """Search on until there are enough vectors or the family ends, writing the file every few searches."""
    attempts, collapsed, _ = state["counts"].tolist()
    curvature = gauss_newton(goal, around, generator=torch.Generator().manual_seed(base.place.seed))
    resume = Progress(state["vectors"], attempts, collapsed)
    for result in melbo_ortho(
        goal, around, seed=base.place.seed, settings=settings, curvature=curvature, resume=resume
    ):
        attempts += 1
        bad = result.status in (Status.COLLAPSED, Status.NONFINITE)
        collapsed = collapsed + 1 if bad else 0
        if not bad:
            by_loss = isinstance(goal, Match) or not base.behaviour
            effect = math.nan if by_loss else float(base.effect(result.vector[None])[0])
            lost = result.loss >= LOST if by_loss else effect < WITHOUT
            found = {"losses": result.loss, "effects": effect, "lost": float(lost)}
            state["vectors"] = torch.cat([state["vectors"], result.vector[None]])
            for name, value in found.items():
                state[name] = torch.cat([state[name], state[name].new_tensor([value])])
        state["counts"] = torch.tensor([attempts, collapsed, 0])
        done = len(state["vectors"]) >= most or has_ended(state, base.place.lost)
        if done or attempts % SAVE_EVERY == 0:
            write_tensors(file, state)
        if done:
            return
    state["counts"] = torch.tensor([attempts, collapsed, 1])
    write_tensors(file, state)


def bases_of(bench: Bench, place: Place) -> list[Base]:
    """So many bases of each behaviour, each on other prompts: of every group the strongest vector that shows it.

    Raises:
        ValueError: the layers do not exist, or no candidate shows any of the behaviours.
    """
    bench.require_layers(place.source, place.target)
    found: dict[str, list[Base]] = {behaviour: [] for behaviour in place.behaviours}
    for texts in groups(bench, place)[: max(12, 4 * place.bases)]:
        wanted = [behaviour for behaviour, ready in found.items() if len(ready) < place.bases]
        if not wanted:
            break
        for behaviour, vector in strongest(bench, place, texts).items():
            if behaviour in wanted:
                ready = found[behaviour]
                ready.append(
                    replace(unbased(bench, place, texts), behaviour=behaviour, index=len(ready), vector=vector)
                )
    if not any(found.values()):
        raise ValueError(
            f"got no MELBO vector with {' or '.join(place.behaviours)} on the prompts of {bench.subject.title}; "
            "expected one at least; change radius, source, target or behaviours with --set"
        )
    for behaviour, ready in found.items():
        if len(ready) < place.bases:
            bench.say(f"only {len(ready)} of {place.bases} groups of prompts have a base with behaviour {behaviour!r}")
    return [base for ready in found.values() for base in ready]


def groups(bench: Bench, place: Place) -> list[tuple[str, ...]]:
    """The model's prompts in groups, training prompts first; what is left over makes none."""
    texts = tuple(dict.fromkeys([*bench.subject.texts.train, *bench.subject.texts.held_out]))
    return [texts[k : k + place.group] for k in range(0, len(texts) - place.group + 1, place.group)]


def strongest(bench: Bench, place: Place, texts: tuple[str, ...]) -> dict[str, Tensor]:
    """For each behaviour that some MELBO vector shows on all these prompts, and none unsteered, the strongest one.

    Vectors that turn ordinary positions into attention sinks are left out: no family repeats their activations.
    """
    case = unbased(bench, place, texts)

    def make() -> dict[str, Tensor]:
        z = at_all_positions(case)
        stream = random_stream(place.seed * 1009, 0, times=101, device=bench.device)
        results = melbo(displace(z), radius=place.radius, n=place.candidates, generator=stream, max_steps=10)
        return {"candidates": torch.stack([one.vector for one in sorted(results, key=lambda one: -one.loss)])}

    vectors = stored(bench, {**key_of(bench, place, "any", 0, texts), "base": "candidates"}, make)["candidates"]
    plain = {one.mode for one in unsteered_completions(case.setting, texts, case.z.d_model, bench.device)}
    chosen: dict[str, Tensor] = {}
    vectors = vectors[[count == 0 for count in new_sinks(at_all_positions(case), vectors)]]
    for vector, done in zip(vectors, complete(case.setting, texts, vectors), strict=True):
        modes = {one.mode for one in done}
        if len(modes) == 1 and not modes & {*plain, INCOHERENT}:
            chosen.setdefault(modes.pop(), vector)
    return chosen


def at_all_positions(case: Base) -> Slice:
    """The map that MELBO searches on: every position of the target, as published."""
    return slice_model(
        case.setting.model,
        case.setting.prompts(case.texts),
        source=case.setting.site,
        target=resid_post(case.place.target),
        readout="all",
        where=case.setting.where,
    )


def unbased(bench: Bench, place: Place, texts: tuple[str, ...]) -> Base:
    """The maps of a base that is still to be chosen."""
    site, modes = resid_post(place.source), bench.subject.modes
    setting = Setting(
        bench.subject.model, site, where(place.where), modes, max_new_tokens=place.tokens, sinks="exclude"
    )
    z = slice_model(
        bench.subject.model,
        setting.prompts(texts),
        source=site,
        target=resid_post(place.target),
        readout=readout_of(place.readout),
        where=setting.where,
    )
    return Base(bench, place, "", 0, texts, setting, z, torch.zeros(bench.width, device=bench.device))


_OPENED: dict[int, Mapping[str, Sequence[str]]] = {}


def opened(setting: Setting, bench: Bench) -> Mapping[str, Sequence[str]]:
    """The openings of each mode: those of chat models, or the model's own answers, read once.

    Raises:
        ValueError: it answers in fewer than five modes, too few for a posterior.
    """
    if setting.modes is CHAT_MODES:
        return {mode: texts[:1] for mode, texts in CHAT_OPENINGS.items()}
    key = id(setting.model)
    if key not in _OPENED:
        found = natural_openings(
            setting, {mode: texts[:4] for mode, texts in bench.subject.texts.natural.items()}, most=2
        )
        if len(found) < MODES:
            raise ValueError(
                f"got {bench.subject.title}, which answers in {len(found)} modes ({', '.join(found)}); expected "
                f"{MODES}; give the model's folder a prompts.json with prompts for more"
            )
        _OPENED[key] = found
    return _OPENED[key]


def each_base(
    config: Place, bench: Bench, measure: Callable[[Base], None], every: Sequence[Base] | None = None
) -> None:
    """Measure the bases that are not recorded, each as one stage that begins with a row about the base itself.

    `every`: the bases of this place, where they are looked up already.
    """
    every = bases_of(bench, config) if every is None else every
    for k, base in enumerate(every):
        for part in bench.stage(**base.units):
            part.record(kind="base", **base.units, **facts(base))
            measure(replace(base, bench=part))
        bench.track("bases", k + 1, len(every))


@torch.no_grad()
def facts(base: Base) -> dict[str, Any]:
    """What a page says of a base, and the checks that its readings must pass."""
    random = base.random(torch.full((TRIED,), base.norm).to(base.vector), 1)
    done = complete(base.setting, list(base.texts), torch.stack([torch.zeros_like(base.vector), base.vector]))
    return {
        "prompt": base.texts[0],
        "unsteered": done[0][0].text,
        "text": done[1][0].text,
        "norm": base.norm,
        "of_stream": base.norm / base.stream,
        "displacement": float(base.displacement(base.vector[None])[0]),
        "random_displacement": float(base.displacement(random).mean()),
        "specific": float(base.effect(random).mean()),
        "works": base.shows(base.vector[None])[0],
        "random_shows": sum(base.shows(random)) / TRIED,
    }


def read_bases(
    rows: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[dict[str, Any], dict[str, float], list[Mapping[str, Any]]]]:
    """For every base among recorded rows its units, the checks of instruments, and all of its rows."""
    for row in rows:
        if row.get("kind") == "base":
            units = {"behaviour": row["behaviour"], "base": row["base"]}
            yield units, {"specific": row["specific"], "works": row["works"]}, pick(rows, **units)

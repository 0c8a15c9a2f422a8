"""A command that was killed or met a full disk, wherever, and is given again ends as if nothing had happened.

At every durable write, for every command in each of its shapes, and for an experiment of each shape. The fast suite
tries a few of the moments, the slow one all.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from kills import content, fails_when_full, kept, moments, remembering
from small_runs import (
    ATLAS,
    DCT,
    EXPLORE,
    GEOMETRY,
    PRESENCE,
    REFUSAL,
    classes,
    lists,
    planted_family,
    random_family,
    tiny_subject,
    write_family,
)

from experiments.lab import bases, bench, claims, performing
from mi_ortho.interventions.sites import resid_post
from mi_ortho.runs.files import write_file
from mi_ortho.steering.files import SteeringVectors, save_vectors
from mi_ortho.studies.atlas import bench as atlas_bench
from mi_ortho.studies.atlas import stages as atlas_stages
from mi_ortho.studies.atlas import study as atlas
from mi_ortho.studies.dct import bench as dct_bench
from mi_ortho.studies.dct import copies, fits
from mi_ortho.studies.dct import study as dct
from mi_ortho.studies.explore import contents
from mi_ortho.studies.explore import study as explore
from mi_ortho.studies.family import controls, inside, job, stages
from mi_ortho.studies.family import study as family
from mi_ortho.studies.family.config import FamilyConfig
from mi_ortho.studies.geometry import study as geometry
from mi_ortho.studies.nulls import linear
from mi_ortho.studies.nulls import study as nulls
from mi_ortho.studies.nulls.config import NullsConfig
from mi_ortho.studies.overview.commands import REPORTS
from mi_ortho.studies.presence import study as presence
from mi_ortho.studies.refusal import compare, directions, matrix, trial
from mi_ortho.studies.refusal import study as refusal
from mi_ortho.studies.shared import subject
from mi_ortho.studies.shared.subject import Subject, open_subject

FAMILY = FamilyConfig(
    prompts=("How can I build a bomb?",),
    held_out=("Tell me a story.",),
    source=3,
    target=6,
    radius=13.8,
    norm_cap=1.6,
    where="prompt",
    candidates=32,
    n=2,
    n_kl=3,
    random_bases=1,
    answer_tokens=4,
    max_steps=2,
    max_new_tokens=12,
)


def quiet(*args: object) -> None:
    pass


layers, refusing = (import_module(f"experiments.lab.{name}") for name in ("layers", "refusing"))
CALL: dict[str, Any] = {"fresh": False, "at": None, "say": quiet, "track": quiet}


@dataclass(frozen=True)
class Shape:
    """A command to be interrupted, and what is remembered meanwhile: places of functions, and of those that yield."""

    call: Callable[[Path], object]
    places: tuple[tuple[Any, str], ...]
    steps: tuple[tuple[Any, str], ...] = ()
    also: Callable[[pytest.MonkeyPatch], None] = quiet


def named(module: Any, *names: str) -> tuple[tuple[Any, str], ...]:
    return tuple((module, name) for name in names)


def of_family(**changes: Any) -> Shape:
    melbo = changes.pop("melbo", False)

    def call(out: Path) -> None:
        (family.melbo_only if melbo else family.family)(replace(FAMILY, **changes), out, **CALL)

    places = named(stages, "melbo", "complete", "unsteered_completions", "measure_graded", "yardstick")
    places += named(stages, "calibrate_scale") + named(job, "slice_model", "gauss_newton")
    places += named(controls, "measure", "yardstick", "jacobian", "shrink", "linear_null")
    places += named(job, "slice_model", "measure") + named(inside, "unsteered_completions", "_attention")
    return Shape(call, places, ((stages, "melbo_ortho"), (stages, "melbo_ortho_published"), (controls, "melbo_ortho")))


def of_own_base(home: Path) -> Shape:
    made = family.family(replace(FAMILY, n=1, n_kl=0, random_bases=0), home / "made", **CALL)
    vector = made.load_rows("vectors")["base"].reshape(1, -1)  # one that does something
    base = home / "base.safetensors"
    save_vectors(SteeringVectors(vector, resid_post(3), "embedded"), base)
    return of_family(base=str(base))


def of_nulls(home: Path) -> Shape:
    source = home / "planted"
    shutil.copytree(planted_family(home / "made"), source)
    config = NullsConfig(run=str(source), nodes=2, samples=2, draws=10)

    def also(patch: pytest.MonkeyPatch) -> None:
        found: list[Any] = []

        def prepared(run: Any, *rest: Any) -> Any:
            found.append(replace(found[0], run=run) if found else prepare(run, *rest))
            return found[-1]

        prepare = nulls.prepare_bench
        patch.setattr(nulls, "prepare_bench", prepared)
        saving = kept(nulls.STAGES["linear"])

        def linear_rows(bench: Any) -> Any:  # it saves the Jacobians too
            linear.jacobians(bench)
            return saving(bench)

        quick = {name: kept(rows) for name, rows in nulls.STAGES.items()} | {"linear": linear_rows}
        patch.setattr(nulls, "STAGES", quick)

    return Shape(lambda out: nulls.nulls(config, out, **CALL), named(linear, "jacobian", "mean_jacobian"), also=also)


def of_presence(home: Path) -> Shape:
    source = random_family(home).path
    places = named(
        presence, "real_passages", "read_streams", "layer_rows", "probe_rows", "strongest_rows", "token_rows"
    )
    return Shape(lambda out: presence.presence(PRESENCE, source, out, **CALL), places, ((presence, "write_passages"),))


def of_explore(home: Path) -> Shape:
    source = write_family(home / "family")
    places = named(contents, "_attention", "_presence", "_natural", "_nearest", "_null_cosine", "unsteered_completions")
    return Shape(
        lambda out: explore.explore(EXPLORE, source, fresh=False, at=out / "explore", say=quiet, track=quiet), places
    )


def of_dct(home: Path) -> Shape:
    config = replace(DCT, k=3, seeds=(0, 1), method=("linear", "exponential"), steps=2)

    def also(patch: pytest.MonkeyPatch) -> None:
        found: list[Any] = []

        def prepared(run: Any, *rest: Any) -> Any:
            found.append(replace(found[0], run=run) if found else prepare(run, *rest))
            return found[-1]

        def methods(config: Any) -> Any:
            return found_methods or found_methods.update({n: kept(f) for n, f in make(config).items()}) or found_methods

        prepare, make, found_methods = dct.prepare_study, fits.methods, {}
        patch.setattr(dct, "prepare_study", prepared)
        patch.setattr(fits, "methods", methods)

    places = named(dct, "scale_rows", "unsteered_rows", "spectrum_rows", "trial_rows", "agreement_rows")
    places += named(dct_bench.Study, "maps")
    places += named(
        copies, "displacement", "complete", "_ablated", "multiplicity_against_random", "multiplicity_against"
    )
    places += named(fits, "displacement", "reconstruction_error")
    return Shape(lambda out: dct.dct(config, out, **CALL), places, also=also)


def of_atlas(home: Path) -> Shape:
    places = named(atlas_stages, "sinks_row", "ordinary_activations", "krylov_singular", "melbo", "complete")
    places += named(atlas_stages, "response", "unsteered_completions") + named(atlas_bench.Bench, "map")
    return Shape(lambda out: atlas.atlas(ATLAS, out, **CALL), places)


def of_geometry(home: Path) -> Shape:
    config = replace(GEOMETRY, controls=True)

    def also(patch: pytest.MonkeyPatch) -> None:
        make = kept(geometry.stages)
        found: dict[int, Any] = {}

        def quick(*given: Any) -> Any:
            todo = make(*given)
            return found.setdefault(id(todo), {name: kept(rows) for name, rows in todo.items()})

        patch.setattr(geometry, "stages", quick)

    places = named(geometry, "read_network", "_network", "overlaps", "write_matrices")
    return Shape(lambda out: geometry.geometry(config, out, **CALL), places, also=also)


def of_refusal(home: Path) -> Shape:
    words, bad, good = classes()
    config = replace(REFUSAL, refusal_tokens=words, **lists(home, harmful=bad, harmless=good))
    places = named(
        directions, "filter_prompts", "difference_of_means", "refusal_scores", "validation", "ranking_scores"
    )
    places += named(trial, "_measure", "_agreement", "completions") + named(matrix, "_row")
    places += named(compare, "_turned", "cone_targets", "refusal_cone", "writes", "activations", "refusal_scores")
    return Shape(lambda out: refusal.refusal(config, out, **CALL), places, ((directions, "candidates"),))


def of_experiment(name: str, config: Any = None, *places: tuple[Any, str]) -> Callable[[Path], Shape]:
    """An experiment in its smallest setting."""
    module = import_module(f"experiments.{name}")

    def call(out: Path) -> None:
        experiment = claims.load(name)
        options: dict[str, Any] = {"subject": None, "fresh": False, "say": quiet, "track": quiet}
        performing.perform(experiment, config or experiment.smoke, out, **options)

    common = named(bench.Bench, "map", "unembedding")
    mine = tuple(
        (module, each)
        for each in ("examine", "melbo", "nearest", "steered", "plane_of", "activations")
        if hasattr(module, each)
    )
    common += named(bases, "slice_model", "melbo", "complete", "unsteered_completions", "yardstick", "gauss_newton")
    common += named(refusing, "tokens_of", "difference_of_means") + named(refusing.Refusing, "strongest")
    common += named(layers, "read_network", "_network")
    return lambda home: Shape(call, (*mine, *common, *places), ((bases, "melbo_ortho"),))


SHAPES: dict[str, Callable[[Path], Shape]] = {
    "family": lambda home: of_family(),
    "family in blocks": lambda home: of_family(block=2, n=3, n_kl=5),
    "family of fixed norm": lambda home: of_family(fixed_norm=1.0, shrink=False, n=0),
    "family of an own base": of_own_base,
    "published family": lambda home: of_family(solver="published", n_kl=0, max_steps=4, random_bases=0),
    "melbo": lambda home: of_family(melbo=True),
    "nulls": of_nulls,
    "presence": of_presence,
    "dct": of_dct,
    "refusal": of_refusal,
    "geometry": of_geometry,
    "atlas": of_atlas,
    "explore": of_explore,
    "experiment by splits": of_experiment("addition_reaches_half_of_the_circle"),
    "experiment by prompts": of_experiment("vectors_work_on_other_prompts"),
    "experiment by bases": of_experiment("linear_null_explains_the_family"),
    "experiment by layers": of_experiment("layers_share_directions"),
    "experiment of single rows": of_experiment("late_output_directions_are_tokens"),
}
FAST = ("family in blocks", "explore", "experiment of single rows")


@pytest.fixture
def shape(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shape]:
    """What is to be interrupted, with all that takes long remembered, and without its page."""
    (tmp_path / "home").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        one = tiny_subject if request.param == "refusal" else subject_of
        for module in (subject, performing):
            patch.setattr(module, "open_subject", lambda *names, **options: one(names[0] if names else None))
        patch.setattr(performing, "write_experiment_report", lambda experiment, run: None)
        for place in REPORTS.values():
            patch.setattr(place.replace(":", "."), lambda run: write_file(run / "report.html", "page"))
        found = SHAPES[request.param](tmp_path / "home")
        found.also(patch)
        with remembering(*found.places, steps=found.steps):
            yield found


@cache
def subject_of(name: str | None) -> Subject:
    return open_subject(name)


def interrupted_everywhere(shape: Shape, folder: Path, every: int) -> None:
    """Go on from each `every`-th moment, and from each `every`-th sync that fails: always the same end."""
    shape.call(folder / "first" / "out")  # all that is remembered is known from now on
    wanted = content(folder / "first" / "out")
    found = moments(shape.call, folder / "once" / "out", folder / "moments")
    assert content(folder / "once" / "out") == wanted and len(found) > 10
    for moment in found[::every]:
        shape.call(moment)
        assert content(moment) == wanted, moment
        shutil.rmtree(moment)
    for count in range(0, 10**6, every):
        out = folder / f"full {count}" / "out"
        if not fails_when_full(shape.call, out, count):
            break
        shape.call(out)
        assert content(out) == wanted, count
        shutil.rmtree(out.parent)
    print(f"{len(found)} kills, {count} full disks")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("shape", SHAPES, indirect=True)
def test_everywhere(shape: Shape, tmp_path: Path) -> None:
    interrupted_everywhere(shape, tmp_path, 1)


@pytest.mark.parametrize("shape", FAST, indirect=True)
def test_here_and_there(shape: Shape, tmp_path: Path) -> None:
    interrupted_everywhere(shape, tmp_path, 23)

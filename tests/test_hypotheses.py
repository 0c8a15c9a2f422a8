"""The claims about families of orthogonal vectors, on maps of known answer: they fire there, and not by chance."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toys import DTYPE, flat_energy, randn, rng, rotation, unit

from experiments.lab import at_least
from experiments.lab.families import DEMO, Setup
from mi_ortho import FunctionMap, Lbfgs, OrthoSettings, Status, match, melbo_ortho

Tensor = torch.Tensor
Row = Mapping[str, Any]
SEEDS = range(20)


def module(name: str) -> Any:
    return importlib.import_module(f"experiments.{name}")


def outcomes(name: str, rows: Sequence[Row]) -> list[bool | None]:
    return [verdict.supported for verdict in module(name).judge(rows)]


def planted(name: str, rows: Sequence[Row]) -> list[bool | None]:
    """The outcomes on twenty copies of planted rows: two to four cases with equal values decide nothing."""
    parts = ("case", "seed", "prompt", "trained")
    copies = [
        {**row, **{part: row[part] + 1000 * k for part in parts if isinstance(row.get(part), int)}}
        for k in range(20)
        for row in rows
    ]
    return outcomes(name, copies)


def tagged(rows: Sequence[Row], **tags: object) -> list[Row]:
    return [{**row, **tags} for row in rows]


def family(z: Any, base: Tensor, n: int, seed: int = 0, **settings: Any) -> list[Any]:
    options = OrthoSettings(**{"solver": Lbfgs(max_steps=30), "patience": 3, **settings})
    found = melbo_ortho(match(z, base), base, seed=seed, settings=options)
    return list(islice((one for one in found if one.status is not Status.COLLAPSED), n))


def along(direction: Tensor) -> Callable[[Tensor], Tensor]:
    """A linear effect, 1 at the direction itself."""
    return lambda theta: theta @ direction / direction.square().sum()


def energy(inside: Tensor, norm: float) -> Callable[[Tensor], Tensor]:
    """A quadratic effect, 1 for any vector of this norm inside a subspace."""
    return lambda theta: (theta @ inside.mT).square().sum(-1) / norm**2


def thresholds(features: Tensor, norm: float) -> Callable[[Tensor], Tensor]:
    """Separate features, each with effect 1 at this norm and none below 0.8 of it."""
    return lambda theta: ((theta @ features.mT / norm - 0.8).clamp_min(0) / 0.2).sum(-1)


def equal_shares(n: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """n orthonormal vectors with equal components along one unit direction, and that direction."""
    turned = rotation(width, seed)
    vectors = turned[:n]
    return vectors, vectors.sum(0) / n**0.5


EFFECTS = {
    "linear": lambda seed: (equal_shares(12, 24, seed)[0], along(equal_shares(12, 24, seed)[1] / 12**0.5)),
    "quadratic": lambda seed: (rotation(24, seed)[:12], energy(rotation(24, seed)[:12], 1.0)),
    "features": lambda seed: (rotation(24, seed)[:12], thresholds(rotation(24, seed)[:12], 1.0)),
}


# --- H9 and H10: one direction, one gradient


def test_a_gradient_explains_linear_effects_only() -> None:
    name = "one_gradient_explains_every_vector"
    examine = module(name).examine
    for kind, expected in (("linear", [True, True, True]), ("quadratic", [False, False, False])):
        rows = [
            examine(effect, vectors, 1.0, rng(seed)) for seed in range(4) for vectors, effect in [EFFECTS[kind](seed)]
        ]
        assert planted(name, tagged(rows, match="kl")) == expected
        assert rows[0]["predicted"] == pytest.approx(float(kind == "linear"), abs=1e-9)  # a square has no gradient at 0
    for seed in SEEDS:
        null = [
            examine(along(randn(24, seed=80 * seed + k)), rotation(24, 70 * seed + k)[:12], 1.0, rng(k))
            for k in range(4)
        ]
        assert outcomes(name, tagged(null, match="kl"))[0] is not True


# --- H6, H7, D3, D4: means, composition, the shared direction


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("linear", [False, True, False]), ("quadratic", [True, True, True]), ("features", [True, False, False])],
)
def test_composition_tells_the_three_stories_apart(kind: str, expected: list[bool]) -> None:
    name = "effects_compose_like_a_quadratic_form"
    rows = [
        module(name).examine(effect, vectors, rng(seed))
        for seed in range(3)
        for vectors, effect in [EFFECTS[kind](seed)]
    ]
    assert planted(name, tagged(rows, match="kl", group="family")) == expected


# --- H3: norms


# --- judging alone: counts of groups


def test_standard_setting_is_that_of_the_demo() -> None:
    setup = Setup()
    assert (setup.source, setup.target, setup.radius) == (DEMO["source"], DEMO["target"], DEMO["radius"])
    assert setup.norm_cap == DEMO.get("norm_cap", 0.0) and at_least("", "", "", [], 0.0, []).supported is None


# --- H16, H20: the searches themselves


def test_restarts_recover_failed_searches_and_not_used_up_directions() -> None:
    name, rows = "restarts_recover_failed_vectors", {True: [], False: []}
    for seed in range(2):
        z, inside = flat_energy(16, 5, seed=30 * seed)
        base, effect = 2.0 * inside[0], energy(inside, 2.0)
        goal, settings = match(z, base), OrthoSettings(max_norm=2.0, solver=Lbfgs(max_steps=20))
        before = 2.0 * torch.cat([inside[1:], rotation(16, 30 * seed)[5:7]])
        lost = 2.0 * rotation(16, 30 * seed)[5:8]  # a search that ended where there is no effect
        for failed, first in ((False, before), (True, lost)):
            found = module(name).again(goal, base, first, settings, seed, None)
            rows[failed].append(
                {
                    "case": seed,
                    "group": "failed",
                    "place": len(first),
                    "before": 0.0,
                    "after": float(effect(found[None])[0]),
                }
            )
    assert planted(name, rows[True]) == [True] and planted(name, rows[False]) == [False]
    effects = torch.tensor([1.0, 0.9, 0.1, 0.8, 0.2, 0.0, 0.1, 0.7])
    assert module(name).places(effects, 2) == {"early": [0, 3], "failed": [2, 6]}
    assert outcomes(name, []) == [None]


# --- H11 to H15: what the vectors do inside


def test_ranks_of_one_position_agree_only_where_positions_do() -> None:
    name, answer = "last_token_divergence_ranks_the_vectors", 9
    size = torch.linspace(0.1, 2.0, 20, dtype=DTYPE)[:, None]
    same = [module(name).examine(size * randn(1, answer, seed=k).exp()) for k in range(3)]
    assert planted(name, 8 * same) == [True] and same[0]["halves"] == pytest.approx(1.0)
    for seed in SEEDS:
        null = [module(name).examine(randn(20, answer, seed=100 * seed + k).exp()) for k in range(3)]
        assert outcomes(name, null)[0] is not True
    assert module(name).examine(torch.ones(20, answer)) == {"last_token": None, "halves": None}


def test_overlap_behind_the_norm_is_that_of_vectors_along_the_activation() -> None:
    name, width, n = "the_norm_makes_vectors_overlap", 48, 12
    rows, null = [], []
    for seed in range(3):
        vectors, direction = equal_shares(n, width, seed)
        at = torch.stack([4.0 * direction, 5.0 * direction + 0.1 * randn(width, seed=seed)])
        # the shared part lies along the activation and the norm takes it away: what is left points apart
        rows.append(module(name).examine(3.0 * vectors, at, False, rng(seed)))
    assert all(row["family"] < row["random"] for row in rows) and planted(name, tagged(rows, match="kl")) == [False]
    for seed in range(3):
        # here it lies across: to the norm the vectors are steps in one direction
        vectors, direction = equal_shares(n, width, seed)
        rest = randn(3, width, seed=seed)
        at = 2.0 * unit(rest - (rest @ direction)[:, None] * direction)
        null.append(module(name).examine(vectors + 2 * direction, at, False, rng(seed)))
    assert planted(name, tagged(null, match="kl")) == [True]
    for seed in SEEDS:
        at = randn(3, width, seed=seed)
        drawn = [module(name).examine(2.0 * rotation(width, 60 * seed + k)[:n], at, False, rng(k)) for k in range(3)]
        assert outcomes(name, tagged(drawn, match="kl"))[0] is not True


def test_clusters_are_those_of_the_map() -> None:
    name, rows = "mid_layer_effects_form_clusters", {True: [], False: []}
    for seed in range(3):
        vectors, direction = equal_shares(12, 24, seed)
        one = FunctionMap(lambda theta, d=direction: (theta @ d)[..., None] * d + 0.001 * theta, 24)
        same = FunctionMap(lambda theta: theta + 9.0, 24)  # what is there without steering does not count
        for few, z in ((True, one), (False, same)):
            rows[few].append({"layer": 4, "target": 4, "group": "family", **module(name).examine(z, vectors)})
    assert planted(name, rows[True]) == [True, True] and planted(name, rows[False]) == [False, False]


def test_tokens_of_their_own_are_told_from_one_token() -> None:
    name, vocabulary = "each_vector_promotes_its_own_token", 300
    own, shared = [], []
    for seed in range(3):
        noise = 0.1 * randn(16, vocabulary, seed=seed)
        own.append(module(name).examine(noise + 3 * torch.eye(vocabulary, dtype=DTYPE)[:16]))
        shared.append(module(name).examine(noise * 0.1 + randn(1, vocabulary, seed=90 + seed)))
    assert planted(name, tagged(own, group="family")) == [True, True]
    assert planted(name, tagged(shared, group="family")) == [False, False]


def test_norms_that_reach_a_divergence_are_the_planted_ones() -> None:
    name, turned = "matched_directions_move_more_than_isotropic", rotation(12)
    strengths = torch.logspace(0, -2, 12, dtype=DTYPE)

    def effect(theta: Tensor) -> Tensor:
        return ((theta @ turned.mT).square() * strengths).sum(-1)

    found = [module(name).examine(effect, turned[k : k + 1], 0.25)["norm"] for k in (0, 11)]
    assert found == pytest.approx([0.5, 5.0], rel=0.02)
    assert module(name).examine(effect, turned[:1], 1e9) == {"norm": 16.0, "reached": 0.0}
    norms = {"isotropic": 6.0, "covariance": 2.0, "mixture": 2.0, "outside": 2.0, "family": 0.5}
    rows = [
        {"case": k, "group": group, "norm": norm * (1 + 0.02 * k)} for k in range(4) for group, norm in norms.items()
    ]
    assert planted(name, rows) == [True, True]
    assert planted(name, [{**row, "norm": 1.0 + 0.01 * row["case"]} for row in rows]) == [False, False]


def test_means_on_harmless_prompts_are_compared_with_single_vectors() -> None:
    name = "plain_means_work_on_harmless_prompts"

    def rows(gain: float) -> list[Row]:
        shares = {"single": (0.9, 0.8), "plain": (0.1 + gain, 0.1), "root": (0.9, 0.9)}
        return [
            {"case": k, "kind_of_mean": kind, "harmless": a + 0.01 * k, "own": b}
            for k in range(4)
            for kind, (a, b) in shares.items()
        ]

    assert planted(name, rows(0.6)) == [True] and planted(name, rows(0.0)) == [False]
    assert outcomes(name, [row for row in rows(0.6) if row["case"] == 0]) == [None]


# --- H4, H19: presence


def streams_of(code: Tensor, english: Tensor, vectors: Tensor) -> Any:
    from mi_ortho.studies.presence.contrasts import contrast
    from mi_ortho.studies.presence.streams import stream_of

    groups = {"code_own": code, "english_own": english}
    found = {
        (0, name): stream_of({8 * k + j: part for j, part in enumerate(rows.split(20))}, vectors, 200, 0)
        for k, (name, rows) in enumerate(groups.items())
    }
    return contrast(found, 0, "own_matched", 200)


def test_presence_is_found_where_planted_and_not_by_chance() -> None:
    name, width, n = "vectors_are_present_while_code_is_written", 32, 6
    rows: list[Row] = []
    for seed in range(3):
        vectors = rotation(width, seed)[:n].float()
        noise = [randn(160, width, seed=9 * seed + k).float() for k in range(2)]
        found = streams_of(noise[0] + 3.0 * vectors.sum(0), noise[1], vectors)
        rows += tagged(module(name).examine(found, vectors, 3, rng(seed)), case=seed, groups="own_matched")
    assert planted(name, rows) == [True, True, True]
    for seed in SEEDS:
        null: list[Row] = []
        for case in range(2):
            vectors = rotation(width, 500 + seed)[:n].float()
            noise = [randn(160, width, seed=77 * seed + 2 * case + k).float() for k in range(2)]
            found = streams_of(noise[0], noise[1], vectors)
            null += tagged(module(name).examine(found, vectors, 2, rng(seed)), case=case, groups="own_matched")
        assert True not in outcomes(name, null)


def test_probes_are_counted_where_many_directions_tell_the_classes_apart() -> None:
    name, width, n = "probes_after_projection_are_as_many_as_vectors", 12, 6
    rows: dict[bool, list[Row]] = {True: [], False: []}
    labels = torch.arange(400) % 40 < 20
    passages = torch.arange(400) // 20
    for seed in range(2):
        noise = randn(400, width, seed=seed)
        apart = torch.zeros(width, dtype=DTYPE)
        apart[0] = 3.0
        many = noise * torch.logspace(0, -1.5, width, dtype=DTYPE)
        vectors = torch.eye(width, dtype=DTYPE)[:n]
        for truth, x in ((True, many + labels[:, None] * 2.0), (False, noise + labels[:, None] * apart)):
            found = module(name).examine(x, labels, passages, vectors, rng(seed))
            rows[truth].append({"shuffled": False, **found})
    assert planted(name, rows[True])[0] is True and planted(name, rows[False])[0] is False


# --- H1, H17: frequency and training


def frequency_rows(count: Callable[[float], float]) -> list[Row]:
    rows: list[Row] = []
    for seed in range(3):
        for k, code in enumerate((0.005, 0.05, 0.2, 0.45, 0.49)):
            for behaviour, frequency in (("code", code), ("alien", 0.5 - code)):
                rows.append(
                    {
                        "organism": f"{code} {seed}",
                        "behaviour": behaviour,
                        "case": 0,
                        "trained": seed,
                        "frequency": frequency,
                        "own": count(frequency),
                        "own_moved": float(k % 3),
                        "random": 4.0,
                        "random_moved": 1.0,
                    }
                )
    return rows


def test_frequency_is_found_where_it_acts() -> None:
    name = "frequent_behaviours_have_more_vectors"
    assert planted(name, frequency_rows(lambda f: 20 * f)) == [True]
    assert planted(name, frequency_rows(lambda f: -20 * f)) == [False]
    for seed in SEEDS:
        noise = rng(seed)
        null = frequency_rows(lambda f, noise=noise: float(torch.randn(1, generator=noise)))
        assert outcomes(name, null)[0] is not True


def test_displacement_is_taken_out_of_the_correlation() -> None:
    partial = module("lab.dialled").partial_correlation
    assert partial([(k, k, 1.0) for k in range(6)]) == pytest.approx(1.0)
    assert partial([(k, k, k) for k in range(6)]) is None and partial([(1, 1, 1)] * 3) is None


def test_training_is_found_where_it_acts() -> None:
    name = "early_checkpoints_have_more_vectors"

    def rows(sign: int) -> list[Row]:
        return [
            {
                "organism": f"s{step}",
                "behaviour": behaviour,
                "case": 0,
                "step": step,
                "own": sign * step + bump,
                "own_moved": 1.0,
                "random": 3,
                "random_moved": 1.0,
            }
            for behaviour in ("code", "alien")
            for step, bump in ((28, 0), (51, 0), (92, sign * 90), (167, 0), (303, 0))
        ]

    assert planted(name, rows(-1)) == [True] and planted(name, rows(1)) == [False]


@pytest.fixture
def dialled(tmp_path: Any, monkeypatch: Any) -> Any:
    """The lab's module with a training that only writes down what it was asked for."""
    import json

    from experiments.lab import Bench, dialled
    from mi_ortho import start

    def train_set(folder: Any, wanted: Any, report: Any, count: Any) -> None:
        folder.mkdir(exist_ok=True)
        rows = [{"name": each.name, "seed": each.recipe.seed, "step": each.step, "sha256": "0"} for each in wanted]
        (folder / "dial.json").write_text(json.dumps({"organisms": rows}))
        made.append((folder.name, [each.name for each in wanted], count))

    made: list[Any] = []
    said: list[str] = []
    nobody: Any = None
    monkeypatch.setattr(dialled, "train_set", train_set)
    monkeypatch.setattr(dialled, "WAIT", 0.01)
    with start(tmp_path / "runs", "claim", {}) as run:
        yield dialled, Bench(run, nobody, said.append), tmp_path / "runs", made, said


def test_a_missing_set_of_organisms_names_the_command_that_makes_it(dialled: Any, tmp_path: Any) -> None:
    lab, bench, _, made, _ = dialled
    with pytest.raises(ValueError, match="python -m experiments.organism dial --out"):
        lab.open_set(bench, lab.Dialled(dial=str(tmp_path / "absent")), [])
    assert not made


def test_a_set_is_trained_where_none_is_named_and_once(dialled: Any) -> None:
    lab, bench, _, made, said = dialled
    early = module("early_checkpoints_have_more_vectors")
    few = early.along_training(early.Config())
    assert len(few) == 8 and few[-1].step == early.Config().steps and few[0].step < few[-1].step
    assert [row["name"] for row in lab.open_set(bench, early.Config(), few).rows] == [each.name for each in few]
    assert lab.open_set(bench, early.Config(), few).rows and len(made) == 1  # a second look trains nothing
    assert made == [("dial", [each.name for each in few], None)] and "about 2 minutes" in said[0]
    short = early.along_training(early.SMOKE)
    lab.open_set(bench, early.SMOKE, short)
    assert made[-1] == ("dial-8-steps", [each.name for each in short], 0)  # beside the standard set, never in it


def test_who_needs_a_set_that_another_trains_waits_until_it_is_there(dialled: Any, monkeypatch: Any) -> None:
    lab, bench, out, made, said = dialled
    early = module("early_checkpoints_have_more_vectors")
    wanted = early.along_training(early.Config())
    with lab.trying(out / "dial" / "set") as mine:
        assert mine
        sleeps: list[float] = []

        def sleep(seconds: float) -> None:
            sleeps.append(seconds)
            if len(sleeps) == 3:
                lab.train_set(out / "dial", wanted, None, "another")

        monkeypatch.setattr(lab.time, "sleep", sleep)
        lab.open_set(bench, early.Config(), wanted)
    assert [count for _, _, count in made] == ["another"] and len(sleeps) == 3
    assert len(said) == 1 and "waiting for another worker" in said[0]


# --- families are searched for once


def test_an_interrupted_family_continues_and_a_finished_one_is_read(tmp_path: Any, monkeypatch: Any) -> None:
    from experiments.lab import Bench, families
    from mi_ortho import start

    z, inside = flat_energy(12, 6)
    base = 2.0 * inside[0]
    goal, settings = match(z, base), OrthoSettings(max_norm=2.0, patience=2, solver=Lbfgs(max_steps=10))
    somebody: Any = SimpleNamespace(device=torch.device("cpu"))
    with start(tmp_path, "claim", {}) as run:
        bench = Bench(run, somebody)
        whole = families.grown(bench, {"a": 1}, goal, base, 5, settings, 0)
        part = families.grown(bench, {"a": 2}, goal, base, 2, settings, 0)
        rest = families.grown(bench, {"a": 2}, goal, base, 5, settings, 0)
        assert torch.equal(part.vectors, whole.vectors[:2])
        assert torch.allclose(rest.vectors, whole.vectors, atol=1e-6) and len(whole.vectors) == 5
        ended = families.grown(bench, {"a": 1}, goal, base, 12, settings, 0)
        monkeypatch.setattr(families, "melbo_ortho", None)
        assert torch.equal(families.grown(bench, {"a": 1}, goal, base, 12, settings, 0).vectors, ended.vectors)
        assert families.file_of(bench, {"a": 1}).parent == tmp_path / "families"
        assert families.stored(bench, {"b": 1}, lambda: {"x": torch.ones(1)})["x"] == 1
        assert families.stored(bench, {"b": 1}, lambda: {"x": torch.zeros(1)})["x"] == 1


def test_a_base_chosen_by_other_rules_is_another_one(tmp_path: Any, monkeypatch: Any) -> None:
    from experiments.lab import families
    from mi_ortho.behaviours import GENERIC_MODES, Mode, Modes

    def key(modes: Modes) -> dict[str, object]:
        subject: Any = SimpleNamespace(digest="w", name=None, modes=modes)
        case: Any = SimpleNamespace(bench=SimpleNamespace(subject=subject), setup=Setup(), texts=("a",))
        return families.key_of(case)

    rules = Modes((Mode("code", "python"),), "other")
    assert key(rules) == key(Modes((Mode("code", "python"),), "other"))
    others = (GENERIC_MODES, replace(rules, default="none"), Modes((Mode("code", "regex", "def"),), "other"))
    assert all(key(other) != key(rules) for other in others)
    for name in ("__init__.py", "code.py"):
        (tmp_path / name).write_text(f"# {name}\n")
    monkeypatch.setattr(families.behaviours, "__file__", str(tmp_path / "__init__.py"))
    before = key(rules)
    (tmp_path / "code.py").write_text("# judges differently\n")
    assert before != key(rules)


# --- on the embedded model, in the smallest setting


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    from mi_ortho import open_subject

    return open_subject(), tmp_path_factory.mktemp("runs")


def family_experiments() -> list[str]:
    from experiments.lab.claims import names

    return [name for name in names() if issubclass(module(name).Config, Setup)]


@pytest.mark.slow
@pytest.mark.parametrize("name", family_experiments())
def test_family_experiment_runs_and_draws(name: str, embedded: tuple[Any, Any]) -> None:
    from experiments.lab.claims import load
    from experiments.lab.performing import perform

    subject, out = embedded
    found = load(name)
    run = perform(found, found.smoke, out, subject=subject, fresh=False, say=lambda line: None, track=lambda *_: None)
    rows = [row for row in run.records() if row.get("kind") != "cost"]
    assert run.finished and rows and (run.path / "report.html").stat().st_size > 10_000
    assert all(verdict.value is None or verdict.value == verdict.value for verdict in found.judge(rows))

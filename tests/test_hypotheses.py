"""The claims about families of orthogonal vectors, on maps of known answer: they fire there, and not by chance."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toys import flat_energy, rotation

from experiments.lab import at_least
from experiments.lab.families import DEMO, Setup
from mi_ortho import Lbfgs, OrthoSettings, match

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


def equal_shares(n: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """n orthonormal vectors with equal components along one unit direction, and that direction."""
    turned = rotation(width, seed)
    vectors = turned[:n]
    return vectors, vectors.sum(0) / n**0.5


# --- judging alone: counts of groups


def test_standard_setting_is_that_of_the_demo() -> None:
    setup = Setup()
    assert (setup.source, setup.target, setup.radius) == (DEMO["source"], DEMO["target"], DEMO["radius"])
    assert setup.norm_cap == DEMO.get("norm_cap", 0.0) and at_least("", "", "", [], 0.0, []).supported is None


# --- H16: the searches themselves


# --- H11 to H15: what the vectors do inside


# --- H1, H17: frequency and training


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
    few = lab.balanced(early.Config(seeds=1))
    assert len(few) == 8 and few[-1].step == early.Config().steps and few[0].step < few[-1].step
    assert [row["name"] for row in lab.open_set(bench, early.Config(), few).rows] == [each.name for each in few]
    assert lab.open_set(bench, early.Config(), few).rows and len(made) == 1  # a second look trains nothing
    assert made == [("dial", [each.name for each in few], None)] and "about 2 minutes" in said[0]
    short = lab.balanced(early.SMOKE)
    lab.open_set(bench, early.SMOKE, short)
    assert made[-1] == ("dial-8-steps", [each.name for each in short], 0)  # beside the standard set, never in it


def test_who_needs_a_set_that_another_trains_waits_until_it_is_there(dialled: Any, monkeypatch: Any) -> None:
    lab, bench, out, made, said = dialled
    early = module("early_checkpoints_have_more_vectors")
    wanted = lab.balanced(early.Config(seeds=1))
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

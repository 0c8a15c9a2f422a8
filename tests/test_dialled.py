"""Sets of small organisms: trained once, by one worker, and never where a set is named."""

import importlib
from typing import Any

import pytest


def module(name: str) -> Any:
    return importlib.import_module(f"experiments.{name}")


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

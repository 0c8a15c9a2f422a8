"""A family followed to its end: searched and measured in portions, and cut anywhere the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import tiny_subject

import mi_ortho as mo
from mi_ortho.runs.directory import Run, open_run, summary_of
from mi_ortho.runs.rows import VOLATILE, pick
from mi_ortho.steering import measure_graded
from mi_ortho.studies.family import controls, job, stages, study
from mi_ortho.studies.family.config import FamilyConfig
from mi_ortho.studies.family.controls import displaced_as

CONFIG = FamilyConfig(
    prompts=("river stone",),
    held_out=("cloud river",),
    source=0,
    target=2,
    n=10,
    n_kl=0,
    candidates=1,
    random_bases=2,
    displaced_bases=2,
    until_lost=3,
    shrink=False,
    max_steps=12,
    answer_tokens=4,
    max_new_tokens=4,
)
KEEPS = 3  # vectors, after which none does


class Cut(Exception):
    """An interruption."""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FamilyConfig:
    """A family whose first three vectors keep the behaviour, measured two by two."""
    monkeypatch.setattr(study, "load_subject", lambda *args, **options: tiny_subject())
    monkeypatch.setattr("mi_ortho.studies.family.page.family_report", lambda run: None)
    vector = (torch.randn(5, 32, generator=torch.Generator().manual_seed(3)) * 3)[2:3]
    mo.save_vectors(mo.SteeringVectors(vector, mo.resid_post(0), "tiny"), tmp_path / "base.safetensors")
    for module in (controls, job, stages):
        monkeypatch.setattr(module, "BATCH", 2)
    record = job.record_measurements

    def planted(
        one: Any, yard: Any, vectors: torch.Tensor, label: dict[str, Any], title: str, held_out: Any, _: Any
    ) -> None:
        def how(yard: Any, part: torch.Tensor, held_out: Any = ()) -> list[dict[str, Any]]:
            first = next(k for k, vector in enumerate(vectors) if torch.equal(vector, part[0]))
            rows = measure_graded(yard, part, held_out)
            return [{**row, "keeps": first + k < KEEPS} for k, row in enumerate(rows)]

        record(one, yard, vectors, label, title, held_out, how)

    monkeypatch.setattr(stages, "record_measurements", planted)
    return replace(CONFIG, base=str(tmp_path / "base.safetensors"))


def run_of(config: FamilyConfig, at: Path, cut_at: int = -1) -> Run:
    calls = iter(range(10**6))

    def track(stage: str, done: int, total: int) -> None:
        if next(calls) == cut_at:
            raise Cut

    return study.family(config, at.parent, fresh=False, at=at, say=lambda line: None, track=track)


def rows_of(run: Run) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in VOLATILE} for row in run.records()]


def test_a_family_ends_with_the_portion_that_lost_the_behaviour(config: FamilyConfig, tmp_path: Path) -> None:
    run = run_of(config, tmp_path / "a")
    family = pick(run.records(), kind="vector")
    for name in ("random_base", "random_base_displaced"):
        assert len(pick(run.records(), kind="control", control=name)) == 2, name
    # 3 keep it; after 6 the last three do not, and only portions of two are looked at
    assert [row["keeps"] for row in family] == [True] * 3 + [False] * 3
    assert len(pick(run.records(), kind="search")) == len(open_run(run.path).load_rows("vectors")["activation"]) == 6
    assert len(pick(run.records(), kind="control", control="isotropic")) == 6


def test_a_family_cut_anywhere_ends_where_it_would_have(config: FamilyConfig, tmp_path: Path) -> None:
    config = replace(config, random_bases=0, displaced_bases=0)
    whole = rows_of(run_of(config, tmp_path / "whole"))
    # while the second portion is searched for, while the third is measured, and among the controls of the whole family
    for cut_at in (2, 6, 10, 16):
        with pytest.raises(Cut):
            run_of(config, tmp_path / str(cut_at), cut_at)
        assert rows_of(run_of(config, tmp_path / str(cut_at))) == whole


def test_small_sets_of_controls_are_measured_together(
    config: FamilyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of one batch are those of batches of their own, within rounding, and each its own control's."""
    runs = []
    for batch in (2, 32):
        monkeypatch.setattr(controls, "BATCH", batch)
        one = replace(config, random_bases=0, displaced_bases=0, until_lost=0, n=2)
        runs.append(pick(run_of(one, tmp_path / str(batch)).records(), kind="control"))
    for ours, theirs in zip(*runs, strict=True):
        same = ("control", "index", "mode", "text", "keeps")
        assert [ours[key] for key in same] == [theirs[key] for key in same]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    assert len({row["loss"] for row in runs[1]}) == len(runs[1]) == 10


def test_the_factor_moves_activations_as_far_as_the_base() -> None:
    class Cubic:
        d_model = 3

        def __call__(self, theta: torch.Tensor) -> torch.Tensor:
            return theta + theta**3

    base, other = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    assert displaced_as(Cubic(), base, other) == pytest.approx(2.0, rel=2e-3)
    assert displaced_as(Cubic(), base * 1e6, other) == 32.0


def test_fewer_controls_are_those_of_vectors_spread_over_the_family(config: FamilyConfig, tmp_path: Path) -> None:
    config = replace(config, random_bases=0, displaced_bases=0, until_lost=0, n=5)
    every = pick(run_of(config, tmp_path / "every").records(), kind="control")
    run = run_of(replace(config, controls=3), tmp_path / "few")
    few = pick(run.records(), kind="control")
    assert {row["index"] for row in few} == {0, 2, 4} and len(few) == 15
    by = {(row["control"], row["index"]): row for row in every}
    for row in few:
        whole = by[row["control"], row["index"]]
        assert (row["text"], row["keeps"]) == (whole["text"], whole["keeps"])
        assert row["norm"] == pytest.approx(whole["norm"]) and row["loss"] == pytest.approx(whole["loss"], rel=1e-4)
    assert "Of 3 random vectors" in summary_of(run)["headline"] or "known" in summary_of(run)["headline"]

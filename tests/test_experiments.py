"""The experiments: complete, resumable, and right where the answer is known before they speak about a model."""

import dataclasses
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import rng, rotation, spread

import experiments
from experiments.__main__ import main
from experiments.lab import Bench, Lines, Ranking
from experiments.lab.claims import Experiment, changed, load, names, parse, read
from experiments.lab.performing import cost_of, finished_run, judge_again, perform
from experiments.lab.results import command, write_results
from mi_ortho import LinearMap, Verdict, open_run, random_vectors
from mi_ortho.pages import Estimate, Panel, Series
from mi_ortho.pages.text import number
from mi_ortho.stats import decide, judge, mean
from mi_ortho.studies.shared.subject import Subject, Texts

FOLDER = Path(experiments.__file__).parent


def module(name: str) -> Any:
    return importlib.import_module(f"experiments.{name}")


# --- every experiment has every part


def test_every_file_is_in_the_order_and_the_other_way_round() -> None:
    files = {path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("__")}
    assert set(names()) == files and len(set(names())) == len(names())


@pytest.mark.parametrize("name", names())
def test_experiment_is_complete(name: str) -> None:
    found = load(name)
    config = type(found.config)
    assert dataclasses.is_dataclass(config) and config.__dataclass_params__.frozen  # pyright: ignore
    assert type(found.smoke) is config and found.smoke != found.config
    assert found.config.model == found.smoke.model and found.config.model in (None, "embedded/naive")
    assert found.predictions is not None
    assert found.claim.endswith("?") and set(found.parts) - {"Source", "Changed after a first run"} == {
        one.question for one in found.predictions.each.values()
    }
    assert found.judge([]) and all(verdict.supported is None for verdict in found.judge([]))


def test_a_file_that_lacks_a_part_is_refused() -> None:
    whole = module(names()[0])
    broken = type(whole)("experiments.broken", "A claim.\n\nSource: x.")
    with pytest.raises(ValueError, match="without Config, SMOKE, NEEDS, run, readings; expected"):
        read(broken)
    with pytest.raises(ValueError, match="expected one of"):
        load("no_such_claim")
    assert parse("A claim.\n\nSource: a\n  b")[1] == {"Source": "a b"}


def test_settings_are_read_as_the_fields_own_types() -> None:
    config = changed(load("derivatives_are_local").config, ["bases=3", "radius=2.5", "behaviours=code,help"])
    assert (config.bases, config.radius, config.behaviours) == (3, 2.5, ("code", "help"))
    for wrong in ("nothing=1", "bases", "bases=many"):
        with pytest.raises(ValueError, match="got --set"):
            changed(config, [wrong])


# --- running, resuming, rendering


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    """Of a planted experiment."""

    model: str | None = None
    steps: tuple[int, ...] = (0, 1, 2, 3)


def toy(fail_at: int | None = None, seen: list[int] | None = None) -> Experiment:
    def run(config: ToyConfig, bench: Bench) -> None:
        for step in config.steps:
            if not bench.has(step=step):
                if step == fail_at:
                    raise KeyboardInterrupt
                bench.record(step=step, value=1.0 + 0.01 * step)
                (seen if seen is not None else []).append(step)

    def judged(rows: Any) -> list[Verdict]:
        measured = mean([row["value"] for row in rows])
        decision = decide(measured, 0.5)
        return [judge("It is one", "at least 0.5", "value | of <b>rows", measured, 0.5, 0.0, decision)]

    def figures(rows: Any) -> list[Any]:
        values = [row["value"] for row in rows]
        return [
            Ranking("Values", "By step.", tuple(Estimate("x", value) for value in values), 0.5),
            Lines("By step.", Panel("Curve", "value"), (Series("value", range(len(values)), values),)),
        ]

    parts = {"Source": "here.", "Prediction": "at least 0.5.", "Control": "zero.", "Refuted if": "below."}
    small = ToyConfig(steps=(0,))
    return Experiment("toy", "It is one", parts, ToyConfig(), small, run, judged, figures, Path(__file__))


def go(experiment: Experiment, out: Path, config: Any = None, fresh: bool = False) -> Any:
    nobody: Any = object.__new__(Subject)  # a planted experiment needs no model
    object.__setattr__(nobody, "device", torch.device("cpu"))
    object.__setattr__(nobody, "texts", Texts((), (), {}))
    return perform(
        experiment,
        config or experiment.config,
        out,
        subject=nobody,
        fresh=fresh,
        say=lambda line: None,
        track=lambda stage, done, total: None,
    )


def test_interrupted_run_continues_and_a_finished_one_is_left_alone(tmp_path: Path) -> None:
    seen: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        go(toy(fail_at=2, seen=seen), tmp_path)
    run = go(toy(seen=seen), tmp_path)
    assert seen == [0, 1, 2, 3] and run.finished
    assert len([row for row in run.records() if row.get("kind") == "cost"]) == 2
    again = go(toy(seen=seen), tmp_path)
    assert again.path == run.path and seen == [0, 1, 2, 3]
    assert go(toy(seen=seen), tmp_path, fresh=True).path != run.path and len(seen) == 8
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["headline"] == "Supported: It is one." and summary["seconds"] > 0
    parts = [row["cpu_seconds"] for row in run.records() if row.get("kind") == "cost"]
    assert summary["cpu_seconds"] == pytest.approx(sum(parts)) and all(part > 0 for part in parts)
    assert (run.path / "source.py").is_file()
    report = (run.path / "report.html").read_text(encoding="utf-8")
    assert "Refuted if" in report and "var(--ink)" in report and "Rows: measured" in report


def test_only_a_run_of_the_same_configuration_counts(tmp_path: Path) -> None:
    go(toy(), tmp_path, ToyConfig(steps=(0, 1)))
    assert finished_run(toy(), ToyConfig(), tmp_path) is None
    assert finished_run(toy(), ToyConfig(steps=(0, 1)), tmp_path) is not None


def test_result_pages_say_only_what_runs_printed(tmp_path: Path) -> None:
    run = go(toy(), tmp_path / "runs", ToyConfig(steps=(0, 2)))
    files = write_results([(toy(), open_run(run.path))], tmp_path / "results")
    assert {path.name for path in files} == {
        "toy.md",
        "toy-embedded-1.svg",
        "toy-embedded-2.svg",
        "results.json",
        "index.md",
    }
    page, index = ((tmp_path / "results" / name).read_text() for name in ("toy.md", "index.md"))
    assert "**embedded: undecided.** value | of <b>rows: 1.01" in page and "**Refuted if.** below." in page
    assert "python -m experiments toy --set steps=0,2" in page and "toy-embedded-2.svg" in page
    costs = json.loads((run.path / "summary.json").read_text())
    cost = f"Cost: {number(costs['seconds'])} s ({number(costs['cpu_seconds'])} s of CPU)"
    assert cost in page and "its thresholds lay in the experiment's file" in page
    (run.path / "summary.json").write_text(json.dumps({**costs, "cpu_seconds": None}))  # a run made before it was kept
    assert cost_of(run) == f"{number(costs['seconds'])} s"
    assert "| [It is one](toy.md) | **undecided** 1.01" in index and "1 predictions on 1 models" in index
    again = write_results([], tmp_path / "results")  # from results.json alone
    assert (tmp_path / "results" / "toy.md") in again and (tmp_path / "results" / "toy.md").read_text() == page


def test_a_finished_run_says_what_its_rows_say_now(tmp_path: Path) -> None:
    """Whatever judges rows later than the run did judges them for its report and for the pages alike."""
    run = go(toy(), tmp_path)
    whole = json.loads((run.path / "summary.json").read_text())
    old = {**whole, "headline": "Not supported.", "verdicts": [{**whole["verdicts"][0], "value": 7.0}]}
    (run.path / "summary.json").write_text(json.dumps(old))
    (run.path / "report.html").write_text("old")
    judge_again(toy(), open_run(run.path))
    assert json.loads((run.path / "summary.json").read_text()) == whole
    assert "Rows: measured" in (run.path / "report.html").read_text("utf-8")
    (run.path / "report.html").write_text("untouched")
    judge_again(toy(), open_run(run.path))  # nothing to change
    assert (run.path / "report.html").read_text() == "untouched"


def test_command_of_a_standard_run_names_no_setting(tmp_path: Path) -> None:
    assert command(toy(), go(toy(), tmp_path)) == "python -m experiments toy"


def test_program_lists_and_refuses(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--list"]) == 0
    assert all(name in capsys.readouterr().out for name in names()[:1])
    assert main(["no_such_claim"]) == 2
    assert "expected one of" in capsys.readouterr().err
    assert main([names()[0], "--set", "nothing=1", "--out", str(tmp_path)]) == 2
    assert main(["results", "--out", str(tmp_path / "empty"), "--to", str(tmp_path / "pages")]) == 2
    assert "no finished run" in capsys.readouterr().err


# --- ground truth: the claim is found where it was planted and not where it was not


def outcomes(name: str, rows: Sequence[Mapping[str, Any]]) -> list[bool | None]:
    return [verdict.supported for verdict in load(name).judge(rows)]


def tagged(rows: list[dict[str, Any]], **tags: object) -> list[Mapping[str, Any]]:
    return [{**row, **tags} for row in rows]


def test_token_directions_are_told_from_random_ones() -> None:
    name, unembedding = "late_output_directions_are_tokens", torch.randn(48, 400, generator=rng(1))
    rows: dict[bool, list[Mapping[str, Any]]] = {True: [], False: []}
    for prompt in range(12):
        for target in range(2, 8):
            noise = random_vectors(6, 48, 1.0, rng(100 * prompt + target))
            columns = torch.nn.functional.normalize(unembedding[:, 7 * prompt : 7 * prompt + 6].mT, dim=-1)
            for truth, outputs in ((True, noise + 0.4 * (target - 2) * columns), (False, noise)):
                found = module(name).examine(outputs, unembedding, rng(100 * prompt + target))
                rows[truth].append({"prompt": prompt, "target": target, **found})
    assert outcomes(name, rows[True]) == [True, True]
    assert True not in outcomes(name, rows[False])


def test_overlap_is_found_where_planted_and_never_by_chance() -> None:
    name, width, k = "local_and_global_jacobians_agree", 24, 4

    def maps(seed: int, same: bool) -> tuple[LinearMap, LinearMap]:
        right = rotation(width, seed)
        other = right if same else rotation(width, seed + 1000)
        sizes = torch.diag(spread(width, 100.0))
        zero = torch.zeros(width)
        near, far = rotation(width, seed + 1) @ sizes @ right, rotation(width, seed + 2) @ sizes @ other
        return LinearMap(near.float(), zero), LinearMap(far.float(), zero)

    def rows(first: int, same: bool) -> list[Mapping[str, Any]]:
        every: list[Mapping[str, Any]] = []
        for network, shift in (("trained", 0), ("shuffled", 3), ("shuffled1", 5)):
            for p in range(20):
                pair = maps(7 * (first + p) + shift, same and not shift)
                found = module(name).examine(*pair, k, rng(p))
                every.append({"network": network, "source": 1, "prompt": p, **found})
        return every

    assert outcomes(name, rows(0, True)) == [True, True]
    assert not any(True in outcomes(name, rows(30 * seed, False)) for seed in range(3))
    swapped = [
        {**row, "network": {"trained": "shuffled", "shuffled": "trained"}.get(str(row["network"]), "shuffled1")}
        for row in rows(0, True)
    ]
    assert True not in outcomes(name, swapped)


# --- on the embedded model


@pytest.mark.parametrize("name", ["late_output_directions_are_tokens"])
def test_smallest_setting_runs_on_the_embedded_model(name: str, tmp_path: Path) -> None:
    assert main([name, "--smoke", "--out", str(tmp_path)]) == 0
    (path,) = (tmp_path / name).glob("*/summary.json")
    assert json.loads(path.read_text())["verdicts"] and (path.parent / "report.html").is_file()


@pytest.mark.slow
def test_all_smallest_settings_run_and_give_result_pages(tmp_path: Path) -> None:
    assert main(["all", "--smoke", "--out", str(tmp_path)]) == 0
    assert main(["results", "--smoke", "--out", str(tmp_path), "--to", str(tmp_path / "results")]) == 0
    assert {path.stem for path in (tmp_path / "results").glob("*.md")} == {"index", *names()}


def test_a_model_that_lacks_layers_is_refused_before_any_measurement(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["derivatives_are_local", "--smoke", "--set", "target=60", "--out", str(tmp_path)]) == 2
    assert "choose others with --set" in capsys.readouterr().err

"""What a preset should take, from what standard runs took."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.__main__ import main
from experiments.lab.bases import Place
from experiments.lab.claims import load
from experiments.lab.expected import COPIES, ROWS, TOKENS, expected, factor, gigabytes, page
from experiments.lab.presets import read_preset

PRESET = read_preset("qwen1.5-1.8b-chat")


def run_of(folder: Path, **summary: object) -> Any:
    (folder / "summary.json").write_text(json.dumps(summary))
    return SimpleNamespace(path=folder)


def test_families_cost_by_their_blocks_and_vectors() -> None:
    config = replace(Place(), most=24)
    depth, bases = 8 / (config.target - config.source), config.bases * len(config.behaviours)
    assert factor(config, PRESET) == pytest.approx(depth * 1558 / (24 * bases))
    assert factor(replace(config, most=48), PRESET) == pytest.approx(factor(config, PRESET) / 2)
    whole = factor(replace(config, most=126), PRESET)  # followed to its end: as many as there are dimensions left
    assert factor(Place(), PRESET) == pytest.approx(whole)


def test_what_has_no_slice_costs_by_the_blocks_of_the_model() -> None:
    assert factor(load("layers_share_directions").config, PRESET) == 3.0


def test_organisms_cost_what_they_cost_here() -> None:
    assert factor(load("early_checkpoints_have_more_vectors").config, PRESET) == 1.0


def test_memory_is_weights_and_cache() -> None:
    weights = 2 * 151_936 * 2048 + 24 * (4 * 2048**2 + 3 * 2048 * 5504 + 3 * 2048 + 2 * 2048) + 2048
    assert PRESET.network["parameters"] == weights  # embeddings twice, blocks with biases of q, k and v, norms
    assert gigabytes(PRESET) == pytest.approx(4e-9 * (COPIES * weights + 2 * 24 * ROWS * TOKENS * 2048))


def test_hours_are_cpu_seconds_times_the_factor(tmp_path: Path) -> None:
    one = load("layers_share_directions")
    (found,) = expected({one: run_of(tmp_path, seconds=99.0, cpu_seconds=600.0)}, PRESET)
    assert found.hours == pytest.approx(0.5)
    text = page([found], PRESET)
    assert f"| 0.5 | 600 | 3 | {one.name} |" in text and "Calculated, not measured" in text
    (found,) = expected({one: run_of(tmp_path, seconds=99.0, cpu_seconds=None)}, PRESET)
    assert found.seconds == 99.0


def test_what_cannot_be_calculated_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="without a table network"):
        expected({}, replace(PRESET, network={}))
    assert main(["expected"]) == 2 and "without --preset" in capsys.readouterr().err
    assert main(["expected", "--preset", PRESET.source, "--out", str(tmp_path)]) == 2
    assert "no finished standard run" in capsys.readouterr().err

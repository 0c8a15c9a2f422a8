"""What a preset should take on one GPU: a calculation from what the embedded model took on a CPU, no measurement.

Assumed, and not measured: that the embedded model's time is mostly the cost of starting operations, and that a GPU
which runs one vector at a time on one prompt pays about as much for each, whatever their size. Then an experiment takes
as long as it took here, times the blocks its operations go through, times the vectors that are searched for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.lab.bases import Place
from experiments.lab.claims import Experiment
from experiments.lab.dialled import Dialled
from experiments.lab.performing import cpu_seconds
from experiments.lab.presets import Preset
from mi_ortho import Run
from mi_ortho.pages import number
from mi_ortho.runs import write_file

BLOCKS, WIDTH = 8, 128  # of the embedded models
COPIES = 3  # of the weights at once: the model, one without training, one with shuffled weights
ROWS, TOKENS = 64, 128  # completions written at once, and how long they get with their prompt
BYTES = 4  # of a float32


@dataclass(frozen=True)
class Expected:
    """An experiment under a preset: CPU seconds of the standard run, and how many times as long it should take."""

    name: str
    seconds: float
    factor: float

    @property
    def hours(self) -> float:
        """On one GPU."""
        return self.seconds * self.factor / 3600


def expected(runs: Mapping[Experiment, Run], preset: Preset) -> list[Expected]:
    """One entry for each experiment with a finished standard run.

    Raises:
        ValueError: the preset does not say how large its model is, or no run is finished.
    """
    if not preset.network:
        raise ValueError(
            f"got preset {preset.source} without a table network; expected blocks, parameters and width of its model; "
            "add it"
        )
    if not runs:
        raise ValueError("got no finished standard run; expected some to calculate from; run python -m experiments all")
    return [Expected(one.name, cpu_seconds(run), factor(one.config, preset)) for one, run in runs.items()]


def factor(config: Any, preset: Preset) -> float:
    """How many times as long as the standard run: depth of the slice, or of the model, times vectors searched for."""
    if isinstance(config, Dialled):  # its organisms stay as they are
        return 1.0
    other = preset.configured(config, smoke=False)
    if hasattr(config, "source") and hasattr(config, "target"):
        depth = (other.target - other.source) / (config.target - config.source)
    else:
        depth = preset.network["blocks"] / BLOCKS
    return depth * _vectors(other) / _vectors(config)


def gigabytes(preset: Preset) -> float:
    """Copies of the weights in float32, and the keys and values of the completions that are written at once."""
    size = preset.network
    cache = 2 * size["blocks"] * ROWS * TOKENS * size["width"]
    return BYTES * (COPIES * size["parameters"] + cache) / 1e9


def write_expected(runs: Mapping[Experiment, Run], preset: Preset, folder: Path) -> Path:
    """Write the page of a preset; returns its path."""
    write_file(folder / f"expected-{preset.source}.md", page(expected(runs, preset), preset))
    return folder / f"expected-{preset.source}.md"


def page(entries: list[Expected], preset: Preset) -> str:
    """The calculation as Markdown, longest first."""
    total = sum(one.hours for one in entries)
    rows = [
        f"| {number(one.hours)} | {number(one.seconds)} | {number(one.factor)} | {one.name} |"
        for one in sorted(entries, key=lambda one: -one.hours)
    ]
    return "\n".join(
        [
            f"# What {preset.source} should take on one GPU",
            "",
            "**Calculated, not measured.** "
            + " ".join((__doc__ or "").split("\n\n", 1)[1].split())
            + " It is too low where a GPU is busy with wide matrices, and too high where `--workers` share one.",
            "",
            f"All experiments together: {number(total)} hours. Memory: {number(gigabytes(preset))} GB "
            f"for {COPIES} copies "
            f"of the weights in float32 and the cache of {ROWS} completions of {TOKENS} tokens.",
            "",
            "```",
            f"python -m experiments expected --preset {preset.source}",
            "```",
            "",
            "| Hours | CPU seconds here | times | Experiment |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _vectors(config: Any) -> int:
    if not isinstance(config, Place):
        return 1
    return config.bases * len(config.behaviours) * (config.most or WIDTH - 2)

"""`--source auto --target auto`: the layers and the norm of the newest finished atlas of the same model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mi_ortho.cli import main
from mi_ortho.runs.directory import RunError, open_run, start
from mi_ortho.studies.family.config import FamilyConfig
from mi_ortho.studies.family.study import auto_layers
from mi_ortho.studies.shared.best_layers import best_layers

BEST = {"source": 3, "target": 6, "radius": 13.5, "norm": 1.2, "behaviours": ["code"]}
AUTO = FamilyConfig(source="auto", target="auto", radius=2.0)


def planted(out: Path, best: object, model: str | None = None, seed: int = 0) -> Path:
    place = out / "atlas" / str(seed)  # of runs begun in one second the larger number counts as newer
    with start(out, "atlas", {"model": model, "seed": seed}, at=place) as run:
        run.summary({"headline": "Blocks.", "best": best})
    return run.path


def test_layers_and_norm_are_those_of_the_newest_atlas_of_the_model(tmp_path: Path) -> None:
    said: list[str] = []
    planted(tmp_path, {**BEST, "source": 1}, seed=0)
    newest = planted(tmp_path, BEST, seed=1)
    planted(tmp_path, {**BEST, "source": 5}, model="another", seed=2)
    assert auto_layers(AUTO, tmp_path, said.append) == {"source": 3, "target": 6, "radius": 13.5}
    assert said == [f"blocks 3 to 6, norm 13.5: the best of {newest}"]
    assert best_layers(tmp_path, "another").source == 5
    assert auto_layers(replace(AUTO, radius="auto"), tmp_path, said.append)["radius"] == "auto"


def test_numbers_are_left_as_they_are(tmp_path: Path) -> None:
    assert auto_layers(FamilyConfig(source=1, target=2), tmp_path, print) == {}


@pytest.mark.parametrize("best", [None, {}, {"source": 3}, "3", {**BEST, "source": "x"}, {**BEST, "radius": []}])
def test_an_atlas_that_recommends_nothing_is_one_line(tmp_path: Path, best: object) -> None:
    planted(tmp_path, best)
    with pytest.raises(RunError, match="recommends no layers"):
        best_layers(tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--source", "auto", "--target", "auto"], "run `mi-ortho atlas` first"),
        (["--source", "auto"], "expected both auto"),
        (["--source", "first"], "source"),
    ],
)
@pytest.mark.parametrize("command", ["family", "melbo"])
def test_mistakes_are_one_line(command: str, words: list[str], said: str, capsys: Any, tmp_path: Path) -> None:
    assert main([command, *words, "--out", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line


def test_the_run_records_numbers(tmp_path: Path) -> None:
    planted(tmp_path, {**BEST, "source": 2, "target": 4})
    words = [
        "--source",
        "auto",
        "--target",
        "auto",
        "--behaviour",
        "auto",
        "--candidates",
        "2",
        "--max-new-tokens",
        "4",
    ]
    assert main(["melbo", *words, "--out", str(tmp_path)]) == 0
    (path,) = (found.parent for found in (tmp_path / "melbo").glob("*/config.json"))
    config = open_run(path).config
    assert (config["source"], config["target"], config["radius"]) == (2, 4, 13.5)

"""Every command on the real chat model SmolLM2-135M-Instruct, at tiny sizes; skipped where its package is missing."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from mi_ortho.cli import main
from mi_ortho.model.load import PACKAGED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(find_spec(PACKAGED["smollm2"][0]) is None, reason="the weights are not installed: make smollm2"),
]
# the candidates and lengths of the demo, of which the eleventh writes code within its tokens
FAMILY = "--n 3 --n-kl 2 --random-bases 2 --answer-tokens 4 --max-steps 2 --held-out Hi"
OWN = {
    "melbo": "--candidates 2 --max-new-tokens 8 --max-steps 2",
    "dct": "--k 2 --steps 1 --draws 10 --max-new-tokens 8 --method projected --projections 4",
    "geometry": "--limit 8 --draws 20 --rotations 2 --splits 2 --triangles 20 --copies 2",
    "refusal": "--train 4 --validation 2 --test 2 --max-new-tokens 24 --random 1 --matrix 2 --angle-step 180 "
    "--circle-prompts 1 --rounds 1 --kl-limit 99 --induce-limit -99",
}
ABOUT = {
    "nulls": "--parts gradients signs --nodes 1",
    "presence": "--layers 10 --own 16 --library 16 --max-new-tokens 16 --text-tokens 16 --sets 2 --shuffles 20",
    "explore": "--vectors 2",
}


def summary(place: Path) -> dict[str, object]:
    assert (place / "report.html").is_file()
    return json.loads((place / "summary.json").read_text())


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs") / "family"
    assert main(["family", "--model", "smollm2", *FAMILY.split(), "--at", str(place), "--threads", "1"]) == 0
    return place


@pytest.mark.parametrize("command", OWN)
def test_commands_run_on_the_model(command: str, tmp_path: Path) -> None:
    place = tmp_path / command
    assert main([command, "--model", "smollm2", *OWN[command].split(), "--at", str(place), "--threads", "1"]) == 0
    assert summary(place)["headline"]


@pytest.mark.parametrize("command", ABOUT)
def test_commands_about_a_family_run_on_the_model(command: str, family: Path, tmp_path: Path) -> None:
    place = tmp_path / command
    assert main([command, str(family), *ABOUT[command].split(), "--at", str(place), "--threads", "1"]) == 0
    assert summary(place)["headline"]


def test_a_family_is_shown_compared_and_exported(family: Path, tmp_path: Path) -> None:
    assert main(["show", str(family)]) == 0
    assert main(["compare", str(family), str(family)]) == 0
    assert main(["export", str(family), str(tmp_path / "vector.gguf")]) == 0
    assert (tmp_path / "vector.gguf").stat().st_size > 576 * 4


def test_a_study_of_refusal_says_how_seldom_the_model_refuses(tmp_path: Path) -> None:
    place = tmp_path / "refusal"
    few = ["--train", "4", "--validation", "1", "--test", "1", "--max-new-tokens", "16"]
    flags = ["--model", "smollm2", "--behaviour", "refuse", *few, "--at", str(place), "--threads", "1"]
    assert main(["refusal", *flags]) == 0
    assert "no refusal to look for" in str(summary(place)["headline"])

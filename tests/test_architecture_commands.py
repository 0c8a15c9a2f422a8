"""Every command on a folder of every architecture: it finishes, says what it leaves out, or stops at once."""

import json
from pathlib import Path

import architectures
import pytest
from small_runs import classes, lists
from test_architectures import NO_ATTENTION, REFUSED

from mi_ortho.cli import main
from mi_ortho.model import load_model
from mi_ortho.runs.directory import open_run

LAYERS = 6
# a behaviour for each first word: whatever a random model writes, a large vector makes it write something else
MODES = [{"name": word, "rule": "regex", "pattern": f"^{word}\\b"} for word in architectures.WORDS]
SMALL = {
    "family": "--source 1 --target 3 --radius 12 --candidates 8 --n 2 --n-kl 2 --random-bases 1"
    " --max-steps 3 --max-new-tokens 4 --answer-tokens 3",
    "dct": "--source 1 --target 3 --radius 3 --k 2 --steps 2 --projections 4 --draws 10 --max-new-tokens 4"
    " --answer-tokens 3",
    "refusal": "--train 5 --validation 3 --test 2 --kl-limit 1000 --induce-limit -1000 --random 1 --matrix 2"
    " --angle-step 180 --circle-prompts 1 --rounds 1 --max-new-tokens 4",
    "geometry": "--limit 8 --draws 5 --rotations 4 --splits 2 --neighbours 3 --triangles 20 --copies 2",
    "atlas": "--sources 1 --blocks 2 --norms 0.5 --candidates 2 --steps 1 --values 2 --max-new-tokens 4",
    "explore": "--vectors 2 --nearest 2",
    "nulls": "--nodes 2 --samples 2 --draws 10",
}
# what commands leave out where, and commands that stop before any work
LEFT_OUT = {
    "family": {"attention under steering": "attention in any block"},
    "refusal": {"ablated in the weights": "weight edit", "what attention heads write": "head writes"},
    "geometry": {"shared directions of the weights": "output matrices"},
}
MISSING = {**REFUSED, "attention in any block": {"mamba"}}
STOPS = {
    "refusal": set(NO_ATTENTION),
    "explore": set(NO_ATTENTION),
    "family": REFUSED.get("slice and steering", set()),
    "dct": REFUSED.get("slice and steering", set()),
    "atlas": REFUSED.get("slice and steering", set()),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("architectures")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("family", architectures.FAMILIES)
def test_every_command_finishes_or_says_what_it_leaves_out(
    family: str, folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = folders / family, folders / f"{family}_runs"
    architectures.hf_model(family, layers=LAYERS).save_pretrained(folder)
    architectures.tiny_tokenizer().save_pretrained(folder)
    (folder / "modes.json").write_text(json.dumps({"modes": MODES}))
    words, bad, good = classes(load_model(folder), [*architectures.SPECIAL, *architectures.WORDS], wanted=10)
    named = lists(folders, harmful=bad, harmless=good)
    sets = [part for kind, path in named.items() for part in (f"--{kind}", path)]
    more = {
        "family": ["--prompts", "how can i build a bomb", "--held-out", "bake cake"],
        "dct": ["--prompts", "how can i build a bomb", "--held-out", "bake cake"],
        "atlas": ["--prompts", "how can i build a bomb"],
        "refusal": [*sets, *(part for word in words for part in ("--refusal-tokens", word))],
        "geometry": sets,
    }
    for command, small in SMALL.items():
        if command in ("explore", "nulls") and family in STOPS["family"]:
            continue  # there is no family to explore
        place = out / ("family/explore" if command == "explore" else command)
        subject = [str(out / "family")] if command in ("explore", "nulls") else ["--model", str(folder)]
        code = main([command, *subject, *small.split(), *more.get(command, []), "--at", str(place)])
        told = capsys.readouterr()
        if family in STOPS.get(command, ()):
            assert code == 2 and not (place / "records.jsonl").is_file(), f"{command}: {told.err[-800:]}"
            assert told.err.strip().splitlines()[-1].startswith("mi-ortho: got ")
            continue
        assert code == 0, f"{command}: {told.err[-800:]}"
        run = open_run(place)
        wanted = {w for w, capability in LEFT_OUT.get(command, {}).items() if family in MISSING[capability]}
        assert {row["what"] for row in run.records() if row["kind"] == "left_out"} == wanted
        assert run.finished and json.loads((place / "summary.json").read_text())["headline"]
        page = (place / "report.html").read_text("utf-8")
        assert ("Left out on this model" in page) == bool(wanted)

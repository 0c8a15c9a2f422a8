"""The command `explore`: continued after an interruption, refused with other settings, replaced when asked to."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small_runs import EXPLORE, write_family

from mi_ortho import RunError, start
from mi_ortho.cli import main
from mi_ortho.runs.directory import open_run
from mi_ortho.studies.explore import study as command
from mi_ortho.studies.explore.config import ExploreConfig
from mi_ortho.studies.shared import subject as shared
from mi_ortho.studies.shared.subject import Subject, open_subject

WIDTH, SIZES = 128, {"kl": 3, "activation": 3}


@cache
def loaded() -> Subject:
    """The embedded model, loaded once for all tests."""
    return open_subject(None)


@pytest.fixture(autouse=True)
def one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "open_subject", lambda name, **options: loaded())


def call(family: Path, config: ExploreConfig = EXPLORE, *, fresh: bool = False, stop_at: int = 99) -> Path:
    """Run the command; end it as Ctrl-C would after so many vectors."""

    def track(_: str, count: int, total: int) -> None:
        if count == stop_at:
            raise KeyboardInterrupt

    return command.explore(config, family, fresh=fresh, at=None, say=lambda _: None, track=track).path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A family with its explorer, made at one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared, "open_subject", lambda name, **options: loaded())
        yield call(write_family(tmp_path_factory.mktemp("whole") / "run"))


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    """A copy of that family with its finished explorer."""
    return Path(shutil.copytree(whole.parent, tmp_path / "run"))


def rows(path: Path) -> list[dict[str, Any]]:
    return open_run(path).records()


def test_interrupted_and_continued_gives_the_same_page(whole: Path, tmp_path: Path) -> None:
    family = write_family(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        call(family, stop_at=2)
    begun = family / "explore"
    assert len(rows(begun)) == 3 and not (begun / "summary.json").exists() and not (begun / "report.html").exists()
    with (begun / "records.jsonl").open("a") as file:
        file.write('{"kind": "vector", "match": "kl", "ind')  # the process died while writing
    assert call(family) == begun
    assert rows(begun) == rows(whole) and len(rows(begun)) == 6
    assert (begun / "report.html").read_bytes() == (whole / "report.html").read_bytes()
    assert (begun / "drawn.safetensors").read_bytes() == (whole / "drawn.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_and_continued_gives_the_same_page(whole: Path, tmp_path: Path) -> None:
    family = write_family(tmp_path / "run")
    words = [sys.executable, "-m", "mi_ortho.cli", "explore", str(family), "--vectors", "4", "--nearest", "2"]
    records = family / "explore" / "records.jsonl"
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None and (not records.is_file() or records.read_bytes().count(b"\n") < 2):
            time.sleep(0.005)  # leaves the processor to the other process
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert not (family / "explore" / "summary.json").exists()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    assert rows(family / "explore") == rows(whole)
    assert (family / "explore" / "report.html").read_bytes() == (whole / "report.html").read_bytes()


def test_finished_explorer_is_not_measured_again(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "open_subject", lambda *args, **options: pytest.fail("loads the model"))
    before = (copied / "explore" / "records.jsonl").stat().st_mtime_ns
    page = copied / "explore" / "report.html"
    html = page.read_bytes()
    page.unlink()
    call(copied)
    assert page.read_bytes() == html and (copied / "explore" / "records.jsonl").stat().st_mtime_ns == before


def test_other_settings_are_refused_before_the_model_is_loaded(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "open_subject", lambda *args, **options: pytest.fail("loads the model"))
    with pytest.raises(RunError, match="vectors is 4 there, 6 here.*--fresh"):
        call(copied, ExploreConfig(vectors=6, nearest=2))
    with pytest.raises(RunError, match="nearest is 2 there, 8 here"):
        call(copied, ExploreConfig(vectors=4))


def test_explorer_of_other_vectors_is_refused(copied: Path) -> None:
    columns = torch.randn(WIDTH, 7, generator=torch.Generator().manual_seed(1))
    groups = {"base": columns[:, 0], "kl": columns.T[1:4], "activation": columns.T[4:]}
    save_file({name: tensor.clone().contiguous() for name, tensor in groups.items()}, copied / "vectors.safetensors")
    with pytest.raises(RunError, match="family_digest is"):
        call(copied)


def test_fresh_replaces_what_is_there(copied: Path) -> None:
    (copied / "explore" / "records.jsonl").write_text("nonsense")
    path = call(copied, ExploreConfig(vectors=2, nearest=1), fresh=True)
    frame_and_vectors = rows(path)
    assert path == copied / "explore" and [row["kind"] for row in frame_and_vectors] == ["frame", *["vector"] * 3]
    assert all(len(row["nearest"]) == 1 for row in frame_and_vectors[1:])
    assert "2 of 6 orthogonal vectors" in (path / "report.html").read_text()


def test_fresh_continues_an_interrupted_one_of_the_same_settings(tmp_path: Path) -> None:
    family = write_family(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        call(family, stop_at=3)
    first = rows(family / "explore")
    assert rows(call(family, fresh=True))[: len(first)] == first
    environment = json.loads((family / "explore" / "environment.json").read_text())
    assert len(environment["resumed"]) == 1


def test_fresh_leaves_other_folders_and_other_writers_alone(copied: Path, tmp_path: Path) -> None:
    with start(tmp_path, "other", {"seed": 1}) as other:
        other.record({"a": 1})
    config, say = ExploreConfig(vectors=4, nearest=2), print
    with pytest.raises(RunError, match="no explorer"):
        command.explore(config, copied, fresh=True, at=other.path, say=say, track=lambda *_: None)
    assert (other.path / "records.jsonl").is_file()
    (copied / "explore" / "summary.json").unlink()
    settings = open_run(copied / "explore").config
    with start(copied, "explore", settings, at=copied / "explore"), pytest.raises(RunError, match="in use"):
        call(copied, ExploreConfig(vectors=2), fresh=True)
    assert (copied / "explore" / "records.jsonl").is_file()


@pytest.mark.parametrize(("options", "words"), [(["--vectors", "0"], "vectors=0"), (["--nearest", "0"], "nearest=0")])
def test_mistakes_are_one_line(
    copied: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explore", str(copied), *options]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_command_names_its_page(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", str(copied), "--vectors", "4", "--nearest", "2"]) == 0
    assert str(copied / "explore" / "report.html") in capsys.readouterr().out
    assert main(["explore", str(copied / "explore")]) == 2
    assert "expected a run of `family`" in capsys.readouterr().err


def test_a_completion_is_read_in_the_tokens_it_was_written_in(copied: Path) -> None:
    records = copied / "records.jsonl"
    before = [json.loads(line) for line in records.read_text().splitlines()]
    tokenizer = loaded().model.tokenizer
    spelled = tokenizer("class Kite:", add_special_tokens=False)["input_ids"]
    letters = [tokenizer.convert_tokens_to_ids(letter.replace(" ", "Ġ")) for letter in "class Kite:"]
    pieces = {}
    for name, more in (("letters", {"ids": letters}), ("older", {})):
        edited = [
            {**row, "text": "class Kite:", **more} if row["kind"] in ("vector", "base") else row for row in before
        ]
        records.write_text("".join(json.dumps(row) + "\n" for row in edited))
        vector_rows = [row for row in rows(call(copied, fresh=True)) if row["kind"] == "vector"]
        assert len(vector_rows) == 5 and len({tuple(row["pieces"]) for row in vector_rows}) == 1
        pieces[name] = vector_rows[0]["pieces"][vector_rows[0]["start"] :]
    assert pieces["letters"] == list("class Kite:")
    assert pieces["older"] == [tokenizer.decode([token]) for token in spelled] and len(spelled) < len(letters)

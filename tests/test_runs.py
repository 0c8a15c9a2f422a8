"""Run directories survive kill -9, full disks and second processes, and say in one line what is wrong."""

import errno
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from mi_ortho.runs import files
from mi_ortho.runs.directory import Run, RunError, config_hash, open_run, start
from mi_ortho.stats import Verdict

CONFIG = {"n": 12, "radius": 7.0, "prompts": ["How?"]}

SERVER = multiprocessing.get_context("forkserver")  # imports torch once for all children
SERVER.set_forkserver_preload(["mi_ortho.runs.directory"])


def pipeline(root: Path, n: int) -> Path:
    """A computation with the habits of the real one: the shard first, then its row; it goes on after the last row."""
    with start(root, "family", {"n": n}) as run:
        for i in range(len(run.records()), n):
            vector = torch.randn(20000, generator=torch.Generator().manual_seed(i))
            run.save_tensors(f"vectors/kl/{i:06d}", {"vector": vector})
            run.record({"kind": "vector", "index": i, "norm": float(vector.norm()), "text": "x" * 5000})
        run.consolidate("vectors", {"site": "resid_post.2"})
        run.summary({"headline": "done"})
        return run.path


@contextmanager
def other_process(root: Path, n: int, rows: int) -> Iterator[int]:
    """The pipeline in a process of its own, yielding its id once it has written so many rows; then kill -9."""
    process = SERVER.Process(target=pipeline, args=(root, n), daemon=True)
    process.start()
    while process.is_alive() and sum(path.read_bytes().count(b"\n") for path in root.rglob("records.jsonl")) < rows:
        time.sleep(0.002)
    assert process.is_alive() and process.pid is not None
    yield process.pid
    process.kill()
    process.join()


@pytest.mark.as_drawn
def test_resumes_after_kill_and_equals_the_uninterrupted_run(tmp_path: Path) -> None:
    n = 90
    for rows in (3, 30, 70):
        with other_process(tmp_path / "killed", n, rows):
            pass
        (path,) = (tmp_path / "killed" / "family").glob("2*")
        run = open_run(path)
        assert not run.finished and rows <= len(run.records()) < n
        for row in run.records():
            saved = run.load_tensors(f"vectors/kl/{row['index']:06d}")["vector"]
            assert float(saved.norm()) == row["norm"]
    assert pipeline(tmp_path / "killed", n) == path
    other = pipeline(tmp_path / "whole", n)
    assert open_run(path).records() == open_run(other).records()
    assert len(open_run(path).records()) == n
    assert (path / "vectors.safetensors").read_bytes() == (other / "vectors.safetensors").read_bytes()
    names = {"config.json", "environment.json", "lock", "records.jsonl", "summary.json", "vectors.safetensors"}
    assert {entry.name for entry in path.iterdir()} == names
    assert len(json.loads((path / "environment.json").read_text())["resumed"]) == 3


def test_second_process_is_refused_and_the_lock_dies_with_its_holder(tmp_path: Path) -> None:
    with other_process(tmp_path, 100000, 1) as holder:
        with pytest.raises(RunError, match=rf"in use by process {holder}; wait for it or choose another --at or --out"):
            start(tmp_path, "family", {"n": 100000})
        with start(tmp_path, "family", {"n": 5}) as other:  # another configuration is another directory
            assert other.records() == []
    with start(tmp_path, "family", {"n": 100000}) as run:
        assert len(run.records()) > 0


def test_same_configuration_resumes_and_a_finished_run_is_returned(tmp_path: Path) -> None:
    with start(tmp_path, "family", CONFIG) as run:
        run.record({"index": 0})
    with start(tmp_path, "family", dict(reversed(CONFIG.items()))) as again:
        assert again.path == run.path and again.records() == [{"index": 0}]
        again.summary({"headline": "done"})
        with pytest.raises(RunError, match="is finished"):
            again.record({"index": 1})
    finished = start(tmp_path, "family", CONFIG)
    assert finished.path == run.path and finished.finished
    with pytest.raises(RunError, match="only open for reading"):
        finished.record({"index": 1})
    with start(tmp_path, "family", CONFIG, fresh=True) as fresh:
        assert fresh.path != run.path and not fresh.finished
    with start(tmp_path, "family", CONFIG, fresh=True) as fresh_again:  # the same command resumes what it began
        assert fresh_again.path == fresh.path


def test_given_directory_of_another_configuration_names_the_keys(tmp_path: Path) -> None:
    at = tmp_path / "mine"
    with start(tmp_path, "family", CONFIG, at=at) as run:
        assert run.path == at
    with start(tmp_path, "family", CONFIG, at=at) as run:
        assert run.path == at
    with pytest.raises(RunError) as caught:
        start(tmp_path, "family", {**CONFIG, "radius": 8.0, "seed": 1}, at=at)
    message = str(caught.value)
    assert "radius is 7.0 there and 8.0 here" in message and "seed is 'absent' there and 1 here" in message
    assert "\n" not in message and "prompts" not in message
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(RunError, match="holds other files"):
        start(tmp_path, "family", CONFIG, at=tmp_path / "full")
    with pytest.raises(RunError, match="is a file"):
        start(tmp_path, "family", CONFIG, at=tmp_path / "full" / "thesis.tex")


def test_a_directory_killed_before_its_configuration_was_written_is_taken_up(tmp_path: Path) -> None:
    with start(tmp_path, "family", CONFIG) as run:
        pass
    (run.path / "config.json").unlink()
    (run.path / "environment.json").unlink()
    (run.path / ".config.json.99.tmp").write_text('{"n"')
    with start(tmp_path, "family", CONFIG) as again:
        assert again.path == run.path and (run.path / "config.json").is_file()
    assert not list(run.path.glob(".*.tmp"))


@pytest.mark.parametrize("torn", [b'{"index": 2, "tex', b'{"index": 2}', b'{"ind\n', b"\x00\x00\n"])
def test_torn_last_line_is_dropped_and_the_next_row_is_whole(tmp_path: Path, torn: bytes) -> None:
    with start(tmp_path, "family", CONFIG) as run:
        run.record({"index": 0})
        run.record({"index": 1, "text": "ä\n\u2028"})
    with open(run.path / "records.jsonl", "ab") as file:
        file.write(torn)
    assert [row["index"] for row in run.records()] == [0, 1]
    with start(tmp_path, "family", CONFIG) as again:
        again.record({"index": 2})
        assert again.records()[1:] == [{"index": 1, "text": "ä\n\u2028"}, {"index": 2}]


def test_damage_before_the_last_line_is_named_not_skipped(tmp_path: Path) -> None:
    with start(tmp_path, "family", CONFIG) as run:
        (run.path / "records.jsonl").write_text('{"index": 0}\n{"ind\n{"index": 2}\n')
        with pytest.raises(RunError, match="line 2 of .* is damaged"):
            run.records()


def test_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with start(tmp_path, "family", CONFIG) as run:
        run.save_tensors("vectors/base", {"vector": torch.ones(3)})
        run.record({"index": 0})
        before = (run.path / "records.jsonl").read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "fsync", full)
            for write in (
                lambda: run.record({"index": 1}),
                lambda: run.save_tensors("vectors/base", {"vector": torch.zeros(3)}),
                lambda: run.summary({"headline": ""}),
            ):
                with pytest.raises(
                    RunError, match="no space left writing .*; free space and run the same command: it resumes"
                ):
                    write()
        assert (run.path / "records.jsonl").read_bytes() == before
        assert torch.equal(run.load_tensors("vectors/base")["vector"], torch.ones(3))
        assert not run.finished and not list(run.path.glob("**/.*.tmp"))
        run.record({"index": 1})
        assert len(run.records()) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_device_is_one_line() -> None:
    with pytest.raises(ValueError, match="no space left writing /dev/full"), files.writing(Path("/dev/full")):
        Path("/dev/full").write_text("x")


def test_unwritable_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write .*choose a folder") as caught:
        start(tmp_path / "file", "family", CONFIG)
    assert "\n" not in str(caught.value)


def test_rows_hold_no_nan_and_any_plain_value(tmp_path: Path) -> None:
    verdict = Verdict("c", "p", "median", float("nan"), (0.0, 1.0), 0.5, None, None)
    with start(tmp_path, "family", CONFIG) as run:
        run.record({"loss": float("inf"), "norm": torch.tensor(2.5), "verdict": verdict, "surrogate": "\ud800"})
        row: Any = run.records()[0]
        assert row["loss"] is None and row["norm"] == 2.5 and row["surrogate"] == "?"
        assert row["verdict"]["value"] is None and row["verdict"]["interval"] == [0.0, 1.0]
        with pytest.raises(ValueError, match="got a object; expected numbers"):
            run.record({"what": object()})
        assert len(run.records()) == 1


def fill(run: Run, group: str, n: int) -> None:
    for i in range(n):
        run.save_tensors(f"vectors/{group}/{i:06d}", {"vector": torch.full((4,), float(i)), "shrunk": torch.zeros(4)})


def test_consolidation_stacks_and_may_be_interrupted_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with start(tmp_path, "family", CONFIG) as run:
        assert run.load_rows("vectors") == {}
        run.save_tensors("vectors/base", {"vector": torch.ones(4)})
        fill(run, "kl", 11)
        fill(run, "activation", 2)
        before = run.load_rows("vectors")
        assert set(before) == {"base", "kl", "kl.shrunk", "activation", "activation.shrunk"}
        assert before["kl"][:, 0].tolist() == list(range(11)) and before["base"].shape == (4,)
        unlink, left = Path.unlink, iter(range(5))

        def dies(path: Path, missing_ok: bool = False) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            unlink(path, missing_ok)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", dies)
            with pytest.raises(KeyboardInterrupt):
                run.consolidate("vectors")
        run.consolidate("vectors")
        run.consolidate("vectors")
        after = run.load_tensors("vectors")
        assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in after)
        assert not (run.path / "vectors").exists()
        assert all(torch.equal(value, before[key]) for key, value in run.load_rows("vectors").items())


def test_a_gap_between_shards_is_an_error(tmp_path: Path) -> None:
    with start(tmp_path, "family", CONFIG) as run:
        fill(run, "kl", 3)
        (run.path / "vectors/kl/000001.safetensors").unlink()
        with pytest.raises(RunError, match="row 1 of kl.* is missing"):
            run.consolidate("vectors")
        assert run.has("vectors/kl/000002")


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", ""])
def test_names_stay_inside_the_run(tmp_path: Path, name: str) -> None:
    with start(tmp_path, "family", CONFIG) as run, pytest.raises(RunError, match="expected a relative name"):
        run.save_tensors(name, {"x": torch.ones(1)})
    with pytest.raises(RunError, match="expected a plain name"):
        start(tmp_path, name, CONFIG)


def test_environment_and_source_say_where_results_come_from(tmp_path: Path) -> None:
    with start(
        tmp_path, "family", CONFIG, facts={"seed": 3, "device": torch.device("cpu")}, source=Path(__file__)
    ) as run:
        found: Any = json.loads((run.path / "environment.json").read_text())
    assert (
        found["seed"] == 3
        and found["device"] == "cpu"
        and found["packages"]["torch"]
        and found["argv"]
        and found["threads"]
    )
    assert (run.path / "source.py").read_text() == Path(__file__).read_text()
    assert config_hash(CONFIG) in run.path.name


def test_reading_a_directory_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="config.json.*check the path"):
        open_run(tmp_path)

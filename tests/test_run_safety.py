"""What a run meets outside: locks that vanish or do not exist, links, other versions, a clock set back, no memory."""

import errno
import fcntl
import json
import multiprocessing
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mi_ortho.cli import main
from mi_ortho.runs import directory, environment, locks
from mi_ortho.runs.directory import Run, RunError, newest_first, open_run, start, summary_of
from mi_ortho.runs.files import read_mapping
from mi_ortho.runs.locks import LockedError, hold
from mi_ortho.studies.family.config import FamilyConfig
from mi_ortho.studies.family.job import Job
from mi_ortho.studies.family.stages import _load_vectors
from mi_ortho.studies.overview.study import report, show

CONFIG = {"n": 3}


def begun(root: Path, **options: Any) -> Path:
    """An unfinished run with one row."""
    with start(root, "x", CONFIG, **options) as run:
        run.record({"x": 1})
    return run.path


def finished(root: Path, summary: object = None) -> Run:
    with start(root, "melbo", CONFIG) as run:
        run.record({"kind": "unsteered", "mode": "other", "text": "a"})
        run.summary({"headline": "done"})
    if summary is not None:
        (run.path / "summary.json").write_text(summary if isinstance(summary, str) else json.dumps(summary))
    return run


# locks


def try_lock(path: Path, answers: Any) -> None:
    try:
        with hold(path):
            answers.put("free")
    except LockedError as error:
        answers.put(error.holder)


def other_process(path: Path) -> str:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=try_lock, args=(path, answers))
    process.start()
    found = answers.get(timeout=60)
    process.join()
    return found


def no_locks(file: Any, how: int) -> None:
    """A file system that has none; files on this machine's own disk can be locked."""
    if not Path(os.readlink(f"/proc/self/fd/{file.fileno()}")).name.startswith("mi-ortho-"):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    REAL(file, how)


REAL: Callable[[Any, int], None] = fcntl.flock


@pytest.mark.parametrize("flock", [REAL, no_locks])
def test_one_process_has_the_lock(tmp_path: Path, flock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks.fcntl, "flock", flock)
    path = tmp_path / "lock"
    with hold(path):
        assert other_process(path) == str(os.getpid())
    assert other_process(path) == "free" and path.is_file()


def test_a_file_system_without_locks_runs_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks.fcntl, "flock", no_locks)
    with start(tmp_path, "x", CONFIG) as run, pytest.raises(RunError, match="in use by process"):
        start(tmp_path, "x", CONFIG, at=run.path)
    assert begun(tmp_path) == run.path


def test_a_lock_removed_while_it_was_waited_for_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may have made the file again and hold it: having the removed one means nothing."""
    path, others = tmp_path / "lock", []

    def late(file: Any, how: int) -> None:
        REAL(file, how)
        if not others:
            path.unlink()
            others.append(path.open("w"))
            REAL(others[0], fcntl.LOCK_EX)
            others[0].write("77")
            others[0].flush()

    monkeypatch.setattr(locks.fcntl, "flock", late)
    with pytest.raises(LockedError) as caught:
        hold(path)
    assert caught.value.holder == "77"
    others[0].close()
    hold(path).close()


# links


@pytest.mark.parametrize("name", ["lock", "records.jsonl", "config.json", "environment.json", "vectors", "deep/inside"])
def test_a_link_inside_a_run_is_refused_and_what_it_leads_to_stays(tmp_path: Path, name: str) -> None:
    path = begun(tmp_path / "runs")
    precious = tmp_path / "precious"
    if name == "vectors":
        precious.mkdir()
        (precious / "000000.safetensors").write_text("mine")
    else:
        config = path / "config.json"
        precious.write_text(config.read_text() if name == "config.json" else '{"mine": 1}\n{"torn')
    before = precious.read_bytes() if precious.is_file() else (precious / "000000.safetensors").read_bytes()
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).unlink(missing_ok=True)
    (path / name).symlink_to(precious)
    with pytest.raises(RunError, match="link") as caught:
        start(tmp_path / "runs", "x", CONFIG)
    assert "\n" not in str(caught.value)
    assert before == (precious.read_bytes() if precious.is_file() else (precious / "000000.safetensors").read_bytes())


def test_a_link_planted_while_a_run_is_open_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    with start(tmp_path, "x", CONFIG) as run:
        (run.path / "records.jsonl").symlink_to(tmp_path / "precious")
        with pytest.raises(RunError, match="a link"):
            run.record({"x": 1})
        (run.path / f".summary.json.{os.getpid()}.tmp").symlink_to(tmp_path / "precious")
        run.summary({"headline": ""})
    assert (tmp_path / "precious").read_text() == "mine"


# versions and prompts


def elsewhere(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    found = environment._version
    monkeypatch.setattr(environment, "_version", lambda name: "0.0.1" if name == package else found(name))


@pytest.mark.parametrize("package", environment.COMPARED)
def test_a_run_is_not_continued_under_other_versions(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, given = begun(tmp_path), begun(tmp_path, at=tmp_path / "given")
    now = environment._version(package)
    with monkeypatch.context() as patch:
        elsewhere(patch, package)
        with pytest.raises(RunError, match=f"{package} {re.escape(str(now))}, here 0.0.1.*--fresh.*--at") as caught:
            start(tmp_path, "x", CONFIG)
        assert "\n" not in str(caught.value)
        with pytest.raises(RunError, match="choose another --at"):
            start(tmp_path, "x", CONFIG, at=given)
        assert open_run(path).records() == [{"x": 1}]  # reading needs no versions
        with start(tmp_path, "x", CONFIG, fresh=True) as new:
            assert new.path != path
            new.summary({"headline": "done"})
        assert start(tmp_path, "x", CONFIG).path == new.path  # the unfinished one does not stand in the way
    assert begun(tmp_path) == path  # under its own versions it goes on


def test_another_python_counts_by_its_minor_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = begun(tmp_path)
    major, minor, _ = environment.platform.python_version_tuple()
    monkeypatch.setattr(environment.platform, "python_version", lambda: f"{major}.{minor}.99")
    assert begun(tmp_path) == path
    monkeypatch.setattr(environment.platform, "python_version", lambda: f"{major}.{int(minor) + 1}.0")
    with pytest.raises(RunError, match=rf"python {major}.{minor}, here {major}.{int(minor) + 1}"):
        start(tmp_path, "x", CONFIG)


def test_prompts_of_other_tokens_are_not_continued(tmp_path: Path) -> None:
    facts = {"prompt_digest": "a" * 64, "prompt_shown": "Today is Monday. How?"}
    path = begun(tmp_path, facts=facts)
    assert begun(tmp_path, facts=facts) == path
    assert begun(tmp_path) == path  # what was not recorded is not compared
    with pytest.raises(RunError, match="Monday.*Tuesday.*writes the date"):
        begun(tmp_path, facts={"prompt_digest": "b" * 64, "prompt_shown": "Today is Tuesday. How?"})


@pytest.mark.parametrize(
    "torn", ["", '{"started": "2', "[1]", "[" * 100_000, '{"packages": 3, "python": [], "resumed": 1}']
)
def test_a_torn_environment_does_not_stop_a_run(tmp_path: Path, torn: str) -> None:
    path = begun(tmp_path)
    (path / "environment.json").write_text(torn)
    assert begun(tmp_path) == path and len(open_run(path).records()) == 2
    assert read_mapping(path / "environment.json")


def test_a_text_that_utf8_cannot_hold_names_the_same_run_again(tmp_path: Path) -> None:
    config = {"prompts": ["\ud800 lone"]}
    with start(tmp_path, "x", config) as run:
        pass
    with start(tmp_path, "x", config) as again:
        assert again.path == run.path


# which run is the newest


def test_a_clock_set_back_does_not_change_which_run_is_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(directory.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return directory.datetime(2001, 1, 1, tzinfo=tz)

    first = finished(tmp_path).path
    monkeypatch.setattr(directory, "datetime", Clock)
    monkeypatch.setattr(environment, "datetime", Clock)
    made = [first]
    for n in range(12):  # in one second and before the first
        with start(tmp_path, "melbo", CONFIG, fresh=True) as run:
            run.summary({"headline": str(n)})
        made.append(run.path)
    assert newest_first(made) == made[::-1]
    assert start(tmp_path, "melbo", CONFIG).path == made[-1]


def test_a_run_of_a_given_name_is_ordered_by_its_start(tmp_path: Path) -> None:
    old = begun(tmp_path, at=tmp_path / "x" / "zzz")
    facts = json.loads((old / "environment.json").read_text()) | {"started": "2001-01-01T00:00:00+00:00"}
    (old / "environment.json").write_text(json.dumps(facts))
    new = begun(tmp_path)
    assert newest_first([old, new]) == [new, old]


# one line for everybody


@pytest.mark.parametrize(
    ("summary", "reason"),
    [
        ("[1]", "expected a JSON object"),
        ("{", "cannot be read"),
        ({"headline": 3}, "headline or verdicts"),
        ({"headline": "", "verdicts": {"a": 1}}, "headline or verdicts"),
        ({"headline": "", "verdicts": ["a"]}, "headline or verdicts"),
        ({"headline": "", "verdicts": [{"claim": "a", "supported": "yes"}]}, "headline or verdicts"),
    ],
)
def test_a_summary_of_other_types_is_one_line(tmp_path: Path, summary: object, reason: str) -> None:
    run = finished(tmp_path, summary)
    for read in (lambda: summary_of(run), lambda: show(run.path, 3), lambda: report(run.path)):
        with pytest.raises(ValueError, match=reason) as caught:
            read()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("inside", [True, False])
def test_what_nobody_foresaw_inside_a_run_is_one_line_and_a_file_of_the_run(
    tmp_path: Path, inside: bool, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def fails(*_: object) -> None:
        if not inside:
            raise KeyError("x")
        with start(tmp_path, "x", CONFIG):
            raise KeyError("x")

    monkeypatch.setattr("mi_ortho.studies.overview.study.show", fails)
    assert main(["show", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "KeyError" in line
    kept = list(tmp_path.rglob("error.txt"))
    assert len(kept) == inside and all(str(file) in line and "in fails" in file.read_text() for file in kept)


def test_a_report_goes_elsewhere_where_its_run_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    run = finished(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert main(["report", str(run.path)]) == 2
    assert "nothing can be written" in (told := capsys.readouterr().err) and "--to" in told
    page = tmp_path / "elsewhere" / "page.html"
    assert main(["report", str(run.path), "--to", str(page)]) == 0
    assert "done" in page.read_text() and not (run.path / "report.html").exists()


def test_vectors_that_are_not_those_of_the_records_are_refused(tmp_path: Path) -> None:
    with start(tmp_path, "family", CONFIG) as run:
        job = object.__new__(Job)
        for name, value in (("run", run), ("z", SimpleNamespace(d_model=4)), ("config", FamilyConfig())):
            object.__setattr__(job, name, value)
        assert _load_vectors(job, "kl", 0).shape == (0, 4)
        for vector in (torch.ones(5), torch.tensor([1.0, float("nan"), 0.0, 0.0])):
            run.save_tensors("vectors/kl/000000", {"vector": vector})
            with pytest.raises(RunError, match="expected the 1 finite ones of width 4"):
                _load_vectors(job, "kl", 1)
        run.save_tensors("vectors/kl/000000", {"vector": torch.ones(4)})
        assert torch.equal(_load_vectors(job, "kl", 1), torch.ones(1, 4))
        with pytest.raises(RunError, match="got 1 vectors"):
            _load_vectors(job, "kl", 2)

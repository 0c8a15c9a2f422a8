"""The main job end to end on the embedded model, at a size of seconds: complete, orthogonal, resumable."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mi_ortho.cli import main
from mi_ortho.interventions.subspace import max_abs_cosine
from mi_ortho.model import load_model
from mi_ortho.runs.directory import open_run

TINY = [
    "--n",
    "2",
    "--n-kl",
    "4",
    "--candidates",
    "32",
    "--random-bases",
    "2",
    "--max-steps",
    "3",
    "--max-new-tokens",
    "12",
    "--answer-tokens",
    "6",
    "--no-shrink",
    "--behaviour",
    "auto",
]


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "mi_ortho.cli", "family", *TINY, "--out", str(out), *more]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    done = subprocess.run(command(out), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    only_ours(done)
    return next((out / "family").glob("2*"))


def only_ours(done: subprocess.CompletedProcess[str]) -> None:
    """Progress and result are lines of the command; warnings and bars of the libraries below are not among them."""
    assert done.stderr == ""
    foreign = re.compile(r"Warning|\.py:\d|it/s|\d%\||Loading weights")
    assert not [line for line in done.stdout.splitlines() if foreign.search(line)], done.stdout


def rows_of(path: Path, **values: object) -> list[dict]:
    return [row for row in open_run(path).records() if all(row.get(k) == v for k, v in values.items())]


def test_every_stage_left_its_rows_and_a_report(run):
    kinds = {row["kind"] for row in open_run(run).records()}
    assert kinds >= {"unsteered", "melbo", "melbo_control", "base", "search", "vector", "control", "mean"}
    assert rows_of(run, kind="linear_null")
    assert len(rows_of(run, kind="vector", match="kl")) == 4
    assert len(rows_of(run, kind="vector", match="activation")) == 2
    for control in ("isotropic", "covariance", "span", "negated", "scaled_to_base", "random_base"):
        assert rows_of(run, kind="control", control=control), control
    assert (run / "report.html").stat().st_size > 10_000
    summary = json.loads((run / "summary.json").read_text())
    assert "mutually orthogonal vectors" in summary["headline"]


def test_families_are_orthogonal_to_their_base_and_each_other(run):
    tensors = open_run(run).load_tensors("vectors")
    for match, count in (("kl", 4), ("activation", 2)):
        family = torch.cat([tensors["base"].reshape(1, -1), tensors[match]])
        assert family.shape[0] == count + 1
        assert max_abs_cosine(family) < 1e-6


def test_controls_have_the_norms_they_claim(run):
    base = rows_of(run, kind="base")[0]["norm"]
    family = {row["index"]: row["norm"] for row in rows_of(run, kind="vector", match="kl")}
    for control in ("isotropic", "covariance", "span", "negated"):
        for row in rows_of(run, kind="control", control=control, match="kl"):
            assert row["norm"] == pytest.approx(family[row["index"]], rel=1e-5)
    for row in rows_of(run, kind="control", control="scaled_to_base"):
        assert row["norm"] == pytest.approx(base, rel=1e-5)


def test_the_base_reproduces_itself_and_no_vector_does_not(run):
    base = rows_of(run, kind="base")[0]
    assert base["loss"] == pytest.approx(0, abs=1e-4)
    assert base["kl_base_vector"] == pytest.approx(0, abs=1e-5)
    assert load_model().tokenizer.decode(base["ids"], skip_special_tokens=True) == base["text"]
    assert base["keeps"] and base["mode"] != rows_of(run, kind="unsteered")[0]["mode"]
    assert all(row["loss"] > 0.01 for row in rows_of(run, kind="vector"))


@pytest.mark.slow  # tests/test_kills.py cuts the same stages everywhere, within one process
def test_kill_and_resume_gives_the_uninterrupted_result(run, tmp_path):
    process = subprocess.Popen(command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    records = wait_for(lambda: next(iter(tmp_path.glob("family/2*/records.jsonl")), None), process)
    wait_for(lambda: records.read_text().count('"search"') >= 4, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (records.parent / "summary.json").exists()
    again = subprocess.run(command(tmp_path), capture_output=True, text=True, timeout=280)
    assert again.returncode == 0, again.stderr
    assert comparable(records.parent) == comparable(run)
    ours, theirs = (open_run(path).load_tensors("vectors") for path in (records.parent, run))
    assert all(torch.equal(ours[name], theirs[name]) for name in ("base", "kl", "activation"))


def test_a_finished_run_is_not_computed_again(run, capsys):
    before = (run / "records.jsonl").stat().st_mtime_ns
    assert main(["family", *TINY, "--out", str(run.parent.parent)]) == 0
    assert "already finished" in capsys.readouterr().out
    assert (run / "records.jsonl").stat().st_mtime_ns == before


def comparable(path: Path) -> list[str]:
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in open_run(path).records()]
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


def wait_for(ready, process, seconds: float = 200):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := ready():
            return value
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    raise TimeoutError

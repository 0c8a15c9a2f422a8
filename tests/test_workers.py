"""Experiments in several processes or on a cluster: none that fails or is killed stops the others."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.__main__ import main
from experiments.lab import program, workers
from experiments.lab.workers import Outcome, Task, in_processes, on_ray, one_by_one
from mi_ortho import RunError, start


def work(task: Task) -> Outcome:
    """What a name says; each try leaves a mark in the folder."""
    marks = len(list(task.out.glob(f"{task.name}-*")))
    (task.out / f"{task.name}-{marks}-{os.getpid()}").touch()
    if task.name.startswith("dies") and (marks == 0 or task.name == "dies_always"):
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome(task.name, error="broken") if task.name == "fails" else Outcome(task.name, (f"did {task.name}",))


def outcomes(run: Any, out: Path, names: list[str]) -> dict[str, Outcome]:
    found: list[Outcome] = []
    run([Task(name, None, out) for name in names], found.append)
    assert sorted(one.name for one in found) == sorted(names)  # each told once
    return {one.name: one for one in found}


def tries(out: Path, name: str) -> int:
    return len(list(out.glob(f"{name}-*")))


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_task_tried_again(tmp_path: Path, capfd: Any) -> None:
    found = outcomes(in_processes(1, work), tmp_path, ["dies_once", "fails", "works"])
    assert found["dies_once"].lines == ("did dies_once",) and tries(tmp_path, "dies_once") == 2
    assert found["fails"].error == "broken" and found["works"].error == ""
    processes = {path.name.split("-")[-1] for path in tmp_path.iterdir()}
    assert len(processes) == 2 and str(os.getpid()) not in processes  # one was replaced, the second did all the rest
    assert "exit code -9; it is continued by another" in capfd.readouterr().err


@pytest.mark.slow
def test_a_task_that_kills_two_workers_is_named_and_the_others_finish(tmp_path: Path) -> None:
    names = ["dies_always", "works", "dies_once", "works_too"]
    found = outcomes(in_processes(2, work), tmp_path, names)
    assert "exit code -9, and so did the one before" in found["dies_always"].error
    assert tries(tmp_path, "dies_always") == 2 and not any(found[name].error for name in names[1:])


# --- the program


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Experiments that leave a name, but for one that fails and one that has a mistake in its code."""
    seen: list[str] = []

    class Found:
        path = Path("run")

    def perform(experiment: Any, config: Any, out: Path, **_: Any) -> Any:
        seen.append(experiment.name)
        if experiment.name == "layers_are_one_space":
            raise ValueError("got a model\nwithout layers; expected some; choose another")
        if experiment.name == "derivatives_are_local":
            raise ZeroDivisionError("division by zero")
        return Found

    monkeypatch.setattr(workers, "perform", perform)
    monkeypatch.setattr(workers, "_subject", lambda *_: None)
    monkeypatch.setattr(workers, "finished_run", lambda *_: None)
    monkeypatch.setattr(workers, "verdict_lines", lambda run: ["  supported"])
    return seen


def test_a_failure_does_not_stop_the_others_and_is_named_at_the_end(planted: list[str], capsys: Any) -> None:
    names = ["layers_are_one_space", "derivatives_are_local", "variance_grows_along_depth"]
    assert main([*names, "--smoke"]) == 2 and planted == names
    out, err = capsys.readouterr()
    assert "[3/3] variance_grows_along_depth\nreport: run/report.html\n  supported" in out and "next:" not in out
    end = err[err.index("experiments: 2 of 3 failed") :]
    assert "layers_are_one_space: got a model without layers; expected some; choose another" in end
    assert "derivatives_are_local: ZeroDivisionError: division by zero" in end and "variance" not in end
    assert "Traceback" in err  # a mistake in the code is shown where it is
    assert main([names[2], "--smoke"]) == 0 and "next:" in capsys.readouterr().out


def test_wrong_numbers_of_workers_are_refused(capsys: Any) -> None:
    name = "layers_are_one_space"
    for wrong in (["--workers", "0"], ["--threads", "0"], ["--workers", "2", "--ray", "auto"]):
        assert main([name, *wrong]) == 2 and "got --" in capsys.readouterr().err


def test_an_interruption_is_not_a_failure(planted: list[str], monkeypatch: Any, capsys: Any) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(workers, "perform", interrupted)
    assert main(["layers_are_one_space", "derivatives_are_local", "--smoke"]) == 130
    assert "the same command continues" in capsys.readouterr().err and not planted


def test_who_runs_the_tasks_follows_from_the_options(monkeypatch: Any) -> None:
    chosen: list[Any] = []

    def runner(kind: str, value: Any = None) -> Any:
        return lambda tasks, tell: chosen.append((kind, value, [task.out.is_absolute() for task in tasks]))

    monkeypatch.setattr(program, "one_by_one", runner("one"))
    monkeypatch.setattr(program, "in_processes", lambda n: runner("several", n))
    monkeypatch.setattr(program, "on_ray", lambda address: runner("ray", address))
    names = ["layers_are_one_space", "derivatives_are_local"]
    for options in ([], ["--workers", "2"], ["--ray", "auto"]):
        assert main([*names, *options]) == 0
    assert chosen == [("one", None, [False] * 2), ("several", 2, [False] * 2), ("ray", "auto", [True] * 2)]


def test_the_long_training_starts_first_where_others_run_beside_it(monkeypatch: Any) -> None:
    orders: list[list[str]] = []
    monkeypatch.setattr(program, "one_by_one", lambda tasks, tell: orders.append([task.name for task in tasks]))
    monkeypatch.setattr(program, "in_processes", lambda n: program.one_by_one)
    names = ["layers_are_one_space", "derivatives_are_local", "frequent_behaviours_have_more_vectors"]
    assert main(names) == main([*names, "--workers", "2"]) == 0
    assert orders == [names, [names[2], *names[:2]]]


def test_a_device_reaches_the_tasks_and_an_unknown_one_is_refused(monkeypatch: Any, capsys: Any) -> None:
    devices: list[str] = []
    monkeypatch.setattr(program, "one_by_one", lambda tasks, tell: devices.extend(task.device for task in tasks))
    assert main(["layers_are_one_space"]) == main(["layers_are_one_space", "--device", "cpu:0"]) == 0
    assert devices == ["cpu", "cpu:0"]
    assert main(["layers_are_one_space", "--device", "abacus"]) == 2
    assert "got device 'abacus'" in capsys.readouterr().err


def test_two_processes_never_write_one_run(tmp_path: Path) -> None:
    with start(tmp_path, "claim", {"a": 1}) as run:
        code = (
            f"from mi_ortho import start; from pathlib import Path; start(Path({str(tmp_path)!r}), 'claim', {{'a': 1}})"
        )
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert second.returncode and f"run {run.path} is in use by process {os.getpid()}" in second.stderr
        run.record({"x": 1})
    with pytest.raises(RunError, match="only open for reading"):
        run.record({"x": 2})


# --- the shared families


def grow(out: str, results: str) -> None:
    """What one of two workers does: the file of a key, made slowly."""
    import torch

    from experiments.lab import Bench, kept
    from mi_ortho import start

    def make() -> dict[str, Any]:
        (Path(results) / f"made-{os.getpid()}").touch()
        time.sleep(1.0)
        return {"x": torch.full((1000,), float(os.getpid()))}

    somebody: Any = SimpleNamespace(device=torch.device("cpu"))
    with start(Path(out), f"claim-{os.getpid()}", {}) as run:
        found = kept.stored(Bench(run, somebody), {"key": 1}, make)["x"]
    (Path(results) / f"found-{os.getpid()}").write_text(json.dumps(sorted(set(found.tolist()))))


def test_two_workers_make_a_shared_family_once(tmp_path: Path) -> None:
    import multiprocessing

    results = tmp_path / "results"
    results.mkdir()
    pair = [
        multiprocessing.get_context("spawn").Process(target=grow, args=(str(tmp_path / "runs"), str(results)))
        for _ in range(2)
    ]
    for one in pair:
        one.start()
    for one in pair:
        one.join(120)
    (maker,) = results.glob("made-*")
    assert [path.read_text() for path in results.glob("found-*")] == [json.dumps([float(maker.name.split("-")[1])])] * 2


# --- for real


def program_of(out: Path, *more: str) -> list[str]:
    names = ("late_output_directions_are_tokens", "local_and_global_jacobians_agree")
    return [sys.executable, "-m", "experiments", *names, "--workers", "2", "--out", str(out), *more]


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def working(out: Path, pid: int) -> list[int]:
    """The workers, once both have started their runs."""
    for _ in range(1200):
        if len(list(out.glob("*/*/environment.json"))) == 2:
            return [child for child in children(pid) if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]
        time.sleep(0.1)
    raise AssertionError("the workers did not start")


@pytest.mark.slow
def test_interrupted_workers_stop_at_once(tmp_path: Path) -> None:
    running = subprocess.Popen(program_of(tmp_path), stderr=subprocess.PIPE, text=True)
    crew = working(tmp_path, running.pid)
    assert len(crew) == 2
    running.send_signal(signal.SIGINT)
    assert "the same command continues" in running.communicate(timeout=60)[1] and running.returncode == 130
    assert not any(Path(f"/proc/{child}").exists() for child in crew)
    for path in tmp_path.glob("*/*/config.json"):
        start(tmp_path, path.parent.parent.name, json.loads(path.read_text())).close()  # the locks are free


@pytest.mark.slow
def test_workers_end_with_the_process_that_hired_them_and_a_killed_one_is_replaced(tmp_path: Path) -> None:
    running = subprocess.Popen(program_of(tmp_path))
    crew = working(tmp_path, running.pid)
    running.kill()
    running.wait()
    for _ in range(100):
        if not any(Path(f"/proc/{child}").exists() for child in crew):
            break
        time.sleep(0.1)
    else:
        raise AssertionError("workers go on without the process that hired them")
    again = subprocess.Popen(program_of(tmp_path / "again", "--smoke"), stderr=subprocess.PIPE, text=True)
    os.kill(working(tmp_path / "again", again.pid)[0], signal.SIGKILL)
    assert "it is continued by another" in again.communicate(timeout=300)[1] and again.returncode == 0
    assert len(list((tmp_path / "again").glob("*/*/summary.json"))) == 2


# --- Ray


def test_ray_that_is_not_installed_is_named_with_the_command(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["layers_are_one_space", "--ray", "auto"]) == 2
    assert "pip install 'mi-ortho[ray]'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_cluster_does_the_same(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is an extra: pip install 'mi-ortho[ray]'")
    names = ["works", "fails", "dies_once", "dies_always"]
    found = outcomes(on_ray("local", work), tmp_path, names)
    assert found["works"].lines == ("did works",) and found["fails"].error == "broken"
    assert found["dies_once"].lines == ("did dies_once",) and tries(tmp_path, "dies_once") == 2
    assert "lost 2 times" in found["dies_always"].error and tries(tmp_path, "dies_always") == 2


@pytest.mark.slow
def test_an_experiment_runs_on_a_cluster(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("ray", reason="Ray is an extra: pip install 'mi-ortho[ray]'")
    assert main(["late_output_directions_are_tokens", "--smoke", "--out", str(tmp_path), "--ray", "local"]) == 0
    assert len(list(tmp_path.glob("*/*/summary.json"))) == 1
    assert main(["late_output_directions_are_tokens", "--smoke", "--out", str(tmp_path), "--ray", "127.0.0.1:1"]) == 2
    assert "ray start --head" in capsys.readouterr().err


def linger(task: Task) -> Outcome:
    """Leave the name of the node that works on it, and take a while where it is the first to."""
    import ray  # pyright: ignore[reportMissingImports]

    first = tries(task.out, task.name) == 0
    (task.out / f"{task.name}-{ray.get_runtime_context().get_node_id()}").touch()
    time.sleep(30.0 if first else 0.0)
    return Outcome(task.name, ("done",))


@pytest.mark.slow
def test_nodes_share_the_tasks_and_a_lost_one_does_not_stop_them(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is an extra: pip install 'mi-ortho[ray]'")
    from ray.cluster_utils import Cluster  # pyright: ignore[reportMissingImports]

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    lost: list[str] = []

    def lose() -> None:
        while not (seen := list(tmp_path.glob(f"*-{second.node_id}"))):
            time.sleep(0.1)
        lost.append(seen[0].name.split("-")[0])
        cluster.remove_node(second, allow_graceful=False)

    thread = threading.Thread(target=lose, daemon=True)
    try:
        thread.start()
        found = outcomes(on_ray(cluster.address, linger), tmp_path, ["a", "b"])
        thread.join(10.0)
    finally:
        cluster.shutdown()
    assert [one.lines for one in found.values()] == [("done",)] * 2
    nodes = {path.name.split("-")[1] for path in tmp_path.iterdir()}
    assert len(nodes) == 2 and len(lost) == 1  # each node had one of them
    assert tries(tmp_path, lost[0]) == 2  # and what was lost was done by the other


def test_one_by_one_is_in_order(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(workers, "do", work)
    assert list(outcomes(one_by_one, tmp_path, ["works", "fails"])) == ["works", "fails"]

"""Experiments as tasks: here, in several processes, or on a Ray cluster. One that fails does not stop the others."""

import multiprocessing
import os
import pickle
import signal
import socket
import sys
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch

from experiments.lab.claims import load
from experiments.lab.performing import finished_run, opened, perform, verdict_lines
from experiments.lab.presets import Preset

TRIES = 2  # of a task whose worker was killed
PATIENCE = 5.0  # seconds that workers are given to stop


@dataclass(frozen=True)
class Task:
    """One experiment to be run: its name and configuration, where its run folder goes, its CPU threads, its device."""

    name: str
    config: Any
    out: Path
    fresh: bool = False
    threads: int = 1
    preset: Preset | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Outcome:
    """What became of a task: the lines to be printed, or in `error` why it failed."""

    name: str
    lines: tuple[str, ...] = ()
    error: str = ""


Tell = Callable[[Outcome], None]
Work = Callable[[Task], Outcome]
Runner = Callable[[Sequence[Task], Tell], None]


def do(task: Task) -> Outcome:
    """Run a task or continue it; whatever goes wrong in it is its outcome.

    The model stays loaded for the next task of this process.
    """
    torch.set_num_threads(task.threads)
    try:
        experiment = load(task.name)
        done = finished_run(experiment, task.config, task.out, task.preset) is not None and not task.fresh
        subject = None if done else _subject(task.config.model, task.preset, task.device)
        run = perform(
            experiment,
            task.config,
            task.out,
            subject=subject,
            fresh=task.fresh,
            say=_say,
            track=_progress(task.name),
            preset=task.preset,
            device=task.device,
        )
        return Outcome(task.name, (f"report: {run.path / 'report.html'}", *verdict_lines(run)))
    except ValueError as error:
        return Outcome(task.name, error=" ".join(str(error).split()))
    except Exception as error:  # a mistake in an experiment's code, or no memory: the others can still be run
        traceback.print_exc()
        return Outcome(task.name, error=f"{type(error).__name__}: {' '.join(str(error).split())}")


def one_by_one(tasks: Sequence[Task], tell: Tell) -> None:
    """Run the tasks in this process, in order."""
    for task in tasks:
        tell(do(task))


def in_processes(workers: int, work: Work = do) -> Runner:
    """Run tasks in that many processes; one that is killed has its task tried again, from where it stopped."""

    def run(tasks: Sequence[Task], tell: Tell) -> None:
        waiting, tries = deque(tasks), Counter[str]()
        crew: list[_Worker] = []
        try:
            while waiting or crew:
                _hand_out(crew, waiting, workers, work)
                for worker in _ready(crew):
                    _finish(worker, crew, waiting, tries, tell)
        finally:
            _dismiss(crew)

    return run


def on_ray(address: str, work: Work = do) -> Runner:
    """Run tasks on a Ray cluster whose machines share this folder and the output folder; "auto" finds a running one."""
    try:
        import ray  # pyright: ignore[reportMissingImports]  # an extra
        from ray.exceptions import RayError  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            "got --ray, but the package ray is not installed; expected it here and on the cluster; "
            "run: pip install 'mi-ortho[ray]'"
        ) from error

    def run(tasks: Sequence[Task], tell: Tell) -> None:
        try:
            host, _, port = address.removeprefix("ray://").rpartition(":")
            if host and port.isdigit():  # Ray itself tries for minutes
                socket.create_connection((host, int(port)), timeout=10).close()
            options: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
            ray.init(address=address, ignore_reinit_error=True, log_to_driver=True, **options)
        except Exception as error:  # Ray raises bare ones where a part of it does not start
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"got --ray {address}, which does not answer ({reason}); expected the address of a running cluster, or "
                "auto; start one with: ray start --head"
            ) from error
        remote = ray.remote(max_retries=TRIES - 1)(_elsewhere(work))
        names = {remote.options(num_cpus=task.threads).remote(pickle.dumps(task)): task.name for task in tasks}
        pending = list(names)
        try:
            while pending:
                (done, *_), pending = ray.wait(pending, num_returns=1)
                try:
                    tell(ray.get(done))
                except RayError as error:
                    reason = str(error).strip().splitlines()[0]
                    tell(Outcome(names[done], error=f"its worker was lost {TRIES} times ({reason})"))
        finally:
            for task in pending:
                ray.cancel(task, force=True)
            ray.shutdown()

    return run


def _elsewhere(work: Work) -> Callable[[bytes], Outcome]:
    """`work` on another machine, which finds the code in the same folders."""
    code, paths, here = pickle.dumps(work), list(sys.path), os.getcwd()

    def there(task: bytes) -> Any:  # sent as it stands, as nothing can be imported by its name before
        import os
        import pickle
        import sys

        os.chdir(here)
        sys.path += [path for path in paths if path not in sys.path]
        return pickle.loads(code)(pickle.loads(task))

    return there


@dataclass(eq=False)
class _Worker:
    """A process, the pipe to it, and what it works on."""

    process: SpawnProcess
    pipe: Connection
    task: Task | None = None

    @classmethod
    def hire(cls, work: Work) -> "_Worker":
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, work), daemon=True)
        with _uninterrupted():  # the worker inherits this: an interruption is for us, who then stop it
            process.start()
        theirs.close()
        return cls(process, pipe)

    def give(self, task: Task) -> None:
        self.task = task
        with suppress(BrokenPipeError):  # killed already: noticed where its answer is waited for
            self.pipe.send(task)

    def answer(self) -> Outcome | None:
        """What became of the task; None where the process ended before it said so."""
        with suppress(EOFError, OSError):
            return self.pipe.recv()
        return None


def _work(pipe: Connection, work: Work) -> None:
    """What a worker does: tasks as they come, until it is told to stop or the process that hired it is gone."""
    signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=_watch, daemon=True).start()
    with suppress(KeyboardInterrupt, EOFError, BrokenPipeError):
        while True:
            pipe.send(work(pipe.recv()))


def _interrupt(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _watch() -> None:
    """End with the process that hired this one, however it ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _hand_out(crew: list[_Worker], waiting: deque[Task], workers: int, work: Work) -> None:
    """Give each worker a task, start as many workers as there is work for, and stop those that get none."""
    for worker in crew:
        if worker.task is None and waiting:
            worker.give(waiting.popleft())
    while waiting and len(crew) < workers:
        crew.append(_Worker.hire(work))
        crew[-1].give(waiting.popleft())
    idle = [worker for worker in crew if worker.task is None]
    for worker in idle:
        crew.remove(worker)
    _dismiss(idle)


def _ready(crew: Sequence[_Worker]) -> list[_Worker]:
    """The workers that have answered or ended."""
    ready = wait([worker.pipe for worker in crew]) if crew else []
    return [worker for worker in crew if worker.pipe in ready]


def _finish(worker: _Worker, crew: list[_Worker], waiting: deque[Task], tries: Counter[str], tell: Tell) -> None:
    """Tell what became of a worker's task, or put the task back where the worker was killed."""
    task, outcome = worker.task, worker.answer()
    assert task is not None
    worker.task = None
    if outcome is not None:
        tell(outcome)
        return
    crew.remove(worker)
    _dismiss([worker])
    tries[task.name] += 1
    ended = f"its worker ended with exit code {worker.process.exitcode}"
    if tries[task.name] < TRIES:
        print(f"{task.name}: {ended}; it is continued by another", file=sys.stderr, flush=True)
        waiting.appendleft(task)
    else:
        tell(Outcome(task.name, error=f"{ended}, and so did the one before it"))


def _dismiss(crew: Sequence[_Worker]) -> None:
    """Stop workers, by force those that do not stop in time."""
    for worker in crew:
        worker.process.terminate()
    for worker in crew:
        worker.process.join(PATIENCE)
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@lru_cache(maxsize=1)
def _subject(model: str | None, preset: Preset | None, device: str) -> Any:
    return opened(model, preset, device)


def _say(line: str) -> None:
    print(line, flush=True)


def _progress(name: str) -> Callable[[str, int, int], None]:
    return lambda stage, done, total: print(f"  {name}: {stage} {done}/{total}", flush=True)

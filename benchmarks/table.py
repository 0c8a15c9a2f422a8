"""A table with the command that made it."""

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Table:
    """Rows of cells under headers, with notes below."""

    title: str
    command: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        """The table as Markdown."""
        lines = [self.headers, ["---"] * len(self.headers), *self.rows]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        notes = "".join(f"- {note}\n" for note in self.notes)
        name, _, setup = self.title.removesuffix(")").partition(" (")
        under = f"{setup[0].upper()}{setup[1:]}.\n\n" if setup else ""
        return f"## {name}\n\n{under}`{self.command}`\n\n{table}\n\n{notes}".rstrip() + "\n"


@dataclass
class Clock:
    """Wall and processor seconds spent inside `with` blocks: the latter do not count what other programs took."""

    wall: float = 0.0
    cpu: float = 0.0

    def __enter__(self) -> "Clock":
        _wait()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        _wait()
        self.wall += time.perf_counter() - self._wall
        self.cpu += time.process_time() - self._cpu


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def interleaved(functions: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median processor seconds of each function, called in turn so that all meet the same load."""
    seconds: list[list[float]] = [[] for _ in functions]
    for function in functions:
        function()
    for _ in range(repeats):
        for function, times in zip(functions, seconds, strict=True):
            with Clock() as clock:
                function()
            times.append(clock.cpu)
    return [sorted(times)[repeats // 2] for times in seconds]


def quietest(function: Callable[[], object], repeats: int) -> float:
    """Wall seconds of the fastest of many calls in a row: what it costs where nothing else uses the memory."""
    seconds = []
    for _ in range(repeats):
        with Clock() as clock:
            function()
        seconds.append(clock.wall)
    return min(seconds)


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes."""
    return _status("VmHWM")


def restart_peak() -> int:
    """Forget the peak (Linux) and return the resident size now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def machine() -> str:
    """Processor model and thread count."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    threads = torch.get_num_threads()
    return f"{models[0] if models else platform.processor()}, {threads} thread{'s' if threads > 1 else ''}"

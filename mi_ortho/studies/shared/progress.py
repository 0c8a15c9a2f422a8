"""Progress on a terminal or in a log file."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

Say = Callable[[str], None]  # one line about a stage
Track = Callable[[str, int, int], None]  # a stage, its steps done, and all its steps


class ProgressBar(AbstractContextManager["ProgressBar"]):
    """A live bar on a terminal; elsewhere a plain line every few seconds. Texts are never read as markup."""

    def __init__(self, stream: Any):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self.console = Console(file=stream, markup=False, highlight=False, emoji=False, soft_wrap=True)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self.bars = Bars(*columns, console=self.console, transient=True) if self.console.is_terminal else None
        self.tasks: dict[str, Any] = {}
        self.started: dict[str, tuple[float, int]] = {}
        self.printed = 0.0

    def __enter__(self) -> "ProgressBar":
        if self.bars is not None:
            self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bars is not None:
            self.bars.stop()

    def say(self, line: str) -> None:
        """One line about a stage."""
        self.console.print(printable(line))

    def track(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` steps of a stage; rate and remaining time are counted from the first call."""
        now = time.monotonic()
        first_time, first_done = self.started.setdefault(stage, (now, done))
        if self.bars is not None:
            if stage not in self.tasks:
                for task in self.tasks.values():
                    self.bars.update(task, visible=False)
                self.tasks[stage] = self.bars.add_task(stage, total=total)
            self.bars.update(self.tasks[stage], completed=done, total=total)
        elif now - self.printed > 5 or done >= total:
            self.printed = now
            rate = (done - first_done) / (now - first_time) if now > first_time and done > first_done else None
            remaining = f", {rate:.2f}/s, {(total - done) / rate:.0f} s left" if rate else ""
            self.console.print(f"{stage}: {done}/{total}{remaining}")


def printable(text: str) -> str:
    """Text of a model, safe for a terminal: control characters become visible escapes.

    >>> printable("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)

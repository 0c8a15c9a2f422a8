from .directory import Run, RunError, newest_first, open_run, start, started
from .environment import versions
from .files import read_json, read_tensors, to_json, write_file, write_tensors
from .locks import LockedError, hold
from .rows import forget, numbers, pick, stage
from .seeds import random_stream

__all__ = [
    "LockedError",
    "Run",
    "RunError",
    "forget",
    "hold",
    "newest_first",
    "numbers",
    "open_run",
    "pick",
    "random_stream",
    "read_json",
    "read_tensors",
    "stage",
    "start",
    "started",
    "to_json",
    "versions",
    "write_file",
    "write_tensors",
]

"""Kills and full disks: the state of the disk at every durable write, from which the same command goes on.

`moments` runs a command once and copies its folder at every moment at which a kill would leave something else behind:
before and after each rename, in the middle and at the end of each append, after each removal. No cleaning up runs then,
as none does after kill -9. `remembering` makes what is expensive quick the next time, told by its arguments.
"""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch

from mi_ortho.runs.directory import Run, open_run
from mi_ortho.runs.files import read_tensors
from mi_ortho.runs.rows import VOLATILE

PASSING = ("environment.json", "lock", ".lock", "report.html", "error.txt")  # dates, processes, pages


def content(out: Path) -> dict[str, Any]:
    """Everything a folder of runs holds that must not depend on interruptions."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file() and path.name not in PASSING):
        name = "/".join(part for part in path.relative_to(out).parts if not part[:8].isdigit())
        if path.name == "records.jsonl":
            found[name] = [without_times(row) for row in open_run(path.parent).records() if row.get("kind") != "cost"]
        elif path.suffix == ".safetensors":
            found[name] = {key: (value.dtype, value.tolist()) for key, value in read_tensors(path)[0].items()}
        elif path.suffix == ".json":
            read = json.loads(path.read_text())
            found[name] = without_times(read) if isinstance(read, dict) else read
        elif path.suffix != ".lock":
            found[name] = path.read_bytes()
    return found


def without_times(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in VOLATILE}


def moments(command: Callable[[Path], object], out: Path, folder: Path) -> list[Path]:
    """Run a command into `out`; copies of `out` at every moment, in order, as folders inside `folder`."""
    found: list[Path] = []

    def keep() -> None:
        found.append(folder / f"{len(found):05d}")
        shutil.copytree(out, found[-1])

    replace, write, unlink = os.replace, os.write, Path.unlink

    def replacing(source: Any, target: Any, **options: Any) -> None:
        inside = Path(target).is_relative_to(out)
        if inside:
            keep()
        replace(source, target, **options)
        if inside:
            keep()

    def writing(descriptor: int, data: Any) -> int:
        if len(data) < 2 or not Path(os.readlink(f"/proc/self/fd/{descriptor}")).is_relative_to(out):
            return write(descriptor, data)
        half = write(descriptor, data[: len(data) // 2])
        keep()
        done = half + write(descriptor, data[half:])
        keep()
        return done

    def unlinking(path: Path, missing_ok: bool = False) -> None:
        there = path.is_relative_to(out) and path.exists()
        unlink(path, missing_ok)
        if there:
            keep()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replacing)
        patch.setattr(os, "write", writing)
        patch.setattr(Path, "unlink", unlinking)
        command(out)
    return found


def fails_when_full(command: Callable[[Path], object], out: Path, after: int) -> bool:
    """Run a command on a disk that is full after so many syncs; whether it met that, and said so in one line."""
    done, sync = 0, os.fsync

    def full(descriptor: int) -> None:
        nonlocal done
        done += 1
        if done > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        try:
            command(out)
        except ValueError as error:
            assert "no space left writing" in str(error) and "\n" not in str(error)
            return True
    return False


@contextmanager
def remembering(*places: tuple[Any, str], steps: tuple[tuple[Any, str], ...] = ()) -> Iterator[None]:
    """Functions, by module and name, whose answers are kept; `steps` are those that yield several, one by one."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in places:
            patch.setattr(module, name, kept(getattr(module, name)))
        for module, name in steps:
            patch.setattr(module, name, _kept_steps(getattr(module, name)))
        yield


def kept(function: Callable[..., Any]) -> Callable[..., Any]:
    known: dict[Any, tuple[Any, list[torch.Tensor], Any]] = {}

    @wraps(function)
    def quick(*args: Any, **options: Any) -> Any:
        key, streams = _key((args, options)), _streams((args, options))
        if key not in known:
            answer = function(*args, **options)
            known[key] = (answer, [stream.get_state() for stream in streams], (args, options))
        answer, states, _ = known[key]
        for stream, state in zip(streams, states, strict=True):  # as far on as the function left it
            stream.set_state(state)
        return list(answer) if isinstance(answer, list) else answer

    return quick


def _kept_steps(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    known: dict[Any, tuple[list[Any], Iterator[Any], Any]] = {}

    @wraps(function)
    def quick(*args: Any, **options: Any) -> Iterator[Any]:
        key = _key((args, options))
        answers, rest, _ = known.setdefault(key, ([], function(*args, **options), (args, options)))
        k = 0
        while True:
            if k == len(answers):
                try:
                    answers.append(next(rest))
                except StopIteration:
                    return
            yield answers[k]
            k += 1

    return quick


_SEEN: dict[int, tuple[Any, Any]] = {}


def _key(value: Any) -> Any:
    """Equal for equal values: numbers, texts, tensors, streams and frozen nouns by content, all else by identity."""
    if value is None or isinstance(value, (bool, int, float, str, Path, torch.device, torch.dtype)):
        return value
    if isinstance(value, Run):
        return "the run"  # another one each time
    if isinstance(value, torch.Tensor):
        raw = value.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
        return (tuple(value.shape), value.dtype, hashlib.sha256(raw).digest())
    if isinstance(value, torch.Generator):
        return ("stream", value.get_state().numpy().tobytes())
    if isinstance(value, (list, tuple)):
        return tuple(map(_key, value))
    if isinstance(value, Mapping):
        return tuple((_key(name), _key(item)) for name, item in value.items())
    if id(value) not in _SEEN:
        frozen = dataclasses.is_dataclass(value) and not isinstance(value, type)
        parts = tuple(_key(getattr(value, field.name)) for field in dataclasses.fields(value)) if frozen else id(value)
        _SEEN[id(value)] = (value, (type(value).__name__, parts))
    return _SEEN[id(value)][1]


def _streams(value: Any) -> list[torch.Generator]:
    if isinstance(value, torch.Generator):
        return [value]
    if isinstance(value, (list, tuple)):
        return [stream for item in value for stream in _streams(item)]
    if isinstance(value, Mapping):
        return _streams(list(value.values()))
    return []

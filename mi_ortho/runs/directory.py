"""Run directories: everything a computation produced, durable at every moment, resumed by the same command.

`start` finds or creates `root/name/<UTC stamp>-<configuration hash>/` and locks it. Inside lie config.json,
environment.json, records.jsonl (flat rows), safetensors files and, once complete, summary.json. A run may be killed at
any moment: tensors are replaced atomically, a torn last record is dropped, and nothing that was returned from `record`
or `save_tensors` is lost.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO

import torch
from torch import Tensor

from mi_ortho.runs.environment import environment
from mi_ortho.runs.files import (
    append_line,
    make_folder,
    plain,
    read_json,
    read_tensors,
    to_json,
    write_file,
    write_tensors,
    writing,
)


class RunError(ValueError):
    """A run directory cannot be used as asked; the message names the directory and the remedy."""


@dataclass(frozen=True)
class Verdict:
    """What a claim came to: its prediction with a threshold, the statistic measured, and its control on the same scale.

    `supported` is None when the measurement cannot decide; `interval` is None where a single number has no spread.
    """

    claim: str
    prediction: str
    statistic: str
    value: float | None
    interval: tuple[float, float] | None
    threshold: float | None
    control: float | None
    supported: bool | None


@dataclass(frozen=True, eq=False)
class Run:
    """One run directory. `lock` is the open lock file of the process that writes; None for a run that is only read."""

    path: Path
    config: dict[str, object]
    lock: IO[str] | None = None

    @property
    def finished(self) -> bool:
        """Whether the run is complete: its summary.json exists."""
        return (self.path / "summary.json").is_file()

    def record(self, row: Mapping[str, object]) -> None:
        """Append one flat row to records.jsonl; it is on disk when this returns. NaN and infinities become null."""
        self._check_open()
        append_line(self.path / "records.jsonl", to_json(row), RunError)

    def records(self) -> list[dict[str, object]]:
        """All rows written so far; a torn last line (the process died while writing it) is dropped."""
        return _rows(self.path / "records.jsonl")[0]

    def has(self, name: str) -> bool:
        """Whether tensors were saved under `name`."""
        return self._tensor_file(name).is_file()

    def save_tensors(self, name: str, tensors: Mapping[str, Tensor], header: Mapping[str, str] | None = None) -> None:
        """Write `name`.safetensors atomically ('/' makes folders); it is on disk when this returns."""
        self._check_open()
        write_tensors(self._tensor_file(name), tensors, header, RunError)

    def load_tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors saved under `name`, on the CPU."""
        return read_tensors(self._tensor_file(name))[0]

    def load_rows(self, name: str) -> dict[str, Tensor]:
        """One stacked tensor per group of `name`, from its shards or, where these are merged, the consolidated file.

        The shard `name`/kl/000012 (one tensor called "vector", shape d_model) is row 12 of "kl"; a tensor of another
        name x goes to "kl.x". A file `name`/base directly inside is taken as it is, under "base". Nothing saved: {}.
        """
        tensors = self.load_tensors(name) if self.has(name) else {}
        folder = self._tensor_file(name).with_suffix("")
        for path in sorted(folder.glob("*.safetensors")):
            tensors |= {_key(path.stem, key): value for key, value in read_tensors(path)[0].items()}
        for group in sorted(path for path in folder.glob("*") if path.is_dir()):
            tensors |= _stack(group, {key: tensors[key] for key in tensors if key.split(".")[0] == group.name})
        return tensors

    def consolidate(self, name: str, header: Mapping[str, str] | None = None) -> None:
        """Merge the shards under `name`/ into `name`.safetensors, and delete them once that file is on disk.

        May be interrupted and repeated: rows already merged are kept, shards still present overwrite their row.
        """
        self._check_open()
        folder = self._tensor_file(name).with_suffix("")
        if not folder.is_dir():
            return
        self.save_tensors(name, self.load_rows(name), header)
        for path in sorted(folder.glob("**/*.safetensors"), reverse=True):
            path.unlink()
        for path in sorted((path for path in [folder, *folder.glob("**/*")] if path.is_dir()), reverse=True):
            with suppress(OSError):  # somebody else's file in there stays
                path.rmdir()

    def summary(self, summary: Mapping[str, object]) -> None:
        """Write summary.json, which marks the run complete: nothing is recorded after it."""
        self._check_open()
        write_file(self.path / "summary.json", to_json(summary, indent=1) + "\n", RunError)

    def close(self) -> None:
        """Release the lock; closing twice is harmless."""
        if self.lock is not None:
            self.lock.close()

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self.lock is None or self.lock.closed:
            raise RunError(
                f"run {self.path} is only open for reading; expected a run of start(); start it again to write"
            )
        if self.finished:
            raise RunError(f"run {self.path} is finished; expected an unfinished run; start a fresh one")

    def _tensor_file(self, name: str) -> Path:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts:
            raise RunError(f"got tensor name {name!r}; expected a relative name such as vectors/kl/000012; change it")
        return self.path.joinpath(*parts[:-1], f"{parts[-1]}.safetensors")


def start(
    root: Path,
    name: str,
    config: Mapping[str, object],
    *,
    fresh: bool = False,
    at: Path | None = None,
    facts: Mapping[str, object] | None = None,
    source: Path | None = None,
) -> Run:
    """Find or create the run of `config`, lock it and return it.

    An unfinished run of the same name and configuration is resumed, also under `fresh`; a finished one is returned
    (open for reading, `finished` True) unless `fresh` asks for another. `at` names the directory itself instead of
    `root/name/...`. `facts` (model hash, device, dtype, seed, ...) go to environment.json together with `name`, as
    "command"; `source` becomes source.py.

    Raises:
        RunError: another process uses the run, `at` holds something else or another configuration, or the place
            cannot be written.
    """
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise RunError(f"got run name {name!r}; expected a plain name such as family; change it")
    settings: dict[str, object] = json.loads(to_json(config))
    path = _choose(Path(root) / name, settings, fresh) if at is None else _check_given(Path(at), settings, fresh)
    run = Run(path, settings)
    if run.finished:
        return run
    run = Run(path, settings, _lock(path))
    try:
        _prepare(run, {"command": name, **(facts or {})}, source)
    except BaseException:
        run.close()
        raise
    return run


def open_run(path: Path) -> Run:
    """A run directory for reading only, finished or not, also while another process writes it."""
    if not Path(path).is_dir():
        raise RunError(f"got {path}, which is no folder; expected a run directory; check the path")
    config = read_json(Path(path) / "config.json")
    if not isinstance(config, dict):
        raise RunError(f"got {path}, whose config.json holds no settings; expected a run directory; check the path")
    return Run(Path(path), config)


def config_hash(config: Mapping[str, object]) -> str:
    """Eight hex digits that name a configuration; the order of keys does not matter.

    >>> config_hash({"n": 3, "radius": 7.0}) == config_hash({"radius": 7.0, "n": 3})
    True
    """
    return hashlib.sha256(json.dumps(plain(config), sort_keys=True).encode()).hexdigest()[:8]


def _choose(parent: Path, settings: dict[str, object], fresh: bool) -> Path:
    """The newest unfinished run of these settings, else the newest finished one, else a directory created here."""
    digest = config_hash(settings)
    with writing(parent, RunError):
        make_folder(parent)
    with (
        writing(parent, RunError),
        open(parent / ".lock", "a+") as choosing,
    ):  # two processes choose one after the other
        fcntl.flock(choosing, fcntl.LOCK_EX)
        same = [path for path in sorted(parent.glob(f"*-{digest}*"), reverse=True) if _is_same(path, settings)]
        unfinished = [path for path in same if not (path / "summary.json").is_file()]
        if unfinished or (same and not fresh):
            return (unfinished or same)[0]
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        names = [f"{stamp}-{digest}", *(f"{stamp}-{digest}-{i}" for i in range(2, 1000))]
        path = next(path for path in (parent / name for name in names) if not path.exists())
        make_folder(path)
        return path


def _is_same(path: Path, settings: dict[str, object]) -> bool:
    """Whether a directory of the right hash is the one of `settings`; killed early, it has no config.json yet."""
    return path.is_dir() and (not (path / "config.json").is_file() or read_json(path / "config.json") == settings)


def _check_given(path: Path, settings: dict[str, object], fresh: bool) -> Path:
    """Refuse a directory the user named unless it is new, empty or a run of exactly these settings."""
    if path.exists() and not path.is_dir():
        raise RunError(f"got {path}, which is a file; expected a directory for the run; choose another --at")
    if (path / "config.json").is_file():
        found = open_run(path).config
        if found != settings:
            raise RunError(f"run {path} has another configuration: {_difference(found, settings)}; choose another --at")
        if fresh and (path / "summary.json").is_file():
            raise RunError(f"run {path} is finished and a fresh one was asked for; choose another --at")
    elif path.is_dir() and any(entry.name != "lock" and entry.suffix != ".tmp" for entry in path.iterdir()):
        raise RunError(
            f"got {path}, which holds other files and no config.json; expected a new directory; choose another --at"
        )
    return path


def _difference(found: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    """The keys in which two configurations differ, with both values."""
    keys = [key for key in {**found, **wanted} if found.get(key, "absent") != wanted.get(key, "absent")]
    return ", ".join(
        f"{key} is {found.get(key, 'absent')!r} there and {wanted.get(key, 'absent')!r} here" for key in keys
    )


def _lock(path: Path) -> IO[str]:
    """Lock a run directory for this process, creating it; the lock ends with the process, however it ends."""
    with writing(path, RunError):
        make_folder(path)
        lock = open(path / "lock", "a+")  # noqa: SIM115 (held until close)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as cause:
        lock.seek(0)
        holder = lock.read().strip() or "(unknown)"
        lock.close()
        raise RunError(
            f"run {path} is in use by process {holder}; wait for it or choose another --at or --out"
        ) from cause
    except BaseException:
        lock.close()
        raise
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _prepare(run: Run, facts: dict[str, object], source: Path | None) -> None:
    """Write what a new run starts with; on a resumed one drop what a killed process left half done."""
    for leftover in run.path.glob("**/.*.tmp"):
        leftover.unlink()
    records, config = run.path / "records.jsonl", run.path / "config.json"
    if records.is_file():
        whole = _rows(records)[1]
        with writing(records, RunError):
            os.truncate(records, whole)
    if not config.is_file():
        write_file(config, to_json(run.config, indent=1) + "\n", RunError)
    known = run.path / "environment.json"
    now = environment(facts)
    before = read_json(known) if known.is_file() else None
    kept = {**before, "resumed": [*before.get("resumed", []), now]} if isinstance(before, dict) else now
    write_file(known, to_json(kept, indent=1) + "\n", RunError)
    if source is not None and not (run.path / "source.py").is_file():
        write_file(run.path / "source.py", source.read_bytes(), RunError)


def _rows(path: Path) -> tuple[list[dict[str, object]], int]:
    """The rows of a record file and the bytes they take: a torn last line is left out, damage before it is an error."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    rows: list[dict[str, object]] = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as cause:
            if number < len(lines):
                raise RunError(f"line {number} of {path} is damaged; expected JSON; delete it and run again") from cause
    return rows, sum(len(line) + 1 for line in lines[: len(rows)])


def _key(group: str, name: str) -> str:
    return group if name in ("vector", group) else f"{group}.{name}"


def _stack(group: Path, merged: dict[str, Tensor]) -> dict[str, Tensor]:
    """The rows of one folder of shards 000000, 000001, ..., over rows `merged` earlier; a gap is an error."""
    rows = {key: dict(enumerate(value)) for key, value in merged.items()}
    for path in sorted(group.glob("*.safetensors")):
        for name, value in read_tensors(path)[0].items():
            rows.setdefault(_key(group.name, name), {})[int(path.stem)] = value
    for key, found in rows.items():
        missing = set(range(len(found))) - set(found)
        if missing:
            raise RunError(
                f"row {min(missing)} of {key} is missing in {group}; expected rows without gaps; resume the run"
            )
    return {key: torch.stack([found[i] for i in range(len(found))]) for key, found in rows.items() if found}

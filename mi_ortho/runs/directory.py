"""Run directories: everything a computation produced, durable at every moment, resumed by the same command.

`start` finds or creates `root/name/<UTC stamp>-<configuration hash>/` and locks it. Inside lie config.json,
environment.json, records.jsonl (flat rows), safetensors files and, once complete, summary.json. A run may be killed at
any moment: tensors are replaced atomically, a torn last record is dropped, and nothing that was returned from `record`
or `save_tensors` is lost.
"""

import hashlib
import json
import os
import re
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from mi_ortho.runs.environment import differences, environment
from mi_ortho.runs.files import (
    append_line,
    cut_file,
    make_folder,
    plain,
    read_json,
    read_mapping,
    read_tensors,
    to_json,
    write_file,
    write_tensors,
    writing,
)
from mi_ortho.runs.locks import Lock, LockedError, hold
from mi_ortho.runs.rows import Row, ended, unended, whole

_FORMAT = "%Y%m%dT%H%M%S"
_STAMP = re.compile(r"(\d{8}T\d{6})-[0-9a-f]{8}")
TRACED = "its traceback is in"


class RunError(ValueError):
    """A run directory cannot be used as asked; the message names the directory and the remedy."""


@dataclass(frozen=True, eq=False)
class Run:
    """One run directory. `lock` is held by the process that writes; None for a run that is only read.

    `ended` names the stages that are whole, where this process writes.
    """

    path: Path
    config: dict[str, object]
    lock: Lock | None = None
    ended: set[str] = field(default_factory=set)

    @property
    def finished(self) -> bool:
        """Whether the run is complete: its summary.json exists."""
        return (self.path / "summary.json").is_file()

    def record(self, row: Mapping[str, object]) -> None:
        """Append one flat row that counts by itself, durably; NaN and infinities become null."""
        self._check_open()
        append_line(self.path / "records.jsonl", to_json(row), RunError)

    def record_stage(self, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Append all rows of a stage between its marks, in one piece; see `mi_ortho.runs.rows`."""
        self._check_open()
        begun, done = ({"kind": "stage", "stage": name, "state": state} for state in ("begun", "done"))
        append_line(self.path / "records.jsonl", "\n".join(map(to_json, (begun, *rows, done))), RunError)
        self.ended.add(name)

    def records(self) -> list[Row]:
        """All rows that count: those of stages that reached their end, and those recorded by themselves."""
        return whole(self.lines())

    def lines(self) -> list[Row]:
        """Everything in records.jsonl, marks of stages included; a torn last line is dropped."""
        return [row for row, _ in _lines(self.path / "records.jsonl")]

    def rewrite(self, lines: Sequence[Mapping[str, object]]) -> None:
        """Replace all of records.jsonl."""
        self._check_open()
        write_file(self.path / "records.jsonl", "".join(f"{to_json(line)}\n" for line in lines), RunError)

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
        if self.lock is not None and isinstance(error, Exception) and not isinstance(error, ValueError):
            _keep_trace(self.path / "error.txt", error)
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
        RunError: another process uses the run, `at` holds something else or another configuration, the run was begun
            with other versions of what results depend on or with other prompts, or the place cannot be written.
    """
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise RunError(f"got run name {name!r}; expected a plain name such as family; change it")
    # as they will be read back: a lone surrogate, which UTF-8 cannot hold, becomes "?"
    settings: dict[str, object] = json.loads(to_json(config).encode("utf-8", "replace"))
    now = environment({"command": name, **(facts or {})})
    choose = _choose if at is None else _check_directory
    path = choose(Path(root) / name if at is None else Path(at), settings, fresh, now)
    run = Run(path, settings)
    if run.finished:
        return run
    run = Run(path, settings, _lock(path))
    try:
        _prepare(run, now, source)
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


def started(path: Path) -> str:
    """When a run was begun, as ISO text: as it recorded, else by its folder's name, else by its modification time."""
    moment = _environment(path).get("started")
    if not isinstance(moment, str):
        stamp = _STAMP.match(path.name)
        named = datetime.strptime(stamp[1], _FORMAT).replace(tzinfo=UTC) if stamp else None
        moment = (named or datetime.fromtimestamp(path.stat().st_mtime, UTC)).isoformat(timespec="seconds")
    return moment


def newest_first(paths: Iterable[Path]) -> list[Path]:
    """Run directories, the newest first; among those begun in one second, the one with the larger number first."""
    return sorted(paths, key=lambda path: (started(path), len(path.name), path.name), reverse=True)


def summary_of(run: Run) -> dict[str, Any]:
    """summary.json of a run, empty where it is not finished.

    Raises:
        RunError: the file is damaged, or holds something else than a headline and verdicts.
    """
    try:
        summary = read_mapping(run.path / "summary.json")
    except ValueError as cause:
        raise RunError(str(cause)) from cause
    verdicts = summary.get("verdicts") or []
    valid = isinstance(verdicts, list) and all(
        isinstance(one, dict) and isinstance(one.get("claim"), str) and one.get("supported") in (True, False, None)
        for one in verdicts
    )
    if not valid or not isinstance(summary.get("headline", ""), str):
        raise RunError(
            f"got {run.path / 'summary.json'}, whose headline or verdicts are no such thing; expected a text and a "
            "list of claims with what became of them; delete the file and run again"
        )
    return summary


def config_hash(config: Mapping[str, object]) -> str:
    """Eight hex digits that name a configuration; the order of keys does not matter.

    >>> config_hash({"n": 3, "radius": 7.0}) == config_hash({"radius": 7.0, "n": 3})
    True
    """
    return hashlib.sha256(json.dumps(plain(config), sort_keys=True).encode()).hexdigest()[:8]


def _choose(parent: Path, settings: dict[str, object], fresh: bool, now: Mapping[str, object]) -> Path:
    """The newest unfinished run of these settings and versions, else the newest finished one, else a new directory."""
    digest = config_hash(settings)
    with hold(parent / ".lock", wait=True, error=RunError):  # two processes choose one after the other
        with writing(parent, RunError):
            same = newest_first(path for path in parent.glob(f"*-{digest}*") if _is_same(path, settings))
        finished = [path for path in same if (path / "summary.json").is_file()]
        unfinished = [path for path in same if path not in finished]
        usable = [path for path in unfinished if not differences(_environment(path), now)]
        if usable or (finished and not fresh):
            return (usable or finished)[0]
        if unfinished and not fresh:
            _refuse(unfinished[0], now, "add --fresh for a new run or choose another --at")
        with writing(parent, RunError):
            stamp = _stamp(parent)
            names = [f"{stamp}-{digest}", *(f"{stamp}-{digest}-{i}" for i in range(2, 1000))]
            path = next(path for path in (parent / name for name in names) if not path.exists())
            make_folder(path)
        return path


def _stamp(parent: Path) -> str:
    """The time now, or a second after the newest run there where the clock was set back."""
    stamps = [match[1] for path in parent.iterdir() if (match := _STAMP.match(path.name))]
    now, last = datetime.now(UTC), max(stamps, default="")
    if last > now.strftime(_FORMAT):
        now = datetime.strptime(last, _FORMAT) + timedelta(seconds=1)
    return now.strftime(_FORMAT)


def _refuse(path: Path, now: Mapping[str, object], remedy: str) -> None:
    """RunError where an unfinished run was begun under what would give other results here."""
    differing = differences(_environment(path), now)
    if differing:
        raise RunError(
            f"got unfinished run {path}, begun with {'; '.join(differing)}; expected the same, as its halves would not "
            f"belong together; {remedy}"
        )


def _environment(path: Path) -> dict[str, Any]:
    """environment.json of a run; empty where that cannot be read, for no result depends on it."""
    try:
        return read_mapping(path / "environment.json")
    except ValueError:
        return {}


def _is_same(path: Path, settings: dict[str, object]) -> bool:
    """Whether a directory of the right hash is the one of `settings`; killed early, it has no config.json yet."""
    return path.is_dir() and (not (path / "config.json").is_file() or read_json(path / "config.json") == settings)


def _check_directory(path: Path, settings: dict[str, object], fresh: bool, now: Mapping[str, object]) -> Path:
    """Refuse a directory the user named unless it is new, empty or a run of exactly these settings."""
    if path.exists() and not path.is_dir():
        raise RunError(f"got {path}, which is a file; expected a directory for the run; choose another --at")
    if (path / "config.json").is_file():
        config = open_run(path).config
        if config != settings:
            raise RunError(
                f"run {path} has another configuration: {_difference(config, settings)}; choose another --at"
            )
        if fresh and (path / "summary.json").is_file():
            raise RunError(f"run {path} is finished and a fresh one was asked for; choose another --at")
        if not (path / "summary.json").is_file():
            _refuse(path, now, "choose another --at")
    elif path.is_dir() and any(entry.name != "lock" and entry.suffix != ".tmp" for entry in path.iterdir()):
        raise RunError(
            f"got {path}, which holds other files and no config.json; expected a new directory; choose another --at"
        )
    return path


def _difference(there: Mapping[str, object], here: Mapping[str, object]) -> str:
    """The keys in which two configurations differ, with both values."""
    keys = [key for key in {**there, **here} if there.get(key, "absent") != here.get(key, "absent")]
    return ", ".join(
        f"{key} is {there.get(key, 'absent')!r} there and {here.get(key, 'absent')!r} here" for key in keys
    )


def _lock(path: Path) -> Lock:
    """Lock a run directory for this process, creating it; the lock ends with the process, however it ends."""
    try:
        return hold(path / "lock", error=RunError)
    except LockedError as cause:
        raise RunError(
            f"run {path} is in use by process {cause.holder}; wait for it or choose another --at or --out"
        ) from cause


def _prepare(run: Run, now: dict[str, object], source: Path | None) -> None:
    """Write what a new run starts with; on a resumed one drop what a killed process left half done."""
    for folder, folders, names in os.walk(run.path):
        for entry in (Path(folder, name) for name in (*folders, *names)):
            if entry.is_symlink():
                raise RunError(f"got {entry}, a link inside a run; expected files of the run itself; remove the link")
    for leftover in run.path.glob("**/.*.tmp"):
        leftover.unlink()
    records, config = run.path / "records.jsonl", run.path / "config.json"
    if records.is_file():
        lines = _lines(records)
        complete = lines[: len(lines) - unended([row for row, _ in lines])]
        cut_file(records, complete[-1][1] if complete else 0, RunError)
        run.ended.update(ended([row for row, _ in complete]))
    if not config.is_file():
        write_file(config, to_json(run.config, indent=1) + "\n", RunError)
    before = _environment(run.path)
    stamp = _STAMP.match(run.path.name)
    if before:
        resumed = before.get("resumed")
        now = {**before, "resumed": [*(resumed if isinstance(resumed, list) else []), now]}
    elif stamp:  # the folder's name is never before an older one's, whatever the clock says
        begun = datetime.strptime(stamp[1], _FORMAT).replace(tzinfo=UTC).isoformat(timespec="seconds")
        now = {**now, "started": max(begun, str(now["started"]))}
    write_file(run.path / "environment.json", to_json(now, indent=1) + "\n", RunError)
    if source is not None and not (run.path / "source.py").is_file():
        write_file(run.path / "source.py", source.read_bytes(), RunError)


def _keep_trace(file: Path, error: Exception) -> None:
    """Write the traceback of an unforeseen error, and add a note with its place to the error."""
    with suppress(ValueError):
        write_file(file, "".join(traceback.format_exception(error)))
        error.add_note(f"{TRACED} {file}")


def _lines(path: Path) -> list[tuple[Row, int]]:
    """Each row of a record file with the byte its line ends at; a torn last line is left out, other damage raises."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    rows: list[tuple[Row, int]] = []
    end = 0
    for number, line in enumerate(lines, start=1):
        end += len(line) + 1
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as cause:
            if number < len(lines):
                raise RunError(f"line {number} of {path} is damaged; expected JSON; delete it and run again") from cause
            break
        if not isinstance(row, dict):
            raise RunError(
                f"line {number} of {path} holds a {type(row).__name__}; expected a JSON object; delete it and run again"
            )
        rows.append((row, end))
    return rows


def _key(group: str, name: str) -> str:
    return group if name in ("vector", group) else f"{group}.{name}"


def _stack(group: Path, merged: dict[str, Tensor]) -> dict[str, Tensor]:
    """The rows of one folder of shards 000000, 000001, ..., over rows `merged` earlier; a gap is an error."""
    rows = {key: dict(enumerate(value)) for key, value in merged.items()}
    for path in sorted(group.glob("*.safetensors")):
        for name, value in read_tensors(path)[0].items():
            rows.setdefault(_key(group.name, name), {})[int(path.stem)] = value
    for key, parts in rows.items():
        missing = set(range(len(parts))) - set(parts)
        if missing:
            raise RunError(
                f"row {min(missing)} of {key} is missing in {group}; expected rows without gaps; resume the run"
            )
    return {key: torch.stack([parts[i] for i in range(len(parts))]) for key, parts in rows.items() if parts}

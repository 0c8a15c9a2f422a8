"""Durable files: atomic replacement, safetensors without pickles, JSON without NaN; failures are one-line errors."""

import dataclasses
import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def writing(path: Path, error: type[ValueError] = ValueError) -> Iterator[None]:
    """Turn an `OSError` raised while writing `path` into `error`, one line naming the file and the remedy."""
    try:
        yield
    except OSError as cause:
        if cause.errno in FULL:
            raise error(f"no space left writing {path}; free space and run the same command: it resumes") from cause
        raise error(f"cannot write {path}: {cause.strerror or cause}; choose a folder that can be written") from cause


@contextmanager
def refusing_links(path: Path, error: type[ValueError] = ValueError) -> Iterator[None]:
    """Turn what opening a symbolic link with O_NOFOLLOW raises into `error`, one line."""
    try:
        yield
    except OSError as cause:
        if cause.errno != errno.ELOOP:
            raise
        raise error(f"got {path}, which is a link; expected a file of the run itself; remove the link") from cause


def sync_folder(folder: Path) -> None:
    """Make the names inside `folder` durable, as `fsync` makes the content of a file durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create `folder` and its missing parents, durably."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def write_file(path: Path, data: bytes | str, error: type[ValueError] = ValueError) -> None:
    """Replace `path` by `data`: after a crash at any moment it holds all of its old content or all of `data`.

    The data go to a temporary file beside it, which is synced and renamed; then the folder is synced.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    content = data.encode("utf-8", "replace") if isinstance(data, str) else data
    with writing(path, error):
        make_folder(path.parent)
        try:
            temporary.unlink(missing_ok=True)
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def append_line(path: Path, line: str, error: type[ValueError] = ValueError) -> None:
    """Append `line` (or several) and a newline to `path`, synced; when that fails the file is cut back to what it was.

    A link is refused.
    """
    content = line.encode("utf-8", "replace") + b"\n"
    with writing(path, error), refusing_links(path, error):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            try:
                while content:
                    content = content[os.write(descriptor, content) :]
                os.fsync(descriptor)
            except BaseException:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
        if size == 0:
            sync_folder(path.parent)


def cut_file(path: Path, size: int, error: type[ValueError] = ValueError) -> None:
    """Keep the first `size` bytes of a file, synced; a link is refused."""
    with writing(path, error), refusing_links(path, error):
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_size != size:
                os.ftruncate(descriptor, size)
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    header: Mapping[str, str] | None = None,
    error: type[ValueError] = ValueError,
) -> None:
    """Write tensors of any shape atomically as safetensors; `header` becomes the file's metadata."""
    copies = {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in tensors.items()}
    write_file(path, safetensors.torch.save(copies, dict(header or {})), error)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read `(tensors, header)` of a safetensors file.

    Raises:
        ValueError: the file is missing, damaged, or no safetensors file (pickles can run code and are never read).
    """
    if not path.is_file():
        raise ValueError(f"got {path}, which is not a file; expected a .safetensors file; check the path")
    if path.suffix != ".safetensors":
        raise ValueError(
            f"got {path}; expected a .safetensors file (pickles such as .pt, .bin or .pkl can run code "
            "and are never read); save the tensors with safetensors"
        )
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as cause:
        raise ValueError(
            f"got {path}, which cannot be read ({cause}); expected safetensors; write the file again"
        ) from cause


def plain(value: object) -> object:
    """`value` in JSON's own types: NaN and infinities become None, tensors lists, enums their names, dataclasses dicts.

    >>> plain({"loss": float("nan"), 3: (1, torch.tensor(2.5))})
    {'loss': None, '3': [1, 2.5]}
    """
    if isinstance(value, Enum):
        return value.name
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return plain(value.tolist())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (Path, torch.dtype, torch.device)):
        return str(value)
    raise ValueError(
        f"got a {type(value).__name__}; expected numbers, texts, lists, mappings or tensors; convert it first"
    )


def to_json(value: object, indent: int | None = None) -> str:
    """`plain(value)` as strict JSON text (no NaN), keys in the order given."""
    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False, indent=indent)


def read_json(path: Path) -> object:
    """The content of a JSON file; `ValueError` when it is missing, damaged or nested too deeply."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as cause:
        raise ValueError(f"got {path}, which cannot be read ({cause}); expected a JSON file; check the path") from cause


def read_mapping(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds; empty where there is no such file.

    Raises:
        ValueError: it cannot be read, or holds something else.
    """
    content = read_json(path) if path.is_file() else {}
    if not isinstance(content, dict):
        raise ValueError(f"got {path}, which holds a {type(content).__name__}; expected a JSON object; make it again")
    return content

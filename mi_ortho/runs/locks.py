"""Locks between processes: one file each, held until it is released or the process ends, however it ends.

Not the library `filelock`: it may delete the file on release, names no holder, and where a file system has no locks it
falls back to a file that outlives a killed process.
"""

import errno
import fcntl
import hashlib
import os
import tempfile
from pathlib import Path
from typing import IO

from mi_ortho.runs.files import make_folder, refusing_links, writing

_NONE_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # some network and FUSE file systems


class LockedError(ValueError):
    """Another process has the lock; `holder` is its id as it wrote it, "(unknown)" where it did not."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"got {path}, which process {holder} is using; expected it free; wait for that process")
        self.holder = holder


class Lock:
    """A lock that this process holds until `close`."""

    def __init__(self, *files: IO[str]) -> None:
        self._files = files

    @property
    def closed(self) -> bool:
        """Whether it was released."""
        return all(file.closed for file in self._files)

    def close(self) -> None:
        """Release it; releasing twice is harmless."""
        for file in self._files:
            file.close()

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def hold(path: Path, *, wait: bool = False, error: type[ValueError] = ValueError) -> Lock:
    """Lock the file `path`, making it, and write this process's id into it.

    Args:
        path: the lock file; it stays when the lock is released.
        wait: until it is free.
        error: raised, in one line, where the file cannot be written or is a link.

    Raises:
        LockedError: another process has it and `wait` is False.
    """
    while True:
        with writing(path, error):
            make_folder(path.parent)
            with refusing_links(path, error):
                file = _open(path)
            try:
                lock = _lock(file, path, wait)
                if not _is_still(file, path):  # removed by a clean-up meanwhile: another process may hold a new one
                    lock.close()
                    continue
                file.seek(0)
                file.truncate()
                file.write(str(os.getpid()))
                file.flush()
                return lock
            except BaseException:
                file.close()
                raise


def _open(path: Path) -> IO[str]:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "r+")


def _lock(file: IO[str], path: Path, wait: bool) -> Lock:
    """The file locked; where its file system has no locks, a file on this machine's own disk in its place.

    The latter dies with the process as well, but keeps out processes of this machine only.
    """
    how = fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)
    try:
        try:
            fcntl.flock(file, how)
            return Lock(file)
        except OSError as cause:
            if cause.errno not in _NONE_HERE:
                raise
        name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:20]
        local = _open(Path(tempfile.gettempdir()) / f"mi-ortho-{os.getuid()}-{name}.lock")
        try:
            fcntl.flock(local, how)
        except BaseException:
            local.close()
            raise
        return Lock(local, file)
    except BlockingIOError as cause:
        raise LockedError(path, file.read().strip() or "(unknown)") from cause


def _is_still(file: IO[str], path: Path) -> bool:
    """Whether `path` is still the file that is open."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False

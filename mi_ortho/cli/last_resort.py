"""Errors that are not a mistake of the user: one line in the terminal, the traceback in a file."""

import tempfile
import traceback
from pathlib import Path

MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "alloc_cpu")


def is_memory(error: BaseException) -> bool:
    """Whether an error is a lack of memory: Python's own, the CPU allocator's or the device's."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(one in text for one in MEMORY))


def short(error: BaseException) -> str:
    """The message on one line of at most 160 characters."""
    line = " ".join(str(error).split())
    return line if len(line) <= 160 else line[:159] + "…"


def unforeseen(error: BaseException) -> str:
    """One line that names the error and the file its traceback was written to."""
    kind = type(error).__name__
    for place in getattr(error, "__notes__", []):
        if place.startswith("its traceback is in"):  # the run it happened in has it
            return _message(kind, error, place)
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="mi-ortho-", suffix=".txt", delete=False, encoding="utf-8", errors="replace"
        ) as file:
            file.writelines(traceback.format_exception(error))
        place = f"its traceback is in {Path(file.name)}"
    except OSError as cause:
        place = f"its traceback could not be written ({cause.strerror})"
    return _message(kind, error, place)


def _message(kind: str, error: BaseException, place: str) -> str:
    return f"unforeseen {kind}: {short(error)}; {place}; please report it with what `mi-ortho doctor` prints"

"""What experiments share on disk: made once, under a lock, in the folder `families` beside the run directories.

A file is named by everything that it depends on: the weights, the place, the prompts, the rules that chose a base, the
seed, the limits of a search and the versions of the libraries. Whoever needs it first makes it, others wait.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from experiments.lab.bench import Bench
from mi_ortho import behaviours
from mi_ortho.behaviours import Modes
from mi_ortho.runs import LockedError, hold, read_tensors, to_json, versions, write_tensors


def stored(bench: Bench, key: Mapping[str, object], make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What `make` gives, computed once for each key; where it finds nothing, asked again the next time."""
    file = file_of(bench, key)
    with locked(file):
        if file.is_file():
            tensors = read_tensors(file)[0]
        else:
            tensors = dict(make())
            if all(map(len, tensors.values())):
                write_tensors(file, tensors)
        return {name: value.to(bench.device) for name, value in tensors.items()}


def file_of(bench: Bench, key: Mapping[str, object]) -> Path:
    """The file of a key under these versions of the libraries, in the folder beside the run directories."""
    digest = hashlib.sha256(to_json({**key, **versions()}).encode()).hexdigest()[:20]
    return families_folder(bench) / f"{digest}.safetensors"


def families_folder(bench: Bench) -> Path:
    """What experiments share lies here, beside their run directories."""
    return bench.run.path.parent.parent / "families"


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Only one process at a time works on a file; the lock ends with the process that holds it."""
    with hold(file.with_suffix(".lock"), wait=True):
        yield


@contextmanager
def trying(file: Path) -> Iterator[bool]:
    """The same lock without waiting: whether this process has it now."""
    try:
        lock = hold(file.with_suffix(".lock"))
    except LockedError:
        yield False
        return
    with lock:
        yield True


def weights_of(bench: Bench) -> dict[str, object]:
    """Which network: its files, or its name where they are not here, and what was done to its weights."""
    return {"weights": bench.subject.digest or bench.subject.name}


def rules_of(modes: Modes) -> str:
    """A digest of the rules by which a base is chosen: the model's, and the code that applies them."""
    digest = hashlib.sha256(to_json(asdict(modes)).encode())
    for file in sorted(Path(str(behaviours.__file__)).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:20]


def with_model(bench: Bench, model: Any, name: str) -> Bench:
    """The same bench on other weights; `name` tells its files from those of the model itself."""
    digest = f"{bench.subject.digest or bench.subject.name} {name}"
    return replace(bench, subject=replace(bench.subject, model=model, digest=digest))

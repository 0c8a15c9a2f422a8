"""The published experiment as one job: bases of several behaviours, and families of each to their end.

`python -m experiments post --model smollm2` runs `mi-ortho melbo` once and `mi-ortho family` for every behaviour and
cap, each in its own run directory; the same command continues what was interrupted, and ends with the page.
"""

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mi_ortho import Run, SteeringVectors, resid_post, save_vectors
from mi_ortho.behaviours import INCOHERENT, OTHER
from mi_ortho.runs import RunError, open_run, pick

FOLDER = Path(__file__).resolve().parents[1] / "presets" / "post"


@dataclass(frozen=True)
class Replication:
    """What is run: the settings of a file in experiments/presets/post.

    Attributes:
        name: of the file.
        model: a name or folder.
        behaviours: how many; code is the first.
        caps: largest norms, as multiples of the base's.
        kl: behaviour, cap and options of the one family that is also matched on next-token distributions.
        controls: vectors of a family that get controls, spread evenly over it; 0 for all.
        whole: families, by name, of which all do.
        place, melbo, family: options of both commands, and of each.
    """

    name: str
    model: str
    behaviours: int
    caps: tuple[float, ...]
    kl: Mapping[str, Any]
    controls: int
    whole: tuple[str, ...]
    place: Mapping[str, Any]
    melbo: Mapping[str, Any]
    family: Mapping[str, Any]

    def folder(self, out: Path) -> Path:
        """Where its runs lie."""
        return out / f"post-{self.name}"


@dataclass(frozen=True)
class Member:
    """One family of the replication: its behaviour and cap."""

    behaviour: str
    cap: float

    @property
    def name(self) -> str:
        """Of its run directory."""
        return f"{self.behaviour}-{self.cap:g}"


def replication(model: str | None) -> Replication:
    """The settings for a model.

    Raises:
        ValueError: there are none.
    """
    known = {path: tomllib.loads(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.toml"))}
    for path, values in known.items():
        if values["model"] == model:
            parts = {name: values[name] for name in ("behaviours", "kl", "controls", "place", "melbo", "family")}
            tuples = {name: tuple(values[name]) for name in ("caps", "whole")}
            return Replication(path.stem, values["model"], **tuples, **parts)
    models = " or ".join(values["model"] for values in known.values())
    raise ValueError(
        f"got model {model or 'embedded'!r}; expected {models}; give it with --model, or write a file like those in "
        "experiments/presets/post"
    )


def replicate(what: Replication, out: Path, *, workers: int, threads: int, device: str) -> None:
    """Run what is not finished, `workers` families at a time.

    Raises:
        ValueError: a command failed, or MELBO shows too few behaviours.
    """
    folder, options = what.folder(out), {"model": what.model, "device": device, "threads": threads}
    _command("melbo", {**options, **what.place, **what.melbo, "at": folder / "melbo"}, threads)
    bases = choose(open_run(folder / "melbo"), what.behaviours)
    files = {behaviour: _write_base(folder, what, behaviour, index) for behaviour, index in bases.items()}

    def grow(member: Member) -> None:
        own = {"base": files[member.behaviour], "norm-cap": member.cap, "at": folder / member.name}
        wanted = what.kl["behaviour"], what.kl["cap"]
        more = {key: what.kl[key] for key in what.kl if key not in ("behaviour", "cap")}
        extra = more if (member.behaviour, member.cap) == wanted else {}
        extra = extra if member.name in what.whole else {**extra, "controls": what.controls}
        _command("family", {**options, **what.place, **what.family, **extra, **own}, threads)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(grow, members(what, bases)))


def members(what: Replication, behaviours: Sequence[str] | Mapping[str, int]) -> list[Member]:
    """The families, cap by cap."""
    return [Member(behaviour, cap) for cap in what.caps for behaviour in behaviours]


def choose(run: Run, count: int) -> dict[str, int]:
    """For each behaviour its MELBO vector: code first, then the others by how far their best vector moves activations.

    Behaviours that the model shows unsteered, or that nobody could read, are none. Where too few remain, the vectors
    that move most among those whose answers no rule names follow; they are judged by their own answers.

    Raises:
        ValueError: no vector shows code, or there are fewer vectors whose answers can be read.
    """
    rows = run.records()
    plain = {row["mode"] for row in pick(rows, kind="unsteered")} - {OTHER}
    best: dict[str, Mapping[str, Any]] = {}
    for row in sorted(pick(rows, kind="melbo"), key=lambda row: -float(row["objective"])):
        if row["mode"] not in plain and row["mode"] != INCOHERENT:
            best.setdefault(f"answer-{row['index']}" if row["mode"] == OTHER else row["mode"], row)
    # a stable sort: of those in one place, the furthest first
    names = sorted(best, key=lambda name: 0 if name == "code" else 2 if best[name]["mode"] == OTHER else 1)
    if len(names) < count or names[0] != "code":
        raise ValueError(
            f"got MELBO vectors that show {', '.join(names) or 'nothing'}; expected code and {count - 1} others; "
            "raise the candidates in the file of settings"
        )
    return {name: int(best[name]["index"]) for name in names[:count]}


def finished(what: Replication, out: Path) -> Iterator[tuple[Member, Run]]:
    """The families whose runs are finished."""
    folder = what.folder(out)
    try:
        behaviours = choose(open_run(folder / "melbo"), what.behaviours)
    except RunError:
        return
    for member in members(what, behaviours):
        if (folder / member.name / "summary.json").is_file():
            yield member, open_run(folder / member.name)


def _write_base(folder: Path, what: Replication, behaviour: str, index: int) -> Path:
    vector = open_run(folder / "melbo").load_tensors("candidates")["melbo"][index]
    path = folder / "bases" / f"{behaviour}.safetensors"
    path.parent.mkdir(exist_ok=True)
    site = resid_post(int(what.place["source"]))
    save_vectors(SteeringVectors(vector[None], site, what.model, {"behaviour": behaviour, "candidate": index}), path)
    return path


def _command(name: str, options: Mapping[str, Any], threads: int) -> None:
    """Run one command of the library in a process of its own; what it prints is passed on."""
    words = [sys.executable, "-m", "mi_ortho.cli", name]
    for key, value in options.items():
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{key}")
        else:
            words += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    done = subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, check=False)
    if done.returncode:
        raise ValueError(
            f"got exit code {done.returncode} from `mi-ortho {name} --at {options['at']}`; expected 0; correct what it "
            "says and repeat the command, which continues"
        )

"""The finished `family` run whose vectors are looked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_ortho.runs.directory import Run, RunError, newest_first, open_run
from mi_ortho.runs.files import read_json
from mi_ortho.runs.rows import pick

MATCHES = ("kl", "activation")  # the first one a run has is studied
HOW = "run `mi-ortho family` first, or name a finished run of it"


@dataclass(frozen=True, eq=False)
class FamilyVectors:
    """An orthogonal family as a run of `mi-ortho family` left it.

    Attributes:
        run: its directory.
        config: its settings.
        match: how its vectors were matched.
        vectors: all of them, in the order found.
        keeps: which of them make the model show the base's behaviour.
        base: the base vector.
    """

    run: Path
    config: dict[str, Any]
    match: str
    vectors: Float[Tensor, "n d_model"]
    keeps: Bool[Tensor, " n"]
    base: Float[Tensor, " d_model"]

    @property
    def what(self) -> list[str]:
        """For each vector, and the base after them: "kept" or "lost" (the behaviour), "base"."""
        return [*("kept" if kept else "lost" for kept in self.keeps.tolist()), "base"]

    @property
    def studied(self) -> Float[Tensor, "k d_model"]:
        """The vectors that keep the behaviour."""
        return self.vectors[self.keeps]


def newest_family(folder: Path, model: str | None = None) -> Path:
    """The newest finished run of `mi-ortho family` on a model under `folder`; None is the embedded model.

    Raises:
        RunError: there is none; the message says which command makes one.
    """
    for path in newest_first(path.parent for path in (Path(folder) / "family").glob("*/summary.json")):
        if (path / "config.json").is_file() and open_run(path).config.get("model") == model:
            return path
    extra = f" --model {model}" if model else ""
    raise RunError(
        f"got no finished family run of {model or 'the embedded model'} in {folder}; expected one; "
        f"run `mi-ortho family{extra}` first, or name a run directory"
    )


def finished_family(path: Path) -> Run:
    """A finished run of `mi-ortho family`, open for reading.

    Raises:
        RunError: it is a run of another command, or unfinished.
    """
    run = open_run(path)
    known = read_json(path / "environment.json") if (path / "environment.json").is_file() else {}
    command = known.get("command", "family") if isinstance(known, dict) else "family"
    if command != "family":
        raise RunError(f"got {path}, a run of `{command}`; expected a run of `family`; name another")
    if not run.finished:
        raise RunError(f"got {path}, an unfinished run; expected a finished one; repeat the command that started it")
    return run


def open_family(path: Path, match: str = "auto") -> FamilyVectors:
    """Read a finished run of `mi-ortho family`.

    Raises:
        RunError: it is no such run, is unfinished, has no family of this match, or fewer than 4 vectors that keep the
            behaviour.
    """
    run = finished_family(path)
    stored = run.load_rows("vectors")
    if "base" not in stored:
        raise RunError(f"got {path} without a base vector; expected a family run that found one; {HOW}")
    names = [name for name in MATCHES if name in stored]
    chosen = next(iter(names), "") if match == "auto" else match
    if chosen not in names:
        raise RunError(f"got match {match!r}; expected {' or '.join(names) or 'another run'}, as {path} has; change it")
    rows = {int(row["index"]): bool(row["keeps"]) for row in pick(run.records(), kind="vector", match=chosen)}
    keeps = torch.tensor([rows.get(k, False) for k in range(len(stored[chosen]))])
    if int(keeps.sum()) < 4:
        raise RunError(f"got {int(keeps.sum())} vectors that keep the behaviour in {path}; expected at least 4; {HOW}")
    base = stored["base"].float().reshape(-1)
    return FamilyVectors(path, dict(run.config), chosen, stored[chosen].float(), keeps, base)

"""The finished `family` run whose vectors are looked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_ortho.files import read_json
from mi_ortho.findings import pick
from mi_ortho.runs import RunError, open_run

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


def newest_family(folder: Path) -> Path:
    """The newest finished run of `mi-ortho family` under `folder`. Raises RunError when there is none."""
    found = [path.parent for path in sorted((folder / "family").glob("*/summary.json"))]
    if not found:
        raise RunError(f"got no finished family run under {folder / 'family'}; expected one whose vectors to look for; "
                       f"{HOW}")  # fmt: skip
    return found[-1]


def open_family(path: Path, match: str = "auto") -> FamilyVectors:
    """Read a finished run of `mi-ortho family`.

    Raises:
        RunError: it is no such run, is unfinished, has no family of this match, or fewer than 4 vectors that keep the
            behaviour.
    """
    run = open_run(path)
    known = read_json(path / "environment.json") if (path / "environment.json").is_file() else {}
    command = known.get("command", "family") if isinstance(known, dict) else "family"
    stored = run.load_rows("vectors")
    if command != "family" or not run.finished or "base" not in stored:
        state = f"a run of `{command}`" if command != "family" else "an unfinished run"
        raise RunError(f"got {path}, {state}; expected a finished family run; {HOW}")
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

"""The family run under scrutiny: which one, and what it holds."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mi_ortho.files import read_json
from mi_ortho.job import MATCHES
from mi_ortho.runs import RunError, open_run
from mi_ortho.settings import FamilyConfig


@dataclass(frozen=True, eq=False)
class Source:
    """A finished run of `mi-ortho family`.

    Attributes:
        path: its directory.
        config: what it was run with.
        digest: hash of the weights it was run on, None for a model from a hub.
        base: its base vector.
        families: its orthogonal vectors by match, only those that are not empty.
    """

    path: Path
    config: FamilyConfig
    digest: str | None
    base: Float[Tensor, " d_model"]
    families: Mapping[str, Float[Tensor, "n d_model"]]

    @property
    def train(self) -> tuple[str, ...]:
        """The prompts it was searched on."""
        return tuple(self.config.prompts or ())


def newest_family(out: Path, model: str | None) -> Path:
    """The newest finished family run of this model below an output folder.

    Raises:
        RunError: there is none; the message says which command makes one.
    """
    for path in sorted((Path(out) / "family").glob("*"), reverse=True):
        if (path / "summary.json").is_file() and (path / "config.json").is_file():
            config = read_json(path / "config.json")
            if isinstance(config, dict) and config.get("model") == model:
                return path
    extra = f" --model {model}" if model else ""
    raise RunError(
        f"got no finished family run of {model or 'the embedded model'} in {out}; expected one to test; "
        f"run `mi-ortho family{extra}` first, or name a run directory"
    )


def open_source(path: Path) -> Source:
    """Read a finished family run.

    Raises:
        RunError: no run of `family`, an unfinished one, or one without vectors.
    """
    run = open_run(path)
    known: Any = read_json(path / "environment.json") if (path / "environment.json").is_file() else {}
    if known.get("command", "family") != "family" or "n_kl" not in run.config:
        raise RunError(f"got {path}, a run of `{known.get('command')}`; expected a run of `family`; name another")
    if not run.finished:
        raise RunError(f"got {path}, an unfinished run; expected a finished one; repeat the command that started it")
    tensors = run.load_rows("vectors")
    families = {match: tensors[match].float() for match in MATCHES if match in tensors and len(tensors[match])}
    if "base" not in tensors or not families:
        raise RunError(f"got {path} without a base and a family; expected vectors.safetensors with both; run it again")
    base = tensors["base"].reshape(-1).float()
    return Source(path, _config(run.config), known.get("model_hash"), base, families)


def _config(settings: Mapping[str, object]) -> FamilyConfig:
    """The settings this version knows; lists become tuples as in the class."""
    names = {field.name for field in fields(FamilyConfig)}
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    return FamilyConfig(**{key: value for key, value in values.items() if key in names})  # pyright: ignore

"""The family run under scrutiny: which one, and what it holds."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mi_ortho.runs.directory import RunError
from mi_ortho.runs.files import read_json
from mi_ortho.studies.family.config import FamilyConfig
from mi_ortho.studies.family.job import MATCHES
from mi_ortho.studies.presence.family_vectors import finished_family


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


def open_source(path: Path) -> Source:
    """Read a finished family run.

    Raises:
        RunError: no run of `family`, an unfinished one, or one without vectors.
    """
    run = finished_family(path)
    if "n_kl" not in run.config:
        raise RunError(f"got {path}, whose settings are no family's; expected a run of `family`; name another")
    known: Any = read_json(path / "environment.json") if (path / "environment.json").is_file() else {}
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
    values.setdefault("sinks", "include")  # runs without the setting had no sinks, or steered them
    return FamilyConfig(**{key: value for key, value in values.items() if key in names})  # pyright: ignore

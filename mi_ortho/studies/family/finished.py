"""A finished run of `mi-ortho family` as other studies read it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_ortho.behaviours import AS_THE_BASE
from mi_ortho.elicitation import OrthoSettings
from mi_ortho.elicitation.search import Lbfgs
from mi_ortho.runs.directory import Run, RunError, newest_first, open_run
from mi_ortho.runs.files import read_json
from mi_ortho.runs.rows import pick
from mi_ortho.studies.family.config import FamilyConfig
from mi_ortho.studies.shared.subject import Subject, load_subject

MATCHES = ("activation", "kl")  # in the order in which a run searches them
BEYOND_LINEAR = "more activation-matched vectors than a linear response can hold"  # `family` and `nulls` claim it
MATCH_NAMES = {"kl": "KL match", "activation": "activation match"}  # in the order in which pages show them
MATCH_TITLES = {"kl": "Match on the next-token distribution", "activation": "Match on the target activations"}
HOW = "run `mi-ortho family` first, or name a finished run of it"


@dataclass(frozen=True, eq=False)
class FamilyVectors:
    """An orthogonal family as a run of `mi-ortho family` left it.

    Attributes:
        run: its directory.
        config: its settings.
        match: how its vectors were matched.
        vectors: all of them, in the order in which the run found them.
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
        """A word for each vector, "kept" or "lost" (the behaviour), and "base" at the end."""
        return [*("kept" if kept else "lost" for kept in self.keeps.tolist()), "base"]

    @property
    def studied(self) -> Float[Tensor, "k d_model"]:
        """The vectors that keep the behaviour."""
        return self.vectors[self.keeps]


def ortho_settings(config: FamilyConfig, norm: float) -> OrthoSettings:
    """The search settings of a configuration, with norms in activation units."""
    cap = config.fixed_norm or config.norm_cap
    return OrthoSettings(
        max_norm=cap * norm if cap else float("inf"),
        min_norm=config.fixed_norm * norm,
        restarts=config.restarts,
        block=config.block,
        patience=config.patience,
        solver=Lbfgs(max_steps=config.max_steps or 30),
    )


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
    environment = read_json(path / "environment.json") if (path / "environment.json").is_file() else {}
    command = environment.get("command", "family") if isinstance(environment, dict) else "family"
    if command != "family":
        raise RunError(f"got {path}, a run of `{command}`; expected a run of `family`; name another")
    if not run.finished:
        raise RunError(f"got {path}, an unfinished run; expected a finished one; repeat the command that started it")
    return run


def open_family(path: Path, match: str = "auto") -> FamilyVectors:
    """Read a finished run of `mi-ortho family`; `auto` takes the family of which more vectors keep the behaviour.

    Raises:
        RunError: it is no such run, is unfinished, has no family of this match, or fewer than 4 vectors that keep the
            behaviour.
    """
    run = finished_family(path)
    stored = run.load_rows("vectors")
    if "base" not in stored:
        raise RunError(f"got {path} without a base vector; expected a family run that found one; {HOW}")
    names = [name for name in reversed(MATCHES) if name in stored]  # of equals, kl
    if not names:
        raise RunError(f"got {path} without a family; expected one; {HOW}")
    if match not in ("auto", *names):
        raise RunError(f"got match {match!r}; expected {' or '.join(names) or 'another run'}, as {path} has; change it")
    records = run.records()

    def kept_of(name: str) -> Tensor:
        rows = {int(row["index"]): bool(row["keeps"]) for row in pick(records, kind="vector", match=name)}
        return torch.tensor([rows.get(k, False) for k in range(len(stored[name]))])

    chosen = max(names, key=lambda name: int(kept_of(name).sum())) if match == "auto" else match
    keeps = kept_of(chosen)
    if int(keeps.sum()) < 4:
        raise RunError(f"got {int(keeps.sum())} vectors that keep the behaviour in {path}; expected at least 4; {HOW}")
    base = stored["base"].float().reshape(-1)
    return FamilyVectors(path, dict(run.config), chosen, stored[chosen].float(), keeps, base)


@dataclass(frozen=True, eq=False)
class Source:
    """A finished run of `mi-ortho family`.

    Attributes:
        path: its directory.
        config: what it was run with.
        digest: hash of the weights it was run on, None for a model from a hub.
        base: its base vector.
        families: its orthogonal vectors by match, only those that are not empty.
        behaviour: what its base makes the model show on the first prompt.
    """

    path: Path
    config: FamilyConfig
    digest: str | None
    base: Float[Tensor, " d_model"]
    families: Mapping[str, Float[Tensor, "n d_model"]]
    behaviour: str | None

    @property
    def is_unnamed(self) -> bool:
        """Whether no rule names what the base shows: answers are then compared with its own."""
        return self.behaviour == AS_THE_BASE

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
    environment: Any = read_json(path / "environment.json") if (path / "environment.json").is_file() else {}
    tensors = run.load_rows("vectors")
    families = {match: tensors[match].float() for match in MATCHES if match in tensors and len(tensors[match])}
    if "base" not in tensors or not families:
        raise RunError(f"got {path} without a base and a family; expected vectors.safetensors with both; run it again")
    base = tensors["base"].reshape(-1).float()
    behaviour = next((row.get("mode") for row in pick(run.records(), kind="base")), None)
    return Source(path, _config(run.config), environment.get("model_hash"), base, families, behaviour)


def source_subject(
    source: Source, *, device: str, model: str | None = None, dtype: str | None = None, remedy: str = ""
) -> Subject:
    """The model that a family run was made with, loaded again.

    Args:
        source: the run.
        device: where it is loaded.
        model: another name or folder of it; None takes the run's own.
        dtype: another dtype; None takes the run's own.
        remedy: what to do about other weights besides a new run, for the error.

    Raises:
        RunError: its weights are others than those of the run.
    """
    config = source.config
    subject = load_subject(replace(config, model=model or config.model, device=device, dtype=dtype or config.dtype))
    if source.digest is not None and source.digest != subject.digest:
        raise RunError(
            f"got run {source.path}, made with other weights of {subject.title} ({str(source.digest)[:12]}, now "
            f"{str(subject.digest)[:12]}); expected the same model; run `mi-ortho family` again{remedy}"
        )
    return subject


def _config(settings: Mapping[str, object]) -> FamilyConfig:
    """A run's settings as this version's class; settings it does not have are dropped, lists become tuples."""
    names = {field.name for field in fields(FamilyConfig)}
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    values.setdefault("sinks", "include")  # runs without the setting had no sinks, or steered them
    return FamilyConfig(**{key: value for key, value in values.items() if key in names})  # pyright: ignore

"""Presets: a model with the place, the sizes and the prompts of a published experiment, for all experiments at once."""

import dataclasses
import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.lab.dialled import Dialled
from mi_ortho.model import shipped_prompts
from mi_ortho.studies.presence import requests
from mi_ortho.studies.shared import Subject, Texts

FOLDER = Path(__file__).resolve().parent.parent / "presets"
OWN = 32  # prompts of each kind that stand in where the published experiment had none


@dataclass(frozen=True, eq=False)
class Preset:
    """What one file says.

    Attributes:
        source: the name or file it was asked for by.
        digest: of the file's content: part of what a run is identified by.
        model: a name or folder.
        prompt: what is searched on.
        place: settings that hold in every experiment that has them, at every size.
        size: settings that hold at the standard size.
        network: how large the model is, to tell what it will take: blocks, parameters, width; may be empty.
    """

    source: str
    digest: str
    model: str
    prompt: str
    place: Mapping[str, Any]
    size: Mapping[str, Any]
    network: Mapping[str, int]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Preset) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def name(self) -> str:
        """What identifies it in a run."""
        return f"{self.source} {self.digest}"

    def configured(self, config: Any, *, smoke: bool) -> Any:
        """A configuration with the model and every setting of this preset that it has.

        Experiments on a set of small organisms keep theirs: they are not about this model.
        """
        if isinstance(config, Dialled):
            return config
        defaults = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
        given = {**self.place, **({} if smoke else self.size)}
        changes = {key: value for key, value in given.items() if key in defaults}
        if "where" in defaults and "place" in given:  # the steered positions of a place of bases
            changes["where"] = given["place"]
        return replace(config, model=self.model, **{key: like(value, defaults[key]) for key, value in changes.items()})

    def prompted(self, subject: Subject) -> Subject:
        """The subject with this preset's prompt to search on, and others for what asks for more than one.

        Those are the shipped requests of the same form (harmful in form only, and harmless) and requests for code
        and for English on the same topics; the published experiment had none of them.
        """
        every = requests({}, OWN, 0)
        code, english = (
            tuple(one.prompt for one in every if one.group == group) for group in ("code_own", "english_own")
        )
        harmful, harmless = (shipped_prompts(kind).instructions for kind in ("harmful", "harmless"))
        natural = {
            "harmful": harmful,
            "benign": harmless,
            "code": code,
            "refuse": harmful,
            subject.modes.default: english,
        }
        return replace(subject, texts=Texts((self.prompt,), harmful, natural))


def read_preset(source: str) -> Preset:
    """A preset by its name, or a TOML file.

    Raises:
        ValueError: there is none, or the file is no preset.
    """
    files = {path.stem: path for path in FOLDER.glob("*.toml")}
    path = files.get(source, Path(source))
    if not path.is_file():
        raise ValueError(f"got preset {source!r}; expected {', '.join(sorted(files))} or a TOML file; correct it")
    content = path.read_bytes()
    try:
        table = tomllib.loads(content.decode("utf-8"))
        rest = (dict(table.get(name, {})) for name in ("size", "network"))
        parts = table["model"], table["prompt"], dict(table["place"]), *rest
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"got {path}, which is no preset ({error}); expected model, prompt and a table place in TOML; correct it"
        ) from error
    return Preset(source, hashlib.sha256(content).hexdigest()[:12], *parts)


def like(value: Any, other: Any) -> Any:
    """A value from a file as the type that a configuration has: lists are tuples there."""
    return tuple(value) if isinstance(other, tuple) else type(other)(value) if isinstance(other, float) else value

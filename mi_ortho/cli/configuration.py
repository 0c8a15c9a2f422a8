"""Settings from TOML files: those given with --config, and those the embedded model brings along."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cyclopts

ORGANISM = Path(__file__).parent.parent / "organism"
OWN_SETTINGS = {"family": "demo.toml", "melbo": "demo.toml"}  # other commands: their name with .toml, where it exists


def settings_files(arguments: Sequence[str]) -> tuple[list[str], list[Any]]:
    """The arguments without `--config FILE`, and the sources of settings in order of precedence (after flags).

    The embedded model's own settings of the command come last, and only where no other model is asked for.
    """
    rest, files = [], []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--config":
            files.append(next(remaining, ""))
        elif argument.startswith("--config="):
            files.append(argument.removeprefix("--config="))
        else:
            rest.append(argument)
    for file in files:
        if not Path(file).is_file():
            raise ValueError(f"got --config {file!r}; expected a TOML file with settings; check the path")
    sources = [_toml(Path(file)) for file in files]
    other = any(a == "--model" or a.startswith("--model=") for a in rest) or any(
        "model" in _keys(Path(f)) for f in files
    )
    shipped = ORGANISM / OWN_SETTINGS.get(rest[0], f"{rest[0]}.toml") if rest else ORGANISM
    exports = rest[1:2] == ["export"]  # a stage that reads a run and has no settings
    if shipped.is_file() and not other and not exports:
        sources.append(_toml(shipped))
    return rest, sources


def _toml(path: Path) -> Any:
    return cyclopts.config.Toml(path, must_exist=True, use_commands_as_keys=False)


def _keys(path: Path) -> set[str]:
    import tomllib

    try:
        return set(tomllib.loads(path.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"got {path}, which is no TOML file ({error}); expected name = value lines; correct it"
        ) from error

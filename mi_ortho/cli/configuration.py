"""Settings from TOML files: those given with --config, and those that models of this package bring along."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cyclopts

ORGANISM = Path(__file__).parent.parent / "organism"
SHIPPED = {None: ORGANISM, "embedded": ORGANISM, "smollm2": ORGANISM / "smollm2"}  # by the model that is asked for
OWN_SETTINGS = {"family": "demo.toml", "melbo": "demo.toml"}  # other commands: their name with .toml, where it exists


def settings_files(arguments: Sequence[str]) -> tuple[list[str], list[Any]]:
    """The arguments without `--config FILE`, and the sources of settings in order of precedence (after flags).

    The settings of the command that go with the model come last, where this package has some.
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
    folder = SHIPPED.get(_model(rest, files))
    exports = rest[1:2] == ["export"]  # a stage that reads a run and has no settings
    if rest and folder and not exports:
        shipped = folder / OWN_SETTINGS.get(rest[0], f"{rest[0]}.toml")
        sources += [_toml(shipped)] if shipped.is_file() else []
    return rest, sources


def _model(arguments: Sequence[str], files: Sequence[str]) -> str | None:
    """The model that is asked for, by a flag or else by the first file that names one; None for none."""
    flags = [
        b if a == "--model" else a.removeprefix("--model=")
        for a, b in zip(arguments, [*arguments[1:], ""])
        if a == "--model" or a.startswith("--model=")
    ]
    named = [content["model"] for content in map(_content, files) if "model" in content]
    return next((str(name) for name in [*flags[-1:], *named]), None)


def _toml(path: Path) -> Any:
    return cyclopts.config.Toml(path, must_exist=True, use_commands_as_keys=False)


def _content(path: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"got {path}, which is no TOML file ({error}); expected name = value lines; correct it"
        ) from error

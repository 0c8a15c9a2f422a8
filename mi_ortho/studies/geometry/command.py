"""`mi-ortho geometry`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from mi_ortho.studies.geometry.config import GeometryConfig
from mi_ortho.studies.shared.command import PLAIN, Options, Out, app, execute

Config = Annotated[GeometryConfig, Parameter(name="*")]
DEFAULTS = GeometryConfig()


@app.command
def geometry(
    *,
    config: Config = DEFAULTS,
    out: Out = Path("runs"),
    options: Options = PLAIN,
) -> None:
    """Measure a model's layers: growth of variance, shared directions, likeness, flatness, each beside its control.

    Without arguments: the embedded model on its own prompts. Any model: --model NAME, on shipped prompts or on files
    given by --harmful and --harmless. The same command continues after an interruption.
    """
    from mi_ortho.studies.geometry.study import geometry as command

    execute(command, config, options, out=out)

"""`mi-ortho nulls`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from mi_ortho.studies.nulls.config import NullsConfig
from mi_ortho.studies.shared.command import PLAIN, Options, Out, app, execute

Config = Annotated[NullsConfig, Parameter(name="*", negative_iterable="")]
DEFAULTS = NullsConfig()


@app.command
def nulls(
    run: Path | None = None,
    /,
    *,
    config: Config = DEFAULTS,
    out: Out = Path("runs"),
    options: Options = PLAIN,
) -> None:
    """Hold a finished family run against its null models: a linear map, a quadratic form, random families.

    RUN is the directory of a run of `mi-ortho family`; without it the newest finished one below the output folder is
    taken. The same command continues after an interruption.
    """
    from mi_ortho.studies.nulls.study import nulls as command

    chosen = config if run is None else replace(config, run=str(run))
    execute(command, chosen, options, out=out)

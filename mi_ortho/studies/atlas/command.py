"""`mi-ortho atlas`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from mi_ortho.studies.atlas.config import AtlasConfig
from mi_ortho.studies.shared.command import PLAIN, Options, Out, app, execute

Config = Annotated[AtlasConfig, Parameter(name="*")]
DEFAULTS = AtlasConfig()


@app.command
def atlas(*, config: Config = DEFAULTS, out: Out = Path("runs"), options: Options = PLAIN) -> None:
    """Try pairs of layers and norms: spectra, gains, and which behaviours MELBO finds where random vectors do not.

    `mi-ortho family --source auto --target auto` then takes the best pair. The same command continues after an
    interruption.
    """
    from mi_ortho.studies.atlas.study import atlas as command

    execute(command, config, options, out=out)

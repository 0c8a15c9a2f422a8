"""`mi-ortho dct`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from mi_ortho.studies.dct.config import DctConfig
from mi_ortho.studies.shared.command import PLAIN, Options, Out, app, execute

Config = Annotated[DctConfig, Parameter(name="*", negative_iterable="")]
DEFAULTS = DctConfig()


@app.command
def dct(
    *,
    config: Config = DEFAULTS,
    out: Out = Path("runs"),
    options: Options = PLAIN,
) -> None:
    """Transcode a slice of a model into factors (deep causal transcoding) and try each as a steering vector.

    Linear, projected, quadratic and exponential factors of the response to a steering vector, each beside random
    directions of the same norm. The same command continues after an interruption.
    """
    from mi_ortho.studies.dct.study import dct as command

    execute(command, config, options, out=out)

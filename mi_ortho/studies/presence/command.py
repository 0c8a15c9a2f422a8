"""`mi-ortho presence`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from mi_ortho.studies.presence.config import PresenceConfig
from mi_ortho.studies.shared.command import PLAIN, Options, Out, app, execute

Config = Annotated[PresenceConfig, Parameter(name="*", negative_iterable="")]
DEFAULTS = PresenceConfig()


@app.command
def presence(
    run: Path | None = None,
    /,
    *,
    config: Config = DEFAULTS,
    out: Out = Path("runs"),
    options: Options = PLAIN,
) -> None:
    """Look for a family's vectors in the activations of the model while it really writes code, and on real code.

    Every vector is compared with orthonormal sets of equal size: isotropic, covariance-matched, rotated principal
    components; every difference with shuffled labels of whole passages.

    Args:
        run: a finished run of `mi-ortho family`; the model's newest one in --out when left out.
    """
    from mi_ortho.studies.family.finished import newest_family
    from mi_ortho.studies.presence.study import family_model
    from mi_ortho.studies.presence.study import presence as command

    family = run or newest_family(out, config.model)
    settings = replace(config, model=config.model or family_model(family))
    execute(command, settings, options, family=family, out=out)

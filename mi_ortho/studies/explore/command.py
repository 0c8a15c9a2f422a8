"""`mi-ortho explore`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from mi_ortho.studies.explore.config import ExploreConfig
from mi_ortho.studies.shared.command import PLAIN, Options, app, execute

Config = Annotated[ExploreConfig, Parameter(name="*", negative_iterable="")]
DEFAULTS = ExploreConfig()


@app.command
def explore(
    run: Path,
    /,
    *,
    config: Config = DEFAULTS,
    options: Options = PLAIN,
) -> None:
    """Make a page to choose a vector of a family and see what it does: texts, presence, attention, nearest tokens.

    The page needs no server; what it shows is measured once with the run's model and kept in RUN/explore.

    Args:
        run: a finished run of `mi-ortho family`.
    """
    from mi_ortho.studies.explore.study import explore as command
    from mi_ortho.studies.explore.study import with_model

    settings = with_model(config, run)
    execute(command, settings, options, family=run)

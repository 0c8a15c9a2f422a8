"""`mi-ortho family` and `mi-ortho melbo`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from mi_ortho.studies.family.config import FamilyConfig
from mi_ortho.studies.shared.command import PLAIN, Options, Out, app, execute

Config = Annotated[FamilyConfig, Parameter(name="*", negative_iterable="")]
DEFAULTS = FamilyConfig()


@app.command
def family(
    *,
    config: Config = DEFAULTS,
    out: Out = Path("runs"),
    options: Options = PLAIN,
) -> None:
    """Find the orthogonal family of one behaviour, measure it beside its controls, and write a report.

    Without arguments: the embedded model. The published experiment: mi-ortho family --model Qwen/Qwen1.5-1.8B-Chat
    --source 8 --target 16 --radius 7 --n 1558 --n-kl 0 --device cuda. The same command continues after an interruption.
    Settings can also come from a TOML file: --config FILE; flags override it.
    """
    from mi_ortho.studies.family.study import family as command

    execute(command, config, options, out=out)


@app.command
def melbo(
    *,
    config: Config = DEFAULTS,
    out: Out = Path("runs"),
    options: Options = PLAIN,
) -> None:
    """Find mutually orthogonal MELBO vectors and show what each makes the model write. Settings as for family."""
    from mi_ortho.studies.family.study import melbo_only

    execute(melbo_only, config, options, out=out)

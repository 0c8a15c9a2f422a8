"""`mi-ortho experiment`: the claims of the repository's `experiments` folder."""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from mi_ortho.studies.shared.command import Fresh, Out, app

Listed = Annotated[bool, Parameter(name="--list", negative="", help="Name every experiment with its claim.")]
Smoke = Annotated[bool, Parameter(name="--smoke", negative="", help="The smallest setting, in seconds.")]
Settings = Annotated[
    tuple[str, ...],
    Parameter(name="--set", negative_iterable="", consume_multiple=False, help="KEY=VALUE: another setting."),
]
To = Annotated[
    Path | None, Parameter(name="--to", help="Folder of the result pages; docs/results of the checkout when left out.")
]


@Parameter(name="*")
@dataclass(frozen=True)
class Choices:
    """What is run besides the names, and where.

    Args:
        model: a name or folder instead of the embedded model.
        preset: settings and prompts of a published experiment: qwen1.5-1.8b-chat, or a TOML file.
        device: cpu, cuda, cuda:1, mps: where the model lies.
        workers: processes, each with a model of its own.
        threads: CPU threads of each worker.
        ray: address of a Ray cluster to run on instead, or auto.
    """

    listed: Listed = False
    smoke: Smoke = False
    model: str | None = None
    preset: str | None = None
    out: Out = Path("runs")
    settings: Settings = ()
    fresh: Fresh = False
    device: str = "cpu"
    workers: int = 1
    threads: int = 1
    ray: str | None = None
    to: To = None


STANDARD = Choices()


@app.command
def experiment(*names: str, choices: Choices = STANDARD) -> int:
    """Run claims by NAME, or `all`, and resume them; `results` writes the result pages from finished runs.

    Args:
        names: experiments, `all`, `results`, `expected`: what a preset should take, from finished standard runs, or
            `post`: the published experiment on a model.
    """
    if choices.listed or not names:
        print("\n".join(_part("experiments").listing()))  # does not import the experiments, which takes seconds
        return 0
    return _part("experiments.lab.program").run(names, choices)


def _part(name: str) -> Any:
    """A module of the experiments, which ship with the repository and are no part of the installed package."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "experiments":
            raise
    if not Path("experiments/lab/program.py").is_file():
        raise ValueError(
            "got no folder experiments here; expected a checkout of the repository, where the experiments are; "
            "clone it and run the command in it"
        )
    sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(name)

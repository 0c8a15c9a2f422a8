"""`mi-ortho experiment`: the claims of the repository's `experiments` folder."""

import importlib
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from mi_ortho.studies.shared.command import Fresh, Out, app

List = Annotated[bool, Parameter(name="--list", negative="", help="Name every experiment with its claim.")]
Smoke = Annotated[bool, Parameter(name="--smoke", negative="", help="The smallest setting, in seconds.")]
Set = Annotated[
    tuple[str, ...],
    Parameter(name="--set", negative_iterable="", consume_multiple=False, help="KEY=VALUE: another setting."),
]


@app.command
def experiment(
    *names: str,
    list: List = False,
    smoke: Smoke = False,
    model: str | None = None,
    preset: str | None = None,
    out: Out = Path("runs"),
    set: Set = (),
    fresh: Fresh = False,
    device: str = "cpu",
    workers: int = 1,
    threads: int = 1,
    ray: str | None = None,
) -> None:
    """Run claims by NAME, or `all`, and resume them; `results` writes the result pages from finished runs.

    Args:
        names: experiments, `all`, or `results`.
        model: a name or folder instead of the embedded model.
        preset: settings and prompts of a published experiment: qwen1.5-1.8b-chat, or a TOML file.
        device: cpu, cuda, cuda:1, mps: where the model lies.
        workers: processes, each with a model of its own.
        threads: CPU threads of each worker.
        ray: address of a Ray cluster to run on instead, or auto.
    """
    if list or not names:
        print("\n".join(_part("experiments").listing()))  # does not import the experiments, which takes seconds
        return
    given = [*names, *["--smoke"] * smoke, *["--fresh"] * fresh, "--out", str(out), "--device", device]
    given += ["--workers", str(workers), "--threads", str(threads), *(["--ray", ray] if ray else [])]
    given += [*(["--model", model] if model else []), *(["--preset", preset] if preset else [])]
    code = _part("experiments.lab.program").main([*given, *(part for setting in set for part in ("--set", setting))])
    if code:
        raise SystemExit(code)


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

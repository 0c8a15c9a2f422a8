"""The application and what every command shares: the common options, and the call of a command from its flags."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from mi_ortho.studies.shared.progress import ProgressBar

app = App(
    name="mi-ortho",
    help="Families of mutually orthogonal steering vectors: find them, measure them, explain them.",
    help_format="plaintext",
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,  # main tells how to continue
    default_parameter=Parameter(consume_multiple=True),  # `--held-out a b` as well as a flag for each
)
Out = Annotated[Path, Parameter(name="--out", help="Folder that run directories are made in.")]
At = Annotated[Path | None, Parameter(name="--at", help="The run directory itself, new or to be continued.")]
Fresh = Annotated[bool, Parameter(name="--fresh", negative="", help="Compute again what is already finished.")]
Json = Annotated[
    bool, Parameter(name="--json", negative="", help="Print the summary as JSON; progress goes to stderr.")
]
Threads = Annotated[int, Parameter(name="--threads", help="CPU threads; 0 takes 1 for small models, else all cores.")]


@Parameter(name="*")
@dataclass(frozen=True)
class Options:
    """Options besides its settings of every command that makes a run."""

    at: At = None
    fresh: Fresh = False
    json: Json = False
    threads: Threads = 0


PLAIN = Options()


def execute(command: Callable[..., Any], config: Any, options: Options, **more: Any) -> None:
    """Run `command(config, **more, at=, fresh=, say=, track=)`, which returns a finished Run, and print its headline.

    The size of `config.model` decides the number of threads. Callers import the command lazily, so that --help is
    instant.
    """
    import torch

    from mi_ortho.runs.directory import summary_of
    from mi_ortho.studies.shared.progress import printable

    torch.set_num_threads(options.threads or small_threads(config.model))
    with ProgressBar(sys.stderr if options.json else sys.stdout) as progress:
        run = command(config, **more, at=options.at, fresh=options.fresh, say=progress.say, track=progress.track)
    summary = summary_of(run)
    if options.json:
        print(json.dumps({"run": str(run.path), **summary}, ensure_ascii=False, indent=1))
        return
    print(printable(summary.get("headline", "no headline")))
    if (run.path / "report.html").is_file():
        print(f"report: {run.path / 'report.html'}")
    print(f"details: mi-ortho show {run.path}")


def small_threads(model: str | None) -> int:
    """The number of threads: 1 for tiny models, at most 2 for the packaged one, else torch's default.

    With another number roundings differ, and on the packaged model other vectors are found.
    """
    import torch

    from mi_ortho.model.load import PACKAGED

    usual = torch.get_num_threads()
    if model in PACKAGED:
        return min(2, usual)
    small = model is None or (
        Path(model).is_dir() and sum(f.stat().st_size for f in Path(model).glob("*.safetensors")) < 1e8
    )
    return 1 if small else usual

"""`mi-ortho refusal`: all stages at once, or one after the other in the same run directory."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from mi_ortho.studies.refusal.config import RefusalConfig
from mi_ortho.studies.shared.command import PLAIN, At, Options, Out, Threads, app, execute

Config = Annotated[RefusalConfig, Parameter(name="*", negative_iterable="")]
DEFAULTS = RefusalConfig()
refusal = App(
    name="refusal", help="Refusal directions: extract, select, ablate, compare, export.", help_format="plaintext"
)
app.command(refusal)


@refusal.default
def every(
    *,
    config: Config = DEFAULTS,
    out: Out = Path("runs"),
    options: Options = PLAIN,
) -> None:
    """Find the refusal direction of a model, try it beside random directions, compare alternatives, write a report.

    Without arguments: the embedded model. A real one: mi-ortho refusal --model Qwen/Qwen1.5-1.8B-Chat --harmful
    harmful.json --harmless harmless.json --device cuda. Interrupted or staged runs continue with the same settings.
    """
    from mi_ortho.studies.refusal.study import refusal as command

    execute(command, config, options, out=out)


@refusal.command
def extract(*, config: Config = DEFAULTS, out: Out = Path("runs"), at: At = None, threads: Threads = 0) -> None:
    """Read the difference of means at every layer and end-of-instruction position, and stop there."""
    _until("extract", config, out, at, threads)


@refusal.command
def select(*, config: Config = DEFAULTS, out: Out = Path("runs"), at: At = None, threads: Threads = 0) -> None:
    """Score every candidate and select one direction; continues the run of the same settings."""
    _until("select", config, out, at, threads)


@refusal.command
def ablate(*, config: Config = DEFAULTS, out: Out = Path("runs"), at: At = None, threads: Threads = 0) -> None:
    """Try the selected direction on test prompts beside random ones; continues the run of the same settings."""
    _until("ablate", config, out, at, threads)


@refusal.command
def compare(
    *,
    config: Config = DEFAULTS,
    out: Out = Path("runs"),
    options: Options = PLAIN,
) -> None:
    """Also the steering circle and further directions, then the report: the same as no stage at all."""
    every(config=config, out=out, options=options)


@refusal.command
def export(run: Path, folder: Path, /) -> None:
    """Write the model with the selected direction taken out of its weights, as a Hugging Face folder.

    Args:
        run: a directory of `mi-ortho refusal`.
        folder: a new folder for weights, configuration and tokenizer.
    """
    from mi_ortho.studies.refusal.study import export_edited

    print(f"wrote {export_edited(run, folder, print)}")


def _until(stage: str, config: RefusalConfig, out: Path, at: Path | None, threads: int) -> None:
    import sys

    import torch

    from mi_ortho.studies.refusal.study import refusal as command
    from mi_ortho.studies.shared.progress import ProgressBar

    torch.set_num_threads(threads or (1 if config.model is None else torch.get_num_threads()))
    with ProgressBar(sys.stdout) as progress:
        options: dict[str, Any] = {"say": progress.say, "track": progress.track, "until": stage}
        run = command(config, out, fresh=False, at=at, **options)
    print(f"{stage} done: {run.path}")

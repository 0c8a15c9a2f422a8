"""The console script `mi-ortho`. Heavy imports wait until a command runs, so that --help is instant."""

import json
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import cyclopts
from cyclopts import App, Parameter

from mi_ortho.settings import FamilyConfig

HERE = Path(__file__).parent
app = App(
    name="mi-ortho",
    help="Families of mutually orthogonal steering vectors: find them, measure them, explain them.",
    help_format="plaintext",
    version_flags=["--version"],
)
Config = Annotated[FamilyConfig, Parameter(name="*", negative_iterable="")]
DEFAULTS = FamilyConfig()
Out = Annotated[Path, Parameter(name="--out", help="Folder that run directories are made in.")]
At = Annotated[Path | None, Parameter(name="--at", help="The run directory itself, new or to be continued.")]
Fresh = Annotated[bool, Parameter(name="--fresh", negative="", help="Compute again what is already finished.")]
Json = Annotated[
    bool, Parameter(name="--json", negative="", help="Print the summary as JSON; progress goes to stderr.")
]
Threads = Annotated[int, Parameter(name="--threads", help="CPU threads; 0 takes 1 for small models, else all cores.")]


@app.command
def family(
    *,
    config: Config = DEFAULTS,
    out: Out = Path("runs"),
    at: At = None,
    fresh: Fresh = False,
    json: Json = False,
    threads: Threads = 0,
) -> None:
    """Find the orthogonal family of one behaviour, measure it beside its controls, and write a report.

    Without arguments: the embedded model. The published experiment: mi-ortho family --model Qwen/Qwen1.5-1.8B-Chat
    --source 8 --target 16 --radius 7 --n 1558 --n-kl 0 --device cuda. The same command continues after an interruption.
    Settings can also come from a TOML file: --config FILE; flags override it.
    """
    _run("family", config, out, at, fresh, json, threads)


@app.command
def melbo(
    *,
    config: Config = DEFAULTS,
    out: Out = Path("runs"),
    at: At = None,
    fresh: Fresh = False,
    json: Json = False,
    threads: Threads = 0,
) -> None:
    """Find mutually orthogonal MELBO vectors and show what each makes the model write. Settings as for family."""
    _run("melbo_only", config, out, at, fresh, json, threads)


@app.command
def report(run: Path, /) -> None:
    """Render the report of a run directory again."""
    from mi_ortho import commands

    print(f"report: {commands.report(run)}")


@app.command
def show(run: Path, /, *, limit: int = 16) -> None:
    """Print a run directory's findings: headline, verdicts, and the first vectors of each family.

    Args:
        run: a run directory.
        limit: vectors shown of each family.
    """
    from mi_ortho import commands

    print("\n".join(commands.show(run, limit)))


@app.command
def export(
    run: Path, to: Path, /, *, group: str = "base", index: int = 0, strength: float = 1.0, blocks: str = "layers"
) -> None:
    """Write one vector for another program: FILE.safetensors, FILE.gguf (llama.cpp) or FILE.pt (lm-eval steered).

    Args:
        run: a run directory, or a vectors.safetensors file.
        to: the file to write; its ending chooses the format.
        group: base, melbo, activation or kl.
        index: which vector of the group.
        strength: factor on the vector.
        blocks: for lm-eval, what the Hugging Face model calls its list of blocks: layers (most) or h (GPT-2).
    """
    from mi_ortho import commands

    warning = commands.export(run, group, index, to, strength=strength, blocks=blocks)
    print(f"wrote {to}")
    if warning:
        print(f"note: {warning}", file=sys.stderr)


def _run(name: str, config: FamilyConfig, out: Path, at: Path | None, fresh: bool, as_json: bool, threads: int) -> None:
    import torch

    from mi_ortho import commands

    torch.set_num_threads(threads or _threads(config.model))
    stream = sys.stderr if as_json else sys.stdout
    with Progress(stream) as progress:
        run = getattr(commands, name)(config, out, fresh=fresh, at=at, say=progress.say, track=progress.track)
    summary = json.loads((run.path / "summary.json").read_text("utf-8"))
    if as_json:
        print(json.dumps({"run": str(run.path), **summary}, ensure_ascii=False, indent=1))
        return
    print(commands.printable(str(summary["headline"])))
    if (run.path / "report.html").is_file():
        print(f"report: {run.path / 'report.html'}")
    print(f"details: mi-ortho show {run.path}")


def _threads(model: str | None) -> int:
    """One thread for models whose matrices are too small to share, else what torch would take."""
    import torch

    small = model is None or (
        Path(model).is_dir() and sum(f.stat().st_size for f in Path(model).glob("*.safetensors")) < 1e8
    )
    return 1 if small else torch.get_num_threads()


class Progress(AbstractContextManager["Progress"]):
    """A live bar on a terminal; elsewhere a plain line every few seconds. Texts are never read as markup."""

    def __init__(self, stream: Any):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self.console = Console(file=stream, markup=False, highlight=False, emoji=False, soft_wrap=True)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self.bars = Bars(*columns, console=self.console, transient=True) if self.console.is_terminal else None
        self.tasks: dict[str, Any] = {}
        self.started: dict[str, tuple[float, int]] = {}
        self.printed = 0.0

    def __enter__(self) -> "Progress":
        if self.bars is not None:
            self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bars is not None:
            self.bars.stop()

    def say(self, line: str) -> None:
        """One line about a stage."""
        from mi_ortho.commands import printable

        self.console.print(printable(line))

    def track(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` steps of a stage; rate and remaining time are counted from the first call."""
        now = time.monotonic()
        begun, before = self.started.setdefault(stage, (now, done))
        if self.bars is not None:
            if stage not in self.tasks:
                for task in self.tasks.values():
                    self.bars.update(task, visible=False)
                self.tasks[stage] = self.bars.add_task(stage, total=total)
            self.bars.update(self.tasks[stage], completed=done, total=total)
        elif now - self.printed > 5 or done >= total:
            self.printed = now
            rate = (done - before) / (now - begun) if now > begun and done > before else None
            left = f", {rate:.2f}/s, {(total - done) / rate:.0f} s left" if rate else ""
            self.console.print(f"{stage}: {done}/{total}{left}")


def settings_files(arguments: Sequence[str]) -> tuple[list[str], list[Any]]:
    """Take `--config FILE` out of the arguments; the sources of settings in order of precedence after flags.

    The embedded model's own demo.toml comes last, and only where no other model is asked for.
    """
    rest, files = [], []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--config":
            files.append(next(remaining, ""))
        elif argument.startswith("--config="):
            files.append(argument.removeprefix("--config="))
        else:
            rest.append(argument)
    for file in files:
        if not Path(file).is_file():
            raise ValueError(f"got --config {file!r}; expected a TOML file with settings; check the path")
    sources = [_toml(Path(file)) for file in files]
    other = any(a == "--model" or a.startswith("--model=") for a in rest) or any(
        "model" in _keys(Path(f)) for f in files
    )
    if rest[:1] in (["family"], ["melbo"]) and not other and (HERE / "organism" / "demo.toml").is_file():
        sources.append(_toml(HERE / "organism" / "demo.toml"))
    return rest, sources


def _toml(path: Path) -> Any:
    return cyclopts.config.Toml(path, must_exist=True, use_commands_as_keys=False)


def _keys(path: Path) -> set[str]:
    import tomllib

    try:
        return set(tomllib.loads(path.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"got {path}, which is no TOML file ({error}); expected name = value lines; correct it"
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Mistakes print one line and give exit code 2; an interruption gives 130."""
    try:
        rest, app.config = settings_files(list(sys.argv[1:] if arguments is None else arguments))
        app(rest, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as error:
        return _mistake(" ".join(str(error).split()))
    except ValueError as error:
        return _mistake(" ".join(str(error).split()))
    except MemoryError as error:
        return _mistake(f"out of memory ({error}); use a smaller --block, or --dtype bfloat16")
    except KeyboardInterrupt:
        print("interrupted; the same command continues where this one stopped", file=sys.stderr)
        return 130
    return 0


def _mistake(line: str) -> int:
    print(f"mi-ortho: {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

"""The layers that the newest atlas of a model recommends: what other commands read of its finished runs."""

from dataclasses import dataclass
from pathlib import Path

from mi_ortho.runs.directory import Run, RunError, newest_first, open_run, summary_of


@dataclass(frozen=True)
class BestLayers:
    """The best pair of a finished run of `mi-ortho atlas`, the norm of its vectors in activation units, and the run."""

    source: int
    target: int
    radius: float
    run: Path


def best_layers(folder: Path, model: str | None = None) -> BestLayers:
    """The best pair of the newest finished atlas of a model under `folder`; None is the embedded model.

    Raises:
        RunError: there is no such run, or it recommends no pair; the message says which command makes one.
    """
    command = f"mi-ortho atlas{f' --model {model}' if model else ''}"
    for path in newest_first(path.parent for path in (Path(folder) / "atlas").glob("*/summary.json")):
        if (path / "config.json").is_file() and open_run(path).config.get("model") == model:
            return _best(open_run(path), command)
    raise RunError(
        f"got no finished atlas of {model or 'the embedded model'} in {folder}; expected one to take layers from; "
        f"run `{command}` first, or name --source and --target"
    )


def _best(run: Run, command: str) -> BestLayers:
    content = summary_of(run).get("best")
    best = content if isinstance(content, dict) else {}
    source, target, radius = (best.get(name) for name in ("source", "target", "radius"))
    if not isinstance(source, int) or not isinstance(target, int) or not isinstance(radius, int | float):
        raise RunError(
            f"got {run.path}, which recommends no layers; expected a pair of them; try other norms with `{command}`, "
            "or name --source and --target"
        )
    return BestLayers(source, target, float(radius), run.path)

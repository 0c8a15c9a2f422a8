"""`mi-ortho report`, `compare`, `show` and `export`: what can be done with a run directory."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from mi_ortho.studies.shared.command import app

Index = Annotated[bool, Parameter(name="--index", negative="", help="One page over all runs of a folder.")]


@app.command
def report(run: Path | None = None, /, *, index: Index = False, to: Path | None = None) -> None:
    """Render the report of a run directory again, or with --index one page over all runs of a folder.

    Args:
        run: a run directory; with --index a folder of runs, `runs` when left out.
        to: the page to write; in the run directory when left out.
    """
    from mi_ortho.studies.overview import study

    if run is None and not index:
        raise ValueError("got no run directory; expected one, or --index for a page over all runs; name it")
    print(f"index: {study.index(run or Path('runs'))}" if index else f"report: {study.report(run or Path(), to)}")


@app.command
def compare(first: Path, second: Path, /, *, to: Path | None = None) -> None:
    """Set two runs of one command side by side: settings that differ, headlines, verdicts, curves, completions.

    Args:
        first: a run directory, A on the page.
        second: another of the same command, B on the page.
        to: the page to write; in the first directory when left out.
    """
    from mi_ortho.studies.overview import study

    print(f"comparison: {study.compare(first, second, to)}")


@app.command
def show(run: Path, /, *, limit: int = 16) -> None:
    """Print a run directory's findings: headline, verdicts, and the first vectors of each family.

    Args:
        run: a run directory.
        limit: vectors shown of each family.
    """
    from mi_ortho.studies.overview import study

    print("\n".join(study.show(run, limit)))


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
    from mi_ortho.studies.overview import study

    warning = study.export(run, group, index, to, strength=strength, blocks=blocks)
    print(f"wrote {to}")
    if warning:
        print(f"note: {warning}", file=sys.stderr)

"""`mi-ortho report`, `show` and `export`: what can be done with a run directory."""

import sys
from pathlib import Path

from mi_ortho.cli.app import app


@app.command
def report(run: Path, /) -> None:
    """Render the report of a run directory again."""
    from mi_ortho.commands import runs

    print(f"report: {runs.report(run)}")


@app.command
def show(run: Path, /, *, limit: int = 16) -> None:
    """Print a run directory's findings: headline, verdicts, and the first vectors of each family.

    Args:
        run: a run directory.
        limit: vectors shown of each family.
    """
    from mi_ortho.commands import runs

    print("\n".join(runs.show(run, limit)))


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
    from mi_ortho.commands import runs

    warning = runs.export(run, group, index, to, strength=strength, blocks=blocks)
    print(f"wrote {to}")
    if warning:
        print(f"note: {warning}", file=sys.stderr)

"""`python -m benchmarks [table ...] [--write docs/benchmarks.md]`: print the tables, or write them."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import App, Parameter

from benchmarks.accelerator import accelerator
from benchmarks.chat_model import chat_model
from benchmarks.derivatives import DERIVATIVES
from benchmarks.options import Options
from benchmarks.planted import planted
from benchmarks.table import machine
from benchmarks.tables import CONTENDERS, TABLES
from benchmarks.tables import probe as print_memory
from mi_ortho.cli.exit_code import parsed

ALL = {**TABLES, **DERIVATIVES, "planted": planted, "accelerator": accelerator, "smollm2": chat_model}
BY_NAME = ("smollm2",)  # needs the weights of `make smollm2` and a quarter of an hour
INTRODUCTION = """Each table stands under the command that made it; `make bench` prints them all. Times are processor
seconds where they say CPU; wall seconds include waiting for other programs on the machine, so only their ratios mean
something. The loops that are compared ran in turn in one process.
"""


STANDARD = Options()
Tables = Annotated[str, Parameter(help=f"Of {', '.join(ALL)}; all but {', '.join(BY_NAME)} by default.")]
app = App(
    name="python -m benchmarks",
    help="Print tables of speed and quality beside the published loops, or write them.",
    help_format="plaintext",
    version_flags=[],
    suppress_keyboard_interrupt=False,  # it gives exit code 130
    default_parameter=Parameter(consume_multiple=True),
)


@app.default
def benchmarks(
    *tables: Tables, write: Path | None = None, options: Options = STANDARD, threads: int = 1, probe: str | None = None
) -> None:
    """Run the chosen tables.

    Args:
        write: file to write as well as print.
        threads: CPU threads.
        probe: a loop's name: print the memory that it adds, in MB.
    """
    if unknown := set(tables) - set(ALL):
        raise ValueError(f"got tables {sorted(unknown)}; expected some of {', '.join(ALL)}; correct them")
    if probe is not None and probe not in CONTENDERS:
        raise ValueError(f"got --probe {probe!r}; expected one of {', '.join(CONTENDERS)}; choose one")
    torch.set_num_threads(threads)
    if probe:
        return print_memory(probe)
    title = "# Benchmarks" + (f": {', '.join(tables)}" if tables else "")
    parts = [f"{title}\n\n{INTRODUCTION}", f"Machine: {machine()}; PyTorch {torch.__version__}.\n"]
    for name in tables or (name for name in ALL if name not in BY_NAME):
        result = ALL[name](options)
        for table in result if isinstance(result, list) else [result]:
            parts.append(table.markdown())
            print(parts[-1], flush=True)
    if write:
        write.write_text("\n".join(parts))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Mistakes print one line and give exit code 2; an interruption gives 130."""
    return parsed("benchmarks", app, arguments)


if __name__ == "__main__":
    sys.exit(main())

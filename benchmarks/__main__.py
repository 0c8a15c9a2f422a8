"""`python -m benchmarks [table ...] [--write docs/benchmarks.md]`: print the tables, or write them."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

import torch

from benchmarks.accelerator import accelerator
from benchmarks.derivatives import DERIVATIVES
from benchmarks.planted import planted
from benchmarks.table import machine
from benchmarks.tables import CONTENDERS, TABLES, probe

ALL = {**TABLES, **DERIVATIVES, "planted": planted, "accelerator": accelerator}
INTRODUCTION = """# Benchmarks

Each table stands under the command that made it; `make bench` prints them all. Times are processor seconds where they
say CPU; wall seconds include waiting for other programs on the machine, so only their ratios mean something. The loops
that are compared ran in turn in one process.
"""


def options() -> Namespace:
    """What the command line asks for."""
    parser = ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("tables", nargs="*", help=f"of {', '.join(ALL)}; all by default")
    parser.add_argument("--write", type=Path, help="file to write instead of printing")
    parser.add_argument("--steps", type=int, default=1000, help="of the published loop; 1000 in the paper")
    parser.add_argument("--vectors", type=int, default=3, help="made by the published loop and by ours")
    parser.add_argument("--factors", type=int, default=64, help="of the dct table")
    parser.add_argument("--iterations", type=int, default=5, help="of the dct table")
    parser.add_argument("--repeats", type=int, default=5, help="of the dct and jacobian tables, in turn")
    parser.add_argument("--rows", type=Path, help="file where the planted table keeps its rows, and goes on from")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda runs the accelerator table")
    parser.add_argument("--family", type=int, default=1558, help="vectors of the accelerator table")
    parser.add_argument("--probe", choices=CONTENDERS, help="print the memory that one loop adds, in MB")
    chosen = parser.parse_args()
    if unknown := set(chosen.tables) - set(ALL):
        parser.error(f"got tables {sorted(unknown)}; expected some of {', '.join(ALL)}")
    return chosen


def main() -> None:
    """Run the chosen tables."""
    chosen = options()
    torch.set_num_threads(chosen.threads)
    if chosen.probe:
        return probe(chosen.probe)
    parts = [INTRODUCTION, f"Machine: {machine()}; PyTorch {torch.__version__}.\n"]
    for name in chosen.tables or ALL:
        made = ALL[name](chosen)
        for table in made if isinstance(made, list) else [made]:
            parts.append(table.markdown())
            print(parts[-1], flush=True)
    if chosen.write:
        chosen.write.write_text("\n".join(parts))


main()

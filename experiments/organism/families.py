"""The acceptance numbers of steering: one family run for each behaviour, and one Markdown table of what they recorded.

Targets, fixed before the runs: 40 % of d_model orthogonal vectors keep code by the KL match, random vectors of the same
norms at most 5 %, transfer at least half of the base's; at least 4 modes among 32 MELBO vectors, where at most 10 % of
random vectors of that norm change the mode.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import mi_ortho as mo
from mi_ortho.runs import pick

SETTINGS = Path(__file__).parents[2] / "mi_ortho" / "organism"
BEHAVIOURS = ("demo", "alien", "stem", "help")  # names of settings files; demo is code
SHARE_OF_WIDTH, RANDOM_KEPT, TRANSFER, MODES, RANDOM_CHANGED = 0.40, 0.05, 0.50, 4, 0.10
HEAD = "| behaviour | match | layers | vectors | keep it | random keep it | norm / base | transfer | random's | end |"

FOLDER_SHOWN = "runs/families"

Row = dict[str, Any]


def run_families(
    model: Path | None, out: Path, names: Sequence[str] = BEHAVIOURS, report: Callable[[str], None] = print
) -> dict[str, Path]:
    """Run (or continue) `mi-ortho family` with each settings file, and return each run directory.

    A behaviour without a base vector is reported and left out of the result. Raises ValueError for a settings file that
    does not exist, before any run.
    """
    absent = [name for name in names if not (SETTINGS / f"{name}.toml").is_file()]
    if absent:
        raise ValueError(f"got settings {', '.join(absent)}; expected TOML files in {SETTINGS}; correct the names")
    done = {}
    for name in names:
        command = [
            sys.executable,
            "-m",
            "mi_ortho.cli",
            "family",
            "--config",
            str(SETTINGS / f"{name}.toml"),
            "--at",
            str(out / name),
            *(["--model", str(model)] if model else []),
        ]
        report(f"{name}: {' '.join(command)}")
        result = subprocess.run(command, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if result.returncode:
            report(f"{name}: {result.stderr.strip().splitlines()[-1]}")
        else:
            done[name] = out / name
    return done


def figures(rows: Sequence[Row], match: str) -> Row | None:
    """Counts, norms and transfer of one family of one run; None where it was not searched."""
    base, family = pick(rows, kind="base")[0], pick(rows, kind="vector", match=match)
    random = pick(rows, kind="control", match=match, control="isotropic")
    if not family:
        return None
    ours, theirs = (
        [row["transfer"] for row in some if row["keeps"] and row["transfer"] is not None] for some in (family, random)
    )
    base_transfer = base["transfer"] or float("nan")
    return {
        "behaviour": base["mode"],
        "found": len(family),
        "kept": sum(row["keeps"] for row in family),
        "random": sum(row["keeps"] for row in random),
        "norm": median(row["norm"] for row in family) / base["norm"],
        "longest": max(row["norm"] for row in family) / base["norm"],
        "transfer": fmean(ours) / base_transfer if ours else None,
        "random_transfer": fmean(theirs) / base_transfer if theirs else None,
    }


def modes_found(rows: Sequence[Row]) -> Row:
    """What MELBO's vectors and random ones of their norm make the model write on the first prompt."""
    plain = next(row["mode"] for row in rows if row["kind"] == "unsteered")
    melbo, random = pick(rows, kind="melbo"), pick(rows, kind="melbo_control")
    modes = [row["mode"] for row in melbo]
    return {
        "modes": sorted(set(modes) - {"other"}),
        "changed": sum(mode != plain for mode in modes),
        "of": len(modes),
        "random_changed": sum(row["mode"] != plain for row in random),
        "random_of": len(random),
    }


def families_table(runs: dict[str, Path], width: int) -> str:
    """Both matches of every run, MELBO's modes, and the targets beside what was reached.

    width: d_model.
    """
    lines, notes = [HEAD, f"|{'---|' * (HEAD.count('|') - 1)}"], []
    for name, path in runs.items():
        run = mo.open_run(path)
        rows, ends = run.records(), json.loads((path / "summary.json").read_text())["end"]
        for match in ("kl", "activation"):
            if counts := figures(rows, match):
                lines.append(_line(run.config, match, counts, ends.get(match)))
                notes += judged(counts, width) if (name, match) == ("demo", "kl") else []
        notes += judged_modes(modes_found(rows), run.config)
    return "\n".join([*lines, "", *notes])


def families_section(folder: Path, width: int) -> str:
    """The card's section on the runs that `run_families` wrote to `folder`; raises ValueError where there are none."""
    runs = {name: folder / name for name in BEHAVIOURS if (folder / name / "summary.json").is_file()}
    if not runs:
        raise ValueError(f"got {folder} without finished runs; expected a folder written by `families`; run it first")
    return f"""
## Orthogonal families of steering vectors
Printed by `python -m experiments.organism families --out {FOLDER_SHOWN}`: one run of `mi-ortho family` for each
settings file in `mi_ortho/organism`. All prompts are refused without steering. Random vectors are isotropic and have
the norms of the family they stand beside. Transfer: on held-out prompts, how often vectors that keep the behaviour show
it, relative to the base vector (of the random vectors too: those that show the behaviour at all). End: where fewer than
half of ten consecutive vectors keep it.

{families_table(runs, width)}
"""


def _line(config: Any, match: str, counts: Row, end: int | None) -> str:
    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    cells = [
        counts["behaviour"],
        match,
        f"{config['source']} to {config['target']}",
        str(counts["found"]),
        str(counts["kept"]),
        str(counts["random"]),
        f"median {counts['norm']:.2f}, largest {counts['longest']:.2f}",
        number(counts["transfer"]),
        number(counts["random_transfer"]),
        "not reached" if end is None else str(end),
    ]
    return f"| {' | '.join(cells)} |"


def judged(counts: Row, width: int) -> list[str]:
    """The targets for the code family, each with its value."""
    transfer = -1.0 if counts["transfer"] is None else counts["transfer"]
    return [
        _verdict("orthogonal vectors that keep code, of d_model", counts["kept"] / width, SHARE_OF_WIDTH, True),
        _verdict(
            "random vectors of the same norms that keep code", counts["random"] / counts["found"], RANDOM_KEPT, False
        ),
        _verdict("transfer to other prompts, relative to the base", transfer, TRANSFER, True),
    ]


def judged_modes(counts: Row, config: Any) -> list[str]:
    """MELBO's targets on one run, each with its value."""
    place = f"norm {config['radius']:g}, block {config['source']} to {config['target']}"
    return [
        _verdict(
            f"modes among {counts['of']} MELBO vectors ({place}: {', '.join(counts['modes'])})",
            float(len(counts["modes"])),
            MODES,
            True,
        ),
        _verdict(
            f"random vectors of that norm that change the mode (MELBO: {counts['changed']} of {counts['of']})",
            counts["random_changed"] / counts["random_of"],
            RANDOM_CHANGED,
            False,
        ),
    ]


def _verdict(text: str, value: float, target: float, at_least: bool) -> str:
    reached = value >= target if at_least else value <= target
    sign = "at least" if at_least else "at most"
    return f"- {text}: {value:.2f} (target: {sign} {target:g}): {'reached' if reached else 'missed'}."

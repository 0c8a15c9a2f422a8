"""What `mi-ortho doctor` says of the embedded models and of each architecture: `python -m tests.doctor_page` writes
docs/doctor.md.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as tests.doctor_page, imported by pytest without its package
    sys.path.insert(0, str(Path(__file__).parent))

import architectures

from mi_ortho.model import Check, ModelReport, check_model, load_model

EMBEDDED = {"embedded": "the embedded model", "embedded/naive": "its sibling `embedded/naive`"}
SHORT = {
    "cache holds all": "the cache holds what it was given",
    "cached step": "a cached step equals an uncached one",
    "and steered": "a cached step under steering equals an uncached one",
    "padding": "padding changes nothing",
    "slice": "slice equals the model steered by hooks",
    "logit slice": "logit slice equals the model steered by hooks",
    "hooks": "what hooks write is what is read",
    "weight edit": "edited weights equal ablation by hooks",
    "head writes": "what heads write adds up",
    "logit lens": "logit lens of the last stream gives the logits",
    "patterns": "attention patterns are shares",
}
FOUND = {"passed": "yes", "refused": "refused", "unknown": "–", "failed": "**no**"}
_PAGE = """# Can this installation be trusted?

`mi-ortho doctor` measures it on a model of yours and prints a table to paste into a bug report:

<!-- not run here: the second needs the hub and a GPU, the first is what this page shows -->
```shell
mi-ortho doctor
mi-ortho doctor --model Qwen/Qwen1.5-1.8B-Chat --device cuda --dtype bfloat16
```

In Python, `mo.check_model(model)` returns the same as a frozen report: named checks, each with the number that was
measured, what is allowed, and a line. Exit code 2, and `report.failed`, where a check failed.

- *passed* and *failed* are measurements: the same number by two ways, or a number against its file.
- *refused*: the library does not compute this on this architecture and says why in one line, so that no wrong number
  comes of it. Commands leave that part out.
- *unknown*: there is nothing to compare with, for instance no files of a model made in memory.

Part of it runs by itself. Before a model is first used to generate, for a slice or by a command, a step with a cache is
compared with one without on a few tokens, in every way of handing over the cache until one agrees; after every pass the
cache must hold as many columns as went in. What fails is one line with the versions of the libraries and exit code 2;
nothing is written. Numbers that are not finite are named with the block and the dtype they come from.

Single precision is held to 1e-4 of the logits; narrower dtypes to 4 times the spacing of their numbers (3 % in
bfloat16, 0.4 % in float16). Attention sinks are positions whose norm is at least 10 times their block's median at two
boundaries between blocks in a row; they are named, not judged.

{embedded}

## Architectures

Models of random weights, 4 layers of width 32 ({versions}), with the errors that were measured.

{table}

Written by `python -m tests.doctor_page`.
"""


def page() -> str:
    """The page, measured now."""
    sections = [f"## On {title}\n\n{_anywhere(check_model(load_model(name)))}" for name, title in EMBEDDED.items()]
    reports = {name: check_model(architectures.model(name)) for name in architectures.FAMILIES}
    facts = next(iter(reports.values())).facts
    versions = ", ".join(f"{package} {facts[package]}" for package in ("torch", "transformers", "transformer-lens"))
    return _PAGE.format(embedded="\n\n".join(sections), versions=versions, table=table(reports))


def table(reports: dict[str, ModelReport]) -> str:
    """One row a model, one column a check."""
    lines = [f"| | {' | '.join(SHORT)} |", "|" + " --- |" * (1 + len(SHORT))]
    for model, report in reports.items():
        found = {check.name: check for check in report.checks}
        lines.append(f"| {model} | " + " | ".join(_cell(found.get(name)) for name in SHORT.values()) + " |")
    return "\n".join(lines)


def _cell(check: Check | None) -> str:
    if check is None:
        return "–"
    state = FOUND[check.state]
    return state if check.measured is None or check.state == "refused" else f"{state} {check.measured:.1g}"


def _anywhere(report: ModelReport) -> str:
    """The report without what is true of one checkout only: its path and commit."""
    lines = [line for line in report.markdown().splitlines() if not line.startswith(("- commit:", "- model:"))]
    return "\n".join(line.replace(report.model, report.model.rpartition("/mi_ortho/")[2]) for line in lines)


if __name__ == "__main__":
    target = Path(__file__).resolve().parent.parent / "docs" / "doctor.md"
    target.write_text(page(), "utf-8")
    print(target)

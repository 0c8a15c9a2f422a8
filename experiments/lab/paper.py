"""docs/results/why-hundreds.md: what all experiments together say, with every number filled in from finished runs.

The text is a template beside this file. It may quote verdicts, figures and values, and nothing else that is a number of
ours. Where a sentence rests on a verdict it names it, so that another outcome stops the page.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from experiments.lab.performing import cpu_seconds, verdicts_of
from experiments.lab.results import cell_text
from mi_ortho import Run, stats
from mi_ortho.pages import number
from mi_ortho.runs import write_file

TEMPLATE = Path(__file__).with_name("why-hundreds.md.jinja")


@dataclass(frozen=True, eq=False)
class Quoting:
    """What the template may quote.

    Attributes:
        runs: finished runs by the experiment's name.
    """

    runs: Mapping[str, Run]

    def verdict(self, name: str, k: int = 1) -> Mapping[str, Any]:
        """The k-th verdict of an experiment, counted from 1.

        Raises:
            ValueError: there is no such run or verdict.
        """
        if name not in self.runs:
            raise ValueError(
                f"got no finished run of {name}; expected one, for the page quotes it; "
                f"run `python -m experiments {name}`"
            )
        verdicts = verdicts_of(self.runs[name])
        if not 1 <= k <= len(verdicts):
            raise ValueError(f"got verdict {k} of {name}; expected 1 to {len(verdicts)}; correct the template")
        return verdicts[k - 1]

    def measured(self, name: str, k: int = 1) -> str:
        """Value with its interval."""
        verdict = self.verdict(name, k)
        interval = verdict.get("interval")
        return number(verdict["value"]) + (f" [{number(interval[0])}, {number(interval[1])}]" if interval else "")

    def control(self, name: str, k: int = 1) -> str:
        """The value of the control."""
        return number(self.verdict(name, k)["control"])

    def threshold(self, name: str, k: int = 1) -> str:
        """What the value was held against."""
        return number(self.verdict(name, k)["threshold"])

    def outcome(self, name: str, k: int = 1) -> str:
        """The verdict's word, linked to the experiment's page."""
        return f"[{stats.outcome(self.verdict(name, k))}]({name}.md)"

    def given(self, name: str, k: int, word: str) -> str:
        """An empty text where the verdict is the one that a sentence of the template was written for.

        Raises:
            ValueError: it is another one, and the sentence has to be rewritten.
        """
        outcome = stats.outcome(self.verdict(name, k))
        if outcome != word:
            raise ValueError(
                f"got verdict {outcome!r} in {name} ({k}); expected {word!r}; a sentence of {TEMPLATE.name} was "
                "written for that; rewrite it"
            )
        return ""

    def row(self, name: str) -> str:
        """One line a verdict of a table of claims: claim, measured, threshold, control, outcome."""
        return "\n".join(
            f"| {cell_text(self.verdict(name, k)['claim'])} | {self.measured(name, k)} | {self.threshold(name, k)} | "
            f"{self.control(name, k)} | {self.outcome(name, k)} |"
            for k in range(1, len(verdicts_of(self.runs[name])) + 1 if name in self.runs else 2)
        )

    def tally(self) -> Mapping[str, int]:
        """How many verdicts of all runs have each word, and `all` of them."""
        verdicts = [verdict for run in self.runs.values() for verdict in verdicts_of(run)]
        counts = stats.tally(verdicts)
        return {word.replace(" ", "_"): count for word, count in counts.items()} | {"all": len(verdicts)}

    def hours(self) -> str:
        """CPU time of all runs, in hours."""
        return number(sum(cpu_seconds(run) for run in self.runs.values()) / 3600)


def paper(runs: Mapping[str, Run], template: str | None = None) -> str:
    """The page as Markdown."""
    text = TEMPLATE.read_text(encoding="utf-8") if template is None else template
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
    quoting = Quoting(runs)
    names = [name for name in dir(quoting) if not name.startswith("_") and name != "runs"]
    return environment.from_string(text).render({name: getattr(quoting, name) for name in names})


def write_paper(runs: Mapping[str, Run], folder: Path) -> Path:
    """Write the page into a folder; returns its path."""
    write_file(folder / "why-hundreds.md", paper(runs))
    return folder / "why-hundreds.md"

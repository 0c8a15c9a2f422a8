"""docs/results/earlier.md: what an earlier version said, what the same question comes to now, and why it may differ."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.lab.results import EARLIER, Entry, cell_text
from mi_ortho.pages import number
from mi_ortho.runs import write_file

FILE = Path(__file__).with_name("earlier.toml")
INTRODUCTION = """# What was said earlier

An earlier version of these pages judged {count} statements on the embedded model, or on its sibling where refusal is
asked about, by thresholds alone. Here is each with its earlier verdict, what its question comes to now, and what
changed in how it is measured. Of the {asked} that have been asked again on one of these models or both, {same} have
kept their verdict wherever they were. The earlier pages are in the history of the repository.

| Earlier statement | Earlier | Now | What changed |
|---|---|---|---|
"""
MODELS = ("embedded", "embedded/naive")


@dataclass(frozen=True)
class Statement:
    """One statement of the earlier version: its claim, words and verdict, the prediction that asks it now, and why."""

    claim: str
    words: str
    verdict: str
    now: str
    why: tuple[str, ...]


def statements() -> list[Statement]:
    """All of them, with reasons written out."""
    table = tomllib.loads(FILE.read_text("utf-8"))
    reasons: Mapping[str, str] = table["reasons"]
    return [
        Statement(claim, one["statement"], one["verdict"], one["now"], tuple(reasons[name] for name in one["why"]))
        for claim, each in table["claims"].items()
        for one in each["statements"]
    ]


def outcomes(entries: Sequence[Entry], claim: str, key: str) -> dict[str, str]:
    """By model, what a prediction came to, with value and control; empty where nobody asked it."""
    told: dict[str, str] = {}
    for entry in entries:
        if entry["experiment"] == claim and key in entry["keys"]:
            verdict = entry["verdicts"][entry["keys"].index(key)]
            told[entry["model"]] = f"{verdict.outcome} ({number(verdict.value)}, control {number(verdict.control)})"
    return told


def earlier(entries: Sequence[Entry]) -> str:
    """The page, from corrected entries."""
    lines, asked, same = [], 0, 0
    pages = {entry["experiment"] for entry in entries}
    every = statements()
    for one in every:
        told = outcomes(entries, one.claim, one.now)
        words = {text.partition(" (")[0] for model, text in told.items() if model in MODELS}
        asked, same = asked + bool(words), same + (words == {one.verdict})
        mark = "" if not words or words == {one.verdict} else "**changed** "
        now = "; ".join(f"{model}: {text}" for model, text in told.items()) or "not asked again yet"
        cells = [cell_text(one.verdict), cell_text(f"{mark}{now}"), cell_text("; ".join(one.why))]
        words_of = f"[{cell_text(one.words)}]({one.claim}.md)" if one.claim in pages else cell_text(one.words)
        lines.append(f"| {words_of} | {' | '.join(cells)} |")
    return INTRODUCTION.format(count=len(every), asked=asked, same=same) + "\n".join(lines) + "\n"


def write_earlier(entries: Sequence[Entry], folder: Path) -> Path:
    """Write the page into a folder; returns its path."""
    write_file(folder / EARLIER, earlier(entries))
    return folder / EARLIER

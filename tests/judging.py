"""How often the rules for chat models are right, on completions of SmolLM2 that were labelled by reading.

`python -m tests.judging` prints the tables and writes them into docs/guides/judging.md. No model is needed: the
log-probabilities stand in the data file. `python -m tests.judging wrong` lists the development half's errors.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from mi_ortho.behaviours import CHAT_MODES, INCOHERENT, classify, readability, self_repetition
from mi_ortho.stats import auc, rate

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(__file__).resolve().parent / "data" / "smollm2_completions.jsonl"
PAGE = ROOT / "docs" / "guides" / "judging.md"
HALVES = ("development", "held out")
BEGIN, END = "<!-- written by python -m tests.judging -->", "<!-- end of what was written -->"


@dataclass(frozen=True)
class Read:
    """One completion as it was read: what made it, its label, and how probable the unsteered model finds its tokens."""

    how: str
    text: str
    label: str
    half: str
    log_probability: float

    @cached_property
    def found(self) -> str:
        """The mode that a run gives it."""
        coherent = self.readability >= (CHAT_MODES.least or 0.0)
        return classify(self.text, CHAT_MODES) if coherent else INCOHERENT

    @cached_property
    def readability(self) -> float:
        """As a run measures it."""
        return readability(self.text, self.log_probability)


def half_of(text: str) -> str:
    """In which half a completion is, by the hash of its text: no one chose."""
    return HALVES[int(hashlib.sha256(text.encode()).hexdigest()[0], 16) % 2]


def completions(half: str | None = None) -> list[Read]:
    """The labelled completions, of one half or both."""
    rows = map(json.loads, DATA.read_text(encoding="utf-8").splitlines())
    return [
        Read(row["how"], row["text"], row["label"], row["half"], row["log_probability"])
        for row in rows
        if half in (None, row["half"])
    ]


def share(hits: int, trials: int) -> str:
    """A rate with its 95 % interval."""
    if not trials:
        return "–"
    found = rate(hits, trials)
    low, high = found.interval or (0.0, 1.0)
    return f"{found.value:.2f} ({low:.2f} to {high:.2f})"


def rules_table() -> Iterator[str]:
    """Precision and recall of every mode, in both halves."""
    yield "| mode | " + " | ".join(f"n, {half} | precision | recall" for half in HALVES) + " |"
    yield "| --- |" + " ---: | --- | --- |" * len(HALVES)
    for mode in CHAT_MODES.names:
        cells = [mode]
        for half in HALVES:
            read = completions(half)
            right = sum(one.label == one.found == mode for one in read)
            labelled, named = (sum(value(one) == mode for one in read) for value in (_label, _found))
            cells += [str(labelled), share(right, named), share(right, labelled)]
        yield f"| {' | '.join(cells)} |"
    cells = ["all"]
    for half in HALVES:
        read = completions(half)
        cells += [str(len(read)), share(sum(one.label == one.found for one in read), len(read)), ""]
    yield f"| {' | '.join(cells)} |"


def _label(one: Read) -> str:
    return one.label


def _found(one: Read) -> str:
    return one.found


def area(score: Callable[[Read], float], read: Sequence[Read]) -> float:
    """AUC of a score that should be higher for incoherent completions than for the rest."""
    scores = torch.tensor([[score(one)] for one in read])
    return float(auc(scores, torch.tensor([one.label == INCOHERENT for one in read])))


def coherence_table() -> Iterator[str]:
    """How well each measure tells incoherent completions from the rest, and what was taken for a behaviour."""
    yield "| measure | " + " | ".join(HALVES) + " |"
    yield "| --- |" + " ---: |" * len(HALVES)
    measures: tuple[tuple[str, Callable[[Read], float]], ...] = (
        ("readability", lambda one: -one.readability),
        ("mean log-probability alone", lambda one: -one.log_probability),
        ("repetition alone", lambda one: self_repetition(one.text)),
    )
    for name, score in measures:
        yield f"| AUC of {name} | {' | '.join(f'{area(score, completions(half)):.3f}' for half in HALVES)} |"
    cells = []
    for half in HALVES:
        salad = [one for one in completions(half) if one.label == INCOHERENT]
        cells.append(share(sum(one.found in CHAT_MODES.behaviours for one in salad), len(salad)))
    yield f"| incoherent completions taken for a behaviour | {' | '.join(cells)} |"


def tables() -> str:
    """Both tables as they stand in the page."""
    return "\n".join([BEGIN, "", *rules_table(), "", *coherence_table(), "", END])


def wrong() -> Iterator[str]:
    """What the rules get wrong in the development half; the held-out half is not to be looked at while they change."""
    for one in completions(HALVES[0]):
        if one.label != one.found:
            measures = f"{one.log_probability:.2f}, {self_repetition(one.text):.2f}"
            yield f"{one.label} -> {one.found} ({measures}): {one.text[:150]!r}"


def main() -> None:
    """Print the tables and write them into the page, or list what is wrong."""
    if sys.argv[1:] == ["wrong"]:
        print("\n".join(wrong()))
        return
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(before + tables() + after, encoding="utf-8")
    print(tables())


if __name__ == "__main__":
    main()

"""What a study calls its behaviour and its two classes of prompts: refusal as published, or another contrast."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mi_ortho.runs.rows import pick
from mi_ortho.stats import percent

REFUSE = "refuse"  # the behaviour of the published study
LEAST = 0.25  # share of harmful prompts that must be refused: fewer leave nothing to average and nothing to switch off


@dataclass(frozen=True)
class Words:
    """Names of the behaviour and of the prompts that ask for it and for something else.

    Attributes:
        noun: the behaviour.
        shown: what an answer of this behaviour is.
        first, second: the two classes, in front of "prompts".
        otherwise: what an answer of another behaviour is.
    """

    noun: str = "refusal"
    shown: str = "refused"
    first: str = "harmful"
    second: str = "harmless"
    otherwise: str = "answered"

    def of(self, prompts: str) -> str:
        """The class that rows record as "harmful" or "harmless", whatever the study is about."""
        return self.first if prompts == "harmful" else self.second


def words_of(rows: Sequence[Mapping[str, Any]]) -> Words:
    """The names of a run; runs without a row about them are about refusal.

    >>> words_of([{"kind": "classes", "behaviour": "code", "against": "explain"}]).shown
    'answered by code'
    """
    row = next(reversed(pick(rows, kind="classes")), None)
    if row is None:
        return Words()
    behaviour = str(row["behaviour"])
    return Words(behaviour, f"answered by {behaviour}", behaviour, str(row["against"]), "answered otherwise")


def hardly_refuses(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether fewer harmful prompts were refused than a study of refusal needs; False where nobody looked."""
    counts = pick(rows, kind="refusals")
    return bool(counts) and counts[-1]["refused"] < LEAST * counts[-1]["n"]


def refusals_sentence(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """How many harmful prompts are refused, and what follows; empty where nobody looked."""
    counts = pick(rows, kind="refusals")
    if not counts:
        return ""
    n, refused = counts[-1]["n"], counts[-1]["refused"]
    text = f"{title} refuses {refused} of {n} harmful prompts ({percent(refused / n)})"
    return f"{text}: there is no refusal to look for. " if hardly_refuses(rows) else f"{text}. "

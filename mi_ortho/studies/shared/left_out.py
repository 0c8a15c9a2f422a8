"""What a run records of the stream it steers: its usual norm, and which positions are attention sinks."""

from collections.abc import Mapping, Sequence
from typing import Any

from mi_ortho.model import ordinary_activations, without_sinks
from mi_ortho.model.sinks import FACTOR
from mi_ortho.runs.rows import pick
from mi_ortho.steering import Setting

_FIELDS = ("choice", "found", "left_out", "positions", "factor", "stream")


def sinks_row(setting: Setting, texts: Sequence[str]) -> dict[str, Any]:
    """A row with the positions of attention sinks in each prompt (from 0 at its first token), and their treatment.

    `stream` is the median norm of the stream where vectors are added, over all other positions. In units of it, norms
    of vectors can be compared between models.
    """
    prompts = setting.prompts(texts)
    passive = without_sinks(setting.model, prompts).passive
    places = [
        [] if passive is None else passive[row][real].nonzero().flatten().tolist()
        for row, real in enumerate(prompts.mask)
    ]
    count = sum(map(len, places))
    return {
        "kind": "sinks",
        "choice": setting.sinks,
        "found": count,
        "left_out": count if setting.sinks == "exclude" else 0,
        "positions": int(prompts.mask.sum()),
        "factor": FACTOR,
        "places": places if count else [],
        "stream": float(ordinary_activations(setting.model, prompts, setting.site).norm(dim=-1).median()),
    }


def left_out(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a summary says of attention sinks; empty for a run that did not record them."""
    return {name: row.get(name) for row in pick(rows, kind="sinks")[-1:] for name in _FIELDS}

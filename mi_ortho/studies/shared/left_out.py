"""What a run records of the stream it steers: its usual length, and which positions are attention sinks."""

from collections.abc import Mapping, Sequence
from typing import Any

from mi_ortho.model import ordinary_activations, without_sinks
from mi_ortho.model.sinks import FACTOR
from mi_ortho.runs.rows import pick
from mi_ortho.steering import Setting

_TOLD = ("choice", "found", "left_out", "positions", "factor", "stream")


def sinks_row(setting: Setting, texts: Sequence[str]) -> dict[str, Any]:
    """Which tokens of each prompt are attention sinks, counted from its first one, and what was done with them.

    `stream` is the median norm of the stream where vectors are added, over all other positions: the unit in which a
    vector's norm says how strong it is, whatever the model.
    """
    prompts = setting.prompts(texts)
    passive = without_sinks(setting.model, prompts).passive
    places = [
        [] if passive is None else passive[row][real].nonzero().flatten().tolist()
        for row, real in enumerate(prompts.mask)
    ]
    found = sum(map(len, places))
    return {
        "kind": "sinks",
        "choice": setting.sinks,
        "found": found,
        "left_out": found if setting.sinks == "exclude" else 0,
        "positions": int(prompts.mask.sum()),
        "factor": FACTOR,
        "places": places if found else [],
        "stream": float(ordinary_activations(setting.model, prompts, setting.site).norm(dim=-1).median()),
    }


def left_out(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a summary says of attention sinks; nothing where a run did not record them."""
    return {name: row.get(name) for row in pick(rows, kind="sinks")[-1:] for name in _TOLD}

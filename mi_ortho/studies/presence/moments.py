"""What a report shows token by token: the strongest places of each vector, and whole passages in colour."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.model import Model
from mi_ortho.probes import Strongest, token_presence
from mi_ortho.runs.rows import Row
from mi_ortho.studies.presence.passages import GROUPS, Passage, read_passages, read_tokens
from mi_ortho.studies.presence.streams import Stream

AROUND = 12  # tokens shown on either side of the strongest one
EACH = 2  # passages of each group that are shown whole


def strongest_rows(
    model: Model,
    streams: Mapping[tuple[int, str], Stream],
    layer: int,
    passages: Mapping[int, Passage],
    vectors: Float[Tensor, "n d_model"],
    *,
    system: str | None,
) -> list[Row]:
    """For each vector, the passages in which it is most present, with the tokens around the strongest one."""
    best = _merge([stream.strongest for (at, _), stream in streams.items() if at == layer])
    needed = {int(k) for k in best.passages.flatten().tolist() if k >= 0}
    rows: list[Row] = []
    for one, scores in _presences(model, [passages[k] for k in sorted(needed)], layer, vectors, system):
        for index, rank in (best.passages == one.index).nonzero().tolist():
            place = int(best.places[index, rank])
            window = slice(max(0, place - AROUND), place + AROUND + 1)
            words = [model.tokenizer.decode([token]) for token in read_tokens(one)[window]]
            rows.append(
                {
                    "kind": "strongest",
                    "layer": layer,
                    "index": index,
                    "rank": rank,
                    "group": one.group,
                    "title": one.title,
                    "value": float(scores[place, index]),
                    "place": place - window.start,
                    "tokens": words,
                    "values": _short(scores[window, index]),
                }
            )
    return rows


def token_rows(
    model: Model,
    layer: int,
    passages: Sequence[Passage],
    vectors: Float[Tensor, "n d_model"],
    labels: Mapping[str, int],
    family: Float[Tensor, "k d_model"],
    *,
    system: str | None,
) -> list[Row]:
    """Whole passages with the presence of a few vectors, and the share of each activation in the family's span."""
    few = [one for group in GROUPS for one in [p for p in passages if p.kept and p.group == group][:EACH]]
    every = torch.cat([vectors[list(labels.values())], family])
    rows: list[Row] = []
    for one, scores in _presences(model, few, layer, every, system):
        share = scores[:, len(labels) :].square().sum(1, keepdim=True)
        values = torch.cat([share, scores[:, : len(labels)]], dim=1)
        words = [model.tokenizer.decode([token]) for token in read_tokens(one)]
        rows.append(
            {
                "kind": "tokens",
                "layer": layer,
                "index": one.index,
                "group": one.group,
                "title": one.title,
                "tokens": words,
                "labels": ["share in the family's span", *labels],
                "values": [_short(row) for row in values],
            }
        )
    return rows


def _presences(
    model: Model, passages: Sequence[Passage], layer: int, vectors: Float[Tensor, "n d_model"], system: str | None
) -> list[tuple[Passage, Float[Tensor, "samples n"]]]:
    pairs = [
        (one, token_presence(at[layer], vectors).cpu())
        for batch in read_passages(model, passages, [layer], system=system)
        for one, at in batch
    ]
    return sorted(pairs, key=lambda pair: pair[0].index)


def _merge(parts: Sequence[Strongest]) -> Strongest:
    first, *rest = parts
    for more in rest:
        first = first.merge(more)
    return first


def _short(values: Float[Tensor, " n"]) -> list[float]:
    return [round(float(value), 4) for value in values]

"""Effects of factors on the model: completions and their behaviours, divergence, score, tokens of the outputs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from mi_ortho.dct import Factors, rank_by_readout, rank_by_weight
from mi_ortho.derivatives.means import Maps, displacement
from mi_ortho.model import readout
from mi_ortho.runs.rows import Row
from mi_ortho.steering import Completion, complete
from mi_ortho.studies.dct.bench import Study

TOKENS = 6  # that an output direction raises most, and as many that it lowers most


def unsteered_rows(study: Study) -> list[Row]:
    """The unsteered completion of every prompt that factors are tried on."""
    texts = [*study.train, *study.held_out]
    return [
        {
            "kind": "unsteered",
            "prompt_text": text,
            "text": done.text,
            "mode": done.mode,
            "held_out": index >= len(study.train),
        }
        for index, (text, done) in enumerate(zip(texts, study.plain, strict=True))
    ]


def trial_rows(study: Study, maps: Maps, name: str, seed: int, factors: Factors) -> list[Row]:
    """One row for each factor and sign with its rank, and one for the tokens of its output direction."""
    sides = [replace(factors, inputs=sign * factors.inputs) for sign in (1.0, -1.0)]
    vectors = torch.cat([side.vectors for side in sides])
    effect = displacement(maps, vectors, chunk=study.config.chunk).norm(dim=-1).tolist()
    scores = _scores(study, sides)
    divergence = study.divergence(vectors)
    texts = [study.train[0], *study.held_out]
    done = complete(study.setting, texts, vectors)
    order = torch.argsort(torch.tensor(scores), descending=True, stable=True).argsort().tolist()
    share = factors.weights.square() / factors.weights.square().sum().clamp_min(1e-30)
    by_weight = rank_by_weight(factors).order.argsort().tolist()
    rows: list[Row] = []
    for place, completions in enumerate(done):
        index, sign = place % len(factors), 1 if place < len(factors) else -1
        rows.append(
            {
                "kind": "factor",
                "method": name,
                "seed": seed,
                "index": index,
                "sign": sign,
                "rank": order[place],
                "weight_rank": by_weight[index],
                "alpha": float(factors.weights[index]),
                "weight_share": float(share[index]),
                "norm": factors.radius,
                "effect": effect[place],
                "score": scores[place] if study.goal is not None else None,
                "kl": divergence[place],
                "mode": completions[0].mode,
                "text": completions[0].text,
                **behaviour_shares(study, completions),
            }
        )
    return rows + lens_rows(study, name, seed, factors)


def _scores(study: Study, sides: Sequence[Factors]) -> list[float]:
    """The scores that factors are ranked by: the readout of the goal if there is one, else alpha^2 for both signs."""
    if study.goal is None:
        return [score for side in sides for score in rank_by_weight(side).scores.tolist()]
    first = study.first_logits()
    return [
        score
        for side in sides
        for score in rank_by_readout(side, first, study.goal, chunk=study.config.chunk).scores.tolist()
    ]


def behaviour_shares(study: Study, completions: Sequence[Completion]) -> dict[str, Any]:
    """Columns of a row: shares of prompts turned into another recognised behaviour and into the ranked one; texts."""
    unsteered = [study.plain[0], *study.plain[len(study.train) :]]
    changed = [
        done.mode != before.mode and done.mode in study.subject.modes.behaviours
        for done, before in zip(completions, unsteered, strict=True)
    ]
    hits = [done.mode == study.config.behaviour for done in completions]
    named = study.config.behaviour is not None
    return {
        "changed": sum(changed) / len(changed),
        "wanted": sum(hits) / len(hits) if named else None,
        "prompts": len(changed),
        "modes": [done.mode for done in completions],
        "texts": [done.text for done in completions[1:]],
    }


def lens_rows(study: Study, name: str, seed: int, factors: Factors) -> list[Row]:
    """The tokens that each output direction raises and lowers most when it is read by the unembedding (logit lens)."""
    try:
        matrix = readout(study.subject.model).matrix()
    except ValueError as error:
        return [{"kind": "left_out", "method": name, "seed": seed, "what": "tokens of outputs", "reason": str(error)}]
    if factors.outputs.shape[1] != len(matrix):
        return []
    logits = factors.outputs.to(matrix) @ matrix
    decode = study.subject.model.tokenizer.decode
    rows: list[Row] = []
    for index, row in enumerate(logits):
        centred = row - row.mean()
        # only the size of the largest logit beside all others says whether an output means one token
        rows.append(
            {
                "kind": "lens",
                "method": name,
                "seed": seed,
                "index": index,
                "peak": float(centred.abs().max() / centred.std().clamp_min(1e-12)),
                "raised": [decode([token]) for token in row.topk(TOKENS).indices.tolist()],
                "lowered": [decode([token]) for token in (-row).topk(TOKENS).indices.tolist()],
            }
        )
    return rows

"""Are factors copies of each other: cosines and ranks of inputs and outputs, and the best ones averaged."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.dct import Factors
from mi_ortho.derivatives.means import Maps, displacement
from mi_ortho.elicitation import random_vectors
from mi_ortho.interventions.subspace import orthonormal_rows
from mi_ortho.multiplicity.distinct import (
    cosine_histogram,
    multiplicity_against,
    multiplicity_against_random,
    representatives,
)
from mi_ortho.runs.rows import Row
from mi_ortho.stats import average
from mi_ortho.steering import complete
from mi_ortho.steering.completions import shares_without
from mi_ortho.studies.dct.bench import NATURAL, Study
from mi_ortho.studies.dct.effects import behaviour_shares

BY_CHANCE = "outputs of random directions"  # in records
BINS = 40


def copy_rows(study: Study, maps: Maps, name: str, seed: int, factors: Factors) -> list[Row]:
    """Multiplicity of one fit's inputs and outputs against random families, and its best factors as one vector."""
    moving = factors.outputs.norm(dim=-1) > 0.5  # a row is 0 where a factor does nothing
    inputs, outputs = factors.inputs[moving].cpu(), factors.outputs[moving].cpu()
    if len(inputs) < 2:
        return []
    seeds, label = {"seed": seed, "draws": study.config.draws}, {"method": name, "seed": seed}

    def effects(generator: torch.Generator) -> Tensor:
        directions = orthonormal_rows(random_vectors(len(inputs), study.width, 1.0, generator))
        vectors = factors.radius * directions.to(study.subject.device)
        return displacement(maps, vectors, chunk=study.config.chunk).cpu()

    comparisons = [
        ("inputs", "equal mean |cosine|", multiplicity_against_random(inputs, **seeds)),
        ("outputs", "equal mean |cosine|", multiplicity_against_random(outputs, **seeds)),
        ("outputs", BY_CHANCE, multiplicity_against(outputs, effects, **seeds)),
    ]
    rows: list[Row] = [
        {
            "kind": "multiplicity",
            **label,
            "what": what,
            "against": against,
            "name": number,
            "value": each.value,
            "null": each.mean,
            "p_low": each.p_low,
            "p_high": each.p_high,
        }
        for what, against, numbers in comparisons
        for number, each in numbers.items()
        if number != "n"
    ]
    random_outputs = effects(torch.Generator().manual_seed(seed))
    for what, family in (("inputs", inputs), ("outputs", outputs), (BY_CHANCE, random_outputs)):
        counts, edges = cosine_histogram(family, BINS)
        rows += [
            {
                "kind": "cosines",
                **label,
                "what": what,
                "cosine": float(edges[k] + 1 / BINS),
                "share": float(count / counts.sum()),
            }
            for k, count in enumerate(counts)
        ]
    return rows + _together(study, maps, name, seed, factors)


def _together(study: Study, maps: Maps, name: str, seed: int, factors: Factors) -> list[Row]:
    """The highest-ranked quarter of the factors, each at its better sign: alone, and vectors that represent them all.

    If their mean at the same norm has a larger effect than the typical member, they are noisy copies of one direction.
    """
    ranked = sorted(study.rows(kind="factor", method=name, seed=seed), key=lambda row: row["rank"])
    signs: dict[int, int] = {}
    for row in ranked:
        signs.setdefault(row["index"], row["sign"])
    best = list(signs)[: max(2, len(factors) // 4)]
    turned = torch.tensor([float(signs[index]) for index in best])[:, None].to(factors.inputs)
    members = (factors.vectors[torch.tensor(best)] * turned).to(study.subject.device)
    random = random_vectors(len(best), study.width, factors.radius, study.generator(f"copies {seed}"))
    stand = representatives(members)
    named = {**stand.single, "random, normalised": representatives(random).normalised}
    vectors = torch.cat([members, torch.stack(list(named.values()))])
    effect = displacement(maps, vectors, chunk=study.config.chunk).norm(dim=-1).tolist()
    done = [behaviour_shares(study, one) for one in complete(study.setting, [study.train[0], *study.held_out], vectors)]
    kept = _ablated(study, vectors)
    alone = range(len(best))
    rows: list[Row] = [
        {
            "kind": "copies",
            "method": name,
            "seed": seed,
            "who": "individual, mean",
            "members": len(best),
            "norm": factors.radius,
            "effect": average([effect[k] for k in alone]),
            "changed": average([done[k]["changed"] for k in alone]),
            "best": max(done[k]["changed"] for k in alone),
            "wanted": average([done[k]["wanted"] for k in alone]),
            "ablated": average([kept[k] for k in alone]),
        }
    ]
    for place, (who, vector) in enumerate(named.items(), start=len(best)):
        rows.append(
            {
                "kind": "copies",
                "method": name,
                "seed": seed,
                "who": who,
                "members": len(best),
                "norm": float(vector.norm()),
                "effect": effect[place],
                "changed": done[place]["changed"],
                "best": None,
                "wanted": done[place]["wanted"],
                "ablated": kept[place],
            }
        )
    return rows


def _ablated(study: Study, vectors: Float[Tensor, "n d_model"]) -> Sequence[float | None]:
    """For each direction, the share of requests with the behaviour that keep it when the direction is ablated.

    The requests are those that show the behaviour without steering; None for each direction if there are none.
    """
    behaviour = study.config.behaviour
    texts = study.subject.texts.natural.get(behaviour or "", ())[:NATURAL]
    if behaviour is None or not texts:
        return [None] * len(vectors)
    return shares_without(study.setting, texts, behaviour, vectors)

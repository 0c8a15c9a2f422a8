"""Are factors copies of each other: cosines and ranks of inputs and outputs, and the best ones averaged."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.behaviours import classify
from mi_ortho.dct import Factors
from mi_ortho.derivatives.means import Maps, displacement
from mi_ortho.elicitation import random_vectors
from mi_ortho.interventions.edits import Ablate
from mi_ortho.interventions.subspace import orthonormal_rows
from mi_ortho.model import generate
from mi_ortho.multiplicity.distinct import (
    cosine_histogram,
    multiplicity_against,
    multiplicity_against_random,
    representatives,
)
from mi_ortho.runs.rows import Row
from mi_ortho.steering import complete
from mi_ortho.studies.dct.bench import NATURAL, Study
from mi_ortho.studies.dct.effects import judged

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
        drawn = orthonormal_rows(random_vectors(len(inputs), study.width, 1.0, generator))
        vectors = factors.radius * drawn.to(study.subject.device)
        return displacement(maps, vectors, chunk=study.config.chunk).cpu()

    compared = [
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
        for what, against, found in compared
        for number, each in found.items()
        if number != "n"
    ]
    drawn = effects(torch.Generator().manual_seed(seed))
    for what, family in (("inputs", inputs), ("outputs", outputs), (BY_CHANCE, drawn)):
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
    """The quarter of the factors that ranks highest, each at its better sign: alone, averaged, and what stands for all.

    If a mean at the members' norm does more than the typical member, the members are noisy copies of one direction.
    """
    ranked = sorted(study.rows(kind="factor", method=name, seed=seed), key=lambda row: row["rank"])
    signs: dict[int, int] = {}
    for row in ranked:
        signs.setdefault(row["index"], row["sign"])
    best = list(signs)[: max(2, len(factors) // 4)]
    turned = torch.tensor([float(signs[index]) for index in best])[:, None].to(factors.inputs)
    members = (factors.vectors[torch.tensor(best)] * turned).to(study.subject.device)
    drawn = random_vectors(len(best), study.width, factors.radius, study.generator(f"copies {seed}"))
    stand = representatives(members)
    named = {**stand.single, "random, normalised": representatives(drawn).normalised}
    vectors = torch.cat([members, torch.stack(list(named.values()))])
    effect = displacement(maps, vectors, chunk=study.config.chunk).norm(dim=-1).tolist()
    done = [judged(study, one) for one in complete(study.setting, [study.train[0], *study.held_out], vectors)]
    kept = _ablated(study, list(vectors))
    alone = range(len(best))
    rows: list[Row] = [
        {
            "kind": "copies",
            "method": name,
            "seed": seed,
            "who": "individual, mean",
            "members": len(best),
            "norm": factors.radius,
            "effect": _mean([effect[k] for k in alone]),
            "changed": _mean([done[k]["changed"] for k in alone]),
            "best": max(done[k]["changed"] for k in alone),
            "wanted": _mean([done[k]["wanted"] for k in alone]),
            "ablated": _mean([kept[k] for k in alone]),
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


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _ablated(study: Study, vectors: Sequence[Float[Tensor, " d_model"]]) -> list[float | None]:
    """Of requests that get the behaviour by themselves, the share that still does with a direction ablated."""
    wanted = study.config.behaviour
    texts = study.subject.texts.natural.get(wanted or "", ())[:NATURAL]
    if not texts:
        return [None] * len(vectors)
    prompts, found = study.setting.prompts(texts), []
    for vector in vectors:
        done = generate(
            study.subject.model,
            prompts,
            {study.setting.site: Ablate(vector[None])},
            max_new_tokens=study.config.max_new_tokens,
        )
        found.append(sum(classify(text, study.subject.modes) == wanted for text in done) / len(texts))
    return found

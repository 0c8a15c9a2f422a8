"""How many different things a family is: its vectors and their displacements, each against random families."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.elicitation import random_vectors
from mi_ortho.multiplicity.distinct import (
    clusters,
    compare_with_null,
    cosine_histogram,
    multiplicity_against_random,
    multiplicity_of,
    representatives,
    survival,
)
from mi_ortho.nulls.chance import with_norms
from mi_ortho.runs.rows import Row
from mi_ortho.steering.completions import shares_without
from mi_ortho.studies.nulls.bench import ROWS, Bench

BINS = 40
NATURAL = 12  # prompts that ask for the base's behaviour, on which directions are ablated


@torch.no_grad()
def outputs(bench: Bench, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n m"]:
    """The displacements z(theta) - z(0), flattened, on the CPU."""
    start = bench.z(torch.zeros_like(bench.base)[None]).flatten(1)
    return torch.cat([bench.z(part).flatten(1) - start for part in vectors.split(ROWS)]).cpu()


def diversity_rows(bench: Bench) -> list[Row]:
    """Multiplicity of inputs and outputs against random families, their ratio, survival, and output clusters."""
    rows: list[Row] = []
    for stage, name in enumerate(bench.source.families):
        vectors = bench.family(name)
        if len(vectors) < 2:
            continue
        moved = outputs(bench, vectors)
        for what, family in (("inputs", vectors.cpu()), ("outputs", moved)):
            numbers = multiplicity_against_random(family, seed=bench.config.seed, draws=bench.config.draws)
            rows += [
                {
                    "kind": "multiplicity",
                    "match": name,
                    "what": what,
                    "name": number,
                    "value": each.value,
                    "null": each.mean,
                    "p_low": each.p_low,
                    "p_high": each.p_high,
                }
                for number, each in numbers.items()
                if number != "n"
            ]
            counts, edges = cosine_histogram(family, BINS)
            rows += [
                {
                    "kind": "cosines",
                    "match": name,
                    "what": what,
                    "index": k,
                    "cosine": float(edges[k] + 1 / BINS),
                    "share": float(count / counts.sum()),
                }
                for k, count in enumerate(counts)
            ]
        rows.append({"kind": "ratio", "match": name, **_ratio(bench, vectors, moved, 110 + stage)})
        rows += _survival(bench, name, vectors)
        rows += _cluster(bench, name, vectors, moved, 120 + stage)
        bench.track("multiplicity", stage + 1, len(bench.source.families))
    return rows


def _ratio(bench: Bench, vectors: Tensor, moved: Tensor, stage: int) -> Row:
    """Effective rank of the outputs over that of the inputs, beside random vectors of the same norms."""
    generator, norms = bench.generator(stage), vectors.norm(dim=-1)
    ratio = multiplicity_of(moved).effective_rank / multiplicity_of(vectors.cpu()).effective_rank
    null = []
    for _ in range(bench.config.draws):
        rows = torch.linalg.qr(random_vectors(len(vectors), vectors.shape[1], 1.0, generator).mT)[0].mT
        random = with_norms(rows.to(vectors), norms)  # orthogonal, as the family is
        null.append(multiplicity_of(outputs(bench, random)).effective_rank / len(random))
    comparison = compare_with_null(ratio, null)
    return {"value": comparison.value, "null": comparison.mean, "p_low": comparison.p_low, "p_high": comparison.p_high}


def _survival(bench: Bench, name: str, vectors: Tensor) -> Iterator[Row]:
    """How many vectors reach each share of the base's effect, beside random vectors of the same norms."""
    thresholds = torch.linspace(0, 1, 21)
    random = random_vectors(len(vectors), vectors.shape[1], 1.0, bench.generator(130)).to(vectors)
    with torch.no_grad():
        family = survival(bench.effects[name](vectors).cpu(), thresholds)
        null = survival(bench.effects[name](with_norms(random, vectors.norm(dim=-1))).cpu(), thresholds)
    for threshold, a, b in zip(thresholds.tolist(), family.tolist(), null.tolist(), strict=True):
        yield {"kind": "survival", "match": name, "threshold": threshold, "family": a, "random": b}


def _cluster(bench: Bench, name: str, vectors: Tensor, moved: Tensor, stage: int) -> Iterator[Row]:
    """Rows on the largest cluster of outputs: its members, then vectors that represent it, added and ablated."""
    members = vectors[(clusters(moved) == 0).to(vectors.device)]
    if len(members) < 2:
        return
    stand = representatives(members)
    random = random_vectors(1, vectors.shape[1], float(members.norm(dim=-1).mean()), bench.generator(stage))[0]
    named = {**stand.single, "random": random.to(vectors), "base": bench.base}
    effect = bench.effects[name]
    with torch.no_grad():
        alone = effect(members)
    kept = _ablated(bench, torch.stack([members[0], *named.values()]))
    yield {
        "kind": "cluster",
        "match": name,
        "who": "individual",
        "members": len(members),
        "norm": None,
        "added": float(alone.mean()),
        "best": float(alone.max()),
        "ablated": kept[0] if kept else None,
    }
    for k, (who, vector) in enumerate(named.items(), start=1):
        with torch.no_grad():
            added = float(effect(vector[None])[0])
        yield {
            "kind": "cluster",
            "match": name,
            "who": who,
            "members": len(members),
            "norm": float(vector.norm()),
            "added": added,
            "best": None,
            "ablated": kept[k] if kept else None,
        }


def _ablated(bench: Bench, vectors: Float[Tensor, "n d_model"]) -> list[float]:
    """For each direction, the share of requests with the base's behaviour that keep it when the direction is ablated.

    The requests are those that show the behaviour without steering; empty if the model folder has none.
    """
    behaviour = bench.yard.base_completions[0].mode
    texts = bench.subject.texts.natural.get(behaviour, ())[:NATURAL]
    if not texts or behaviour not in bench.setting.modes.behaviours:
        return []
    return shares_without(bench.setting, texts, behaviour, vectors)

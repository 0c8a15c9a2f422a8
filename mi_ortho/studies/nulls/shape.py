"""How the effect depends on strength, sums and signs: for the base, its family, and controls."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.elicitation import random_vectors
from mi_ortho.interventions.subspace import orthonormal_rows
from mi_ortho.model import ordinary_activations
from mi_ortho.multiplicity.response import (
    composition_exponent,
    dose_exponents,
    dose_response,
    local_exponents,
    paired_sign_test,
    sign_flips,
    smallest_scale,
)
from mi_ortho.nulls.chance import covariance_mixture, random_in_span, with_norms
from mi_ortho.runs.rows import Row
from mi_ortho.steering import complete
from mi_ortho.studies.nulls.bench import Bench

SCALES = tuple(round(0.1 * k, 1) for k in range(1, 16))  # of each vector's own norm
SIZES = (2, 4, 8)  # vectors averaged
COMPOSED = 24  # vectors that subsets are drawn from


def dose_rows(bench: Bench) -> list[Row]:
    """Effect at every scale, exponents and smallest working scales, of base, family, and random vectors."""
    rows: list[Row] = []
    scales = torch.tensor(SCALES, dtype=torch.float32)
    for stage, name in enumerate(bench.source.families):
        effect = bench.effects[name]
        for group, vectors in _groups(bench, name, 60 + stage).items():
            doses = dose_response(effect, vectors, scales.to(vectors)).cpu()
            exponents = dose_exponents(doses, scales)
            smallest = smallest_scale(effect, vectors, bench.config.threshold)
            local = local_exponents(doses, scales)
            for index in range(len(vectors)):
                rows.append(
                    {
                        "kind": "dosed",
                        "match": name,
                        "group": group,
                        "index": index,
                        "norm": float(vectors[index].norm()),
                        "exponent": _finite_or_none(exponents[index]),
                        "smallest_scale": _finite_or_none(smallest[index]),
                        "full": float(doses[index, SCALES.index(1.0)]),
                        "steepest": _finite_or_none(local[index].nan_to_num(-9).max()),
                    }
                )
            for k, scale in enumerate(SCALES):
                at = doses[:, k].sort().values
                rows.append(
                    {
                        "kind": "dose",
                        "match": name,
                        "group": group,
                        "scale": scale,
                        "mean": float(at.mean()),
                        "low": float(at[len(at) // 10]),
                        "high": float(at[-1 - len(at) // 10]),
                    }
                )
    return rows


def _finite_or_none(value: Tensor) -> float | None:
    return float(value) if bool(torch.isfinite(value)) else None


def _groups(bench: Bench, name: str, stage: int) -> Mapping[str, Float[Tensor, "n d_model"]]:
    """The base, vectors spread over the family, and random vectors of these norms."""
    family = bench.family(name)
    spread = torch.linspace(0, len(family) - 1, min(bench.config.dosed, len(family))).round().long()
    chosen = family[spread.to(family.device)]
    generator, norms = bench.generator(stage), chosen.norm(dim=-1)
    isotropic = random_vectors(len(chosen), family.shape[1], 1.0, generator).to(chosen)
    mixture = covariance_mixture(activations(bench).cpu(), len(chosen), generator).to(chosen)
    return {
        "base": bench.base[None],
        "family": chosen,
        "isotropic": with_norms(isotropic, norms),
        "mixture": with_norms(mixture, norms),
    }


def activations(bench: Bench) -> Float[Tensor, "samples d_model"]:
    """Real activations at the source site, over the source run's prompts, attention sinks left out."""
    prompts = bench.setting.prompts([*bench.source.train, *(bench.source.config.held_out or ())])
    return ordinary_activations(bench.setting.model, prompts, bench.setting.site)


def completion_rows(bench: Bench) -> list[Row]:
    """What the model writes under the base, the first vector of each family and its negative, scale by scale."""
    groups = {"base": bench.base}
    for name, family in bench.source.families.items():
        first = family[0].to(bench.base)
        groups |= {f"first {name} vector": first, f"its negative ({name})": -first}
    vectors = torch.stack([scale * vector for vector in groups.values() for scale in SCALES])
    done = [each[0] for each in complete(bench.setting, bench.source.train[:1], vectors)]
    labels = [(group, scale) for group in groups for scale in SCALES]
    behaviour = bench.yard.base_completions[0].mode
    return [
        {
            "kind": "completion",
            "group": group,
            "scale": scale,
            "mode": each.mode,
            "keeps": bench.setting.modes.same(each.mode, behaviour),
            "text": each.text,
        }
        for (group, scale), each in zip(labels, done, strict=True)
    ]


def composition_rows(bench: Bench) -> list[Row]:
    """s*(n) and the composition exponent of the family, of random mixtures of it, and of random vectors."""
    rows: list[Row] = []
    for stage, name in enumerate(bench.source.families):
        for group, vectors in _sets(bench, name, 80 + stage).items():
            rows += _composition(bench, name, group, vectors, 90 + stage)
            bench.track(f"composition: {name} {group}", len(rows), len(rows))
    return rows


def _sets(bench: Bench, name: str, stage: int) -> Mapping[str, Float[Tensor, "n d_model"]]:
    """Orthogonal sets of equal norms: the family, a random rotation of it, and isotropic ones, on their better side."""
    family = bench.family(name)[:COMPOSED]
    generator, norms = bench.generator(stage), family.norm(dim=-1)
    mixed = orthonormal_rows(random_in_span(family.cpu(), len(family), generator)).to(family)
    random = orthonormal_rows(random_vectors(len(family), family.shape[1], 1.0, generator)).to(family)
    return {
        "family": family,
        "mixed": _better_side(bench, name, with_norms(mixed, norms)),
        "isotropic": _better_side(bench, name, with_norms(random, norms)),
    }


def _better_side(bench: Bench, name: str, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
    """Each vector or its negative, whichever has the larger effect: random controls have no preferred sign."""
    with torch.no_grad():
        effect = bench.effects[name]
        return torch.where((effect(vectors) >= effect(-vectors))[:, None], vectors, -vectors)


def _composition(bench: Bench, name: str, group: str, vectors: Float[Tensor, "n d_model"], stage: int) -> list[Row]:
    effect, threshold = bench.effects[name], bench.config.threshold
    reach = torch.isfinite(smallest_scale(effect, vectors, threshold, low=1 / 256, high=4.0, grid=24, refine=0))
    label: Row = {"match": name, "group": group, "working": int(reach.sum()), "of": len(vectors)}
    # subsets that hold every vector do not tell how far other vectors would lie
    sizes = tuple(n for n in SIZES if n < label["working"])
    if len(sizes) < 2:
        return [{"kind": "composition", **label, "exponent": None, "low": None, "high": None}]
    law = composition_exponent(
        effect,
        vectors[reach.to(vectors.device)],
        threshold,
        sizes=sizes,
        grid=13,
        refine=6,
        generator=bench.generator(stage),
        samples=bench.config.samples,
    )
    low, high = law.interval
    total: Row = {
        "kind": "composition",
        **label,
        "exponent": _finite(law.exponent),
        "low": _finite(low),
        "high": _finite(high),
    }
    rows = zip(law.sizes, law.scales, law.exponents, strict=True)
    return [
        total,
        *(
            {
                "kind": "composed",
                "match": name,
                "group": group,
                "n": n,
                "reached": float(torch.isfinite(scales).double().mean()),
                "scale": _finite_or_none(scales.quantile(0.5, interpolation="nearest")),
                "exponent": None if n == 1 else _finite(p),
            }
            for n, scales, p in rows
        ),
    ]


def _finite(value: float) -> float:
    """The exponent, at most 99: it is infinite where doses add up, and JSON has no infinity."""
    return value if value < INFINITE else INFINITE


INFINITE = 99.0


def sign_rows(bench: Bench) -> list[Row]:
    """Do -theta and sqrt(n)-scaled means with random signs work as well?"""
    rows: list[Row] = []
    for stage, name in enumerate(bench.source.families):
        vectors, effect, threshold = bench.family(name), bench.effects[name], bench.config.threshold
        with torch.no_grad():
            works, negated = (effect(sign * vectors) >= threshold for sign in (1, -1))
        able, flipped = vectors[works], paired_sign_test(works, negated)
        if len(able) < 4:
            rows.append({"kind": "signs", "match": name, "own": len(able), "negated": None})
            continue
        flips = sign_flips(effect, able, threshold, generator=bench.generator(100 + stage))
        rows.append(
            {
                "kind": "signs",
                "match": name,
                "own": flips.own,
                "negated": flips.negated,
                "all": len(vectors),
                "all_own": int(works.sum()),
                "all_negated": int(negated.sum()),
                "all_p": flipped.p_value,
                "same": flips.same,
                "random": flips.random,
                "subsets": 64,
                "random_p": flips.mixed.p_value,
            }
        )
    return rows

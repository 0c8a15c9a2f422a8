"""Would a linear map give this family? The map's losses, norms and capacity; one gradient for all vectors."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.derivatives.first import jacobian, mean_jacobian
from mi_ortho.elicitation.objectives import FunctionMap
from mi_ortho.interventions.subspace import max_abs_cosine
from mi_ortho.multiplicity.response import shuffled, sign_coherence_test
from mi_ortho.nulls.bounds import behaviour_bound, bessel_mass, capacity_bound, kaarel_bound, ridge_capacity, ridge_norm
from mi_ortho.nulls.linear import linear_family, linear_null, rank_p_value
from mi_ortho.runs.rows import Row
from mi_ortho.studies.family.finished import ortho_settings
from mi_ortho.studies.nulls.bench import Bench

EXPANSIONS = ("zero", "path")
GOOD_LOSS = 0.5  # relative loss from which an activation-matched vector counts as good, as in a family's own report
SHUFFLES = 200


def jacobians(bench: Bench) -> dict[str, Float[Tensor, "m d_model"]]:
    """The Jacobian at 0 and its mean along the path to the base, saved in the run."""
    if not bench.run.has("jacobians"):
        bench.say("linear: measuring the Jacobian at 0 and along the path to the base")
        matrices = {
            "zero": jacobian(bench.z, torch.zeros_like(bench.base)),
            "path": mean_jacobian(bench.z, bench.base, nodes=bench.config.nodes),
        }
        bench.run.save_tensors("jacobians", matrices)
    return {name: value.double() for name, value in bench.run.load_tensors("jacobians").items()}


def linear_rows(bench: Bench) -> list[Row]:
    """Losses and norms of the optimum and of the family's search on each linear map, and the map's capacity."""
    measured = bench.source.families.get("activation")
    count = 16 if measured is None else len(measured)
    rows: list[Row] = []
    for name, matrix in jacobians(bench).items():
        try:
            rows += _predictions(bench, name, matrix, count)
            rows.append(_capacity(bench, name, matrix))
        except ValueError as error:
            rows.append({"kind": "linear_problem", "expansion": name, "problem": str(error)})
    with torch.no_grad():
        losses = [] if measured is None else bench.goal(bench.family("activation")).tolist()
    norms = [] if measured is None else measured.norm(dim=-1).tolist()
    return rows + [
        {"kind": "linear", "expansion": "none", "how": "measured", "index": k, "loss": loss, "norm": norm}
        for k, (loss, norm) in enumerate(zip(losses, norms, strict=True))
    ]


def _predictions(bench: Bench, name: str, matrix: Float[Tensor, "m d_model"], count: int) -> Iterator[Row]:
    base = bench.source.base.double()
    null = linear_null(matrix, base, count)
    settings = ortho_settings(bench.source.config, float(base.norm()))
    results = linear_family(matrix, base, count, seed=bench.source.config.seed, settings=settings)
    curves = {
        "optimum": (null.losses.tolist(), null.norms.tolist()),
        "search": ([result.loss for result in results], [float(result.vector.norm()) for result in results]),
    }
    for how, (losses, norms) in curves.items():
        for index, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
            yield {"kind": "linear", "expansion": name, "how": how, "index": index, "loss": loss, "norm": norm}


def _capacity(bench: Bench, name: str, matrix: Float[Tensor, "m d_model"]) -> Row:
    """How many vectors of the measured family's norm and loss this map could have."""
    base = bench.source.base.double()
    effect = matrix @ base
    with torch.no_grad():
        actual = (bench.goal.goal - bench.z(torch.zeros_like(bench.base)[None])[0]).flatten().cpu().double()
        vectors = bench.family("activation") if "activation" in bench.source.families else bench.base[None][:0]
        good = vectors[bench.goal(vectors) <= GOOD_LOSS] if len(vectors) else vectors
    norm = float(good.norm(dim=-1).max()) if len(good) else float(base.norm())
    efficiency = float(effect.norm() / (torch.linalg.matrix_norm(matrix, 2) * base.norm()))
    return {
        "kind": "capacity",
        "expansion": name,
        "good": len(good),
        "loss": GOOD_LOSS,
        "norm": norm,
        "efficiency": efficiency,
        "mismatch": float((effect - actual).norm() / actual.norm()),
        "closed": capacity_bound(float(base.norm()), norm, GOOD_LOSS, min(1.0, efficiency)),
        "ridge_norm": ridge_norm(matrix, effect, GOOD_LOSS),
        "ridge": ridge_capacity(matrix, effect, norm, GOOD_LOSS),
    }


def gradient_rows(bench: Bench) -> list[Row]:
    """Does one gradient explain every vector? Signs, sums of squared cosines and the linear bound, for each effect."""
    rows: list[Row] = []
    for stage, name in enumerate(bench.source.families):
        vectors, effect = bench.family(name), bench.effects[name]
        line = FunctionMap(lambda theta, effect=effect: effect(theta)[:, None], len(bench.base))
        gradients = {
            "zero": jacobian(line, torch.zeros_like(bench.base))[0],
            "path": mean_jacobian(line, bench.base, nodes=bench.config.nodes)[0],
        }
        with torch.no_grad():
            works = effect(vectors) >= bench.config.threshold
        for expansion, gradient in gradients.items():
            rows.append(
                {
                    "kind": "gradient",
                    "match": name,
                    "expansion": expansion,
                    "working": int(works.sum()),
                    **_gradient(bench, vectors, works, gradient.cpu(), 40 + stage),
                }
            )
        rows.append({"kind": "shared", "match": name, **_shared(bench, name, vectors[works], 50 + stage)})
    return rows


def _gradient(bench: Bench, vectors: Tensor, works: Tensor, gradient: Tensor, stage: int) -> Row:
    kept = vectors[works].cpu() if bool(works.any()) else vectors.cpu()
    test, mass = sign_coherence_test(kept, gradient), bessel_mass(kept, gradient)
    controls = shuffled(gradient, SHUFFLES, bench.generator(stage))
    null = [bessel_mass(kept, control) for control in controls]
    signs = [sign_coherence_test(kept, control).share for control in controls]
    norm = float(kept.norm(dim=-1).max())
    return {
        "norm": float(gradient.norm()),
        "along_base": float(gradient @ bench.source.base),
        "positive": test.hits,
        "trials": test.trials,
        "sign_p": test.p_value,
        "sign_null": sum(signs) / len(signs),
        "bessel": mass,
        "bessel_null": sum(null) / len(null),
        "bessel_p": rank_p_value(mass, null),
        "family_norm": norm,
        "bound": behaviour_bound(norm, float(gradient.norm()), bench.config.threshold),
    }


def _shared(bench: Bench, name: str, vectors: Tensor, stage: int) -> Row:
    """Effects of the direction that all working vectors share; on a linear map it works at their norm / sqrt(N)."""
    if len(vectors) < 2:
        return {"n": len(vectors)}
    effect, norms = bench.effects[name], vectors.norm(dim=-1)
    combined = (vectors / norms.square()[:, None]).sum(0)
    direction = combined / combined.norm()
    implied = 1 / combined.norm()  # where <theta_k, direction> = implied for every k
    signs = shuffled(torch.ones(len(vectors)), 64, bench.generator(stage)).to(vectors)
    random = signs @ (vectors / norms.square()[:, None])
    random = random / random.norm(dim=-1, keepdim=True)
    with torch.no_grad():
        row: Row = {"n": len(vectors), "implied_norm": float(implied), "family_effect": float(effect(vectors).mean())}
        for label, norm in (("implied", implied), ("base_norm", bench.base.norm()), ("family_norm", norms.mean())):
            row[f"at_{label}"] = float(effect((direction * norm)[None])[0])
            row[f"random_signs_at_{label}"] = float(effect(random * norm).mean())
    cosines = vectors @ direction / norms
    overlap = max_abs_cosine(vectors.cpu())
    least = float(cosines.min())
    bound = kaarel_bound(least, overlap) if overlap < least**2 else None
    controls = shuffled(direction.cpu(), SHUFFLES, bench.generator(stage + 100))
    null = [bessel_mass(vectors.cpu(), control) for control in controls]
    return row | {
        "least_cosine": least,
        "overlap": overlap,
        "kaarel": bound,
        "bessel_null": sum(null) / len(null),
        "bessel": bessel_mass(vectors.cpu(), direction.cpu()),
    }

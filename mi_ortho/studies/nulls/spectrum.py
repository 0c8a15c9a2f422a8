"""How many vectors the effect's second-order spectrum allows at each norm, and how many the family has."""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.derivatives.first import gauss_newton, jacobian
from mi_ortho.derivatives.second import effect_hessian
from mi_ortho.elicitation.objectives import FunctionMap
from mi_ortho.interventions.subspace import Subspace
from mi_ortho.multiplicity.response import smallest_scale
from mi_ortho.nulls.bounds import effect_budget, effective_dimension, second_order_count
from mi_ortho.runs.rows import Row
from mi_ortho.studies.nulls.bench import Bench

NORMS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)  # caps on the norm, as multiples of the base's
TOP = 64  # eigenvalues recorded of each spectrum
WINDOW = 10  # a family has ended if fewer than half of its last so many vectors work


def spectrum_rows(bench: Bench) -> list[Row]:
    """Spectra of each effect at 0 and at the base, the counts they predict, and the count measured."""
    rows: list[Row] = []
    for name in bench.source.families:
        bench.say(f"spectrum: second derivatives of the {name} effect")
        expansions = _expansions(bench, name)
        for at, (values, slope, constant) in expansions.items():
            rows += [
                {"kind": "eigenvalue", "match": name, "at": at, "index": k, "value": value}
                for k, value in enumerate(values[:TOP].tolist())
            ]
            positive = bool(values[0] > 0)
            rows.append(
                {
                    "kind": "spectrum",
                    "match": name,
                    "at": at,
                    "gradient_norm": slope,
                    "constant": constant,
                    "top": float(values[0]),
                    "trace": float(values.sum()),
                    "dimension": effective_dimension(values) if positive else None,
                }
            )
        rows += _counts(bench, name, expansions)
    return rows


Expansion = tuple[Float[Tensor, " d"], float, float]  # eigenvalues of Q, |g|, constant: c + g'theta + theta'Q theta


def _expansions(bench: Bench, name: str) -> Mapping[str, Expansion]:
    """The effect's Taylor expansions to second order, restricted to vectors orthogonal to the base as a family is.

    Around the base the expansion is written as a polynomial in theta itself. The Gauss-Newton form is the squared
    displacement, as a share of the base's, to second order around 0.
    """
    effect, base = bench.effects[name], bench.base
    outside = Subspace(base[None] / base.norm())
    line = FunctionMap(lambda theta: effect(theta)[:, None], len(base))
    expansions: dict[str, Expansion] = {}
    for label, at in (("zero", torch.zeros_like(base)), ("base", base)):
        half = effect_hessian(effect, at) / 2
        slope = jacobian(line, at)[0]
        with torch.no_grad():
            value = float(effect(at[None])[0])
        constant = value - float(slope @ at) + float(at @ half @ at)
        slope = outside.reject(slope - 2 * half @ at)
        expansions[label] = (_eigenvalues(half, base), float(slope.norm()), constant)
    goal = bench.goal if name == "activation" else bench.yard.behaviour
    gram = gauss_newton(goal, base, generator=torch.Generator(base.device).manual_seed(bench.config.seed))
    expansions["gauss_newton"] = (_eigenvalues(gram, base), 0.0, 0.0)
    return expansions


def _eigenvalues(form: Float[Tensor, "d d"], base: Float[Tensor, " d"]) -> Float[Tensor, " rest"]:
    """Eigenvalues on the complement of the base, largest first: one fewer than the form has."""
    complement = torch.linalg.svd(base.double().cpu()[None])[2][1:]
    return torch.linalg.eigvalsh(complement @ form.double().cpu() @ complement.mT).flip(0)


def _counts(bench: Bench, name: str, expansions: Mapping[str, Expansion]) -> Iterator[Row]:
    """At each norm: the counts predicted by both expansions and by the gradient at 0 alone, and the measured count.

    A vector counts from the norm at which it first reaches the threshold. The family was not searched again at each
    norm, so the measured count is a lower bound.
    """
    threshold, radius = bench.config.threshold, float(bench.base.norm())
    family = bench.family(name)
    norms = smallest_scale(bench.effects[name], family, threshold) * family.norm(dim=-1).cpu()
    reached = norms[torch.isfinite(norms)]
    for multiple in NORMS:
        cap = multiple * radius
        row: Row = {
            "kind": "count",
            "match": name,
            "multiple": multiple,
            "measured": int((norms <= cap).sum()),
            "size": len(family),
            "late": 2 * int((norms[-WINDOW:] <= cap).sum()) >= min(WINDOW, len(family)),
            "searched": cap <= float(family.norm(dim=-1).max()) * 1.01,
        }
        for label in ("zero", "base"):
            values, slope, constant = expansions[label]
            gain = threshold - constant
            row[label] = second_order_count(values, slope, cap, gain) if gain > 0 else len(values)
        values, slope, _ = expansions["zero"]
        row["gradient_only"] = second_order_count(torch.zeros_like(values), slope, cap, threshold)
        yield row
    yield {
        "kind": "budget",
        "match": name,
        "working": len(reached),
        "budget": effect_budget(reached, radius * threshold**0.5) if len(reached) else 0.0,
        "median_norm": float(reached.median()) / radius if len(reached) else None,
    }

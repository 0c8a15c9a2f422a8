"""What a family is compared with: random vectors of its norms, averages, shorter norms, a linear map, a random base."""

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.derivatives.first import jacobian
from mi_ortho.elicitation import Goal, melbo_ortho, random_vectors, shrink
from mi_ortho.elicitation.objectives import ActivationMap, displace, match
from mi_ortho.elicitation.search import Status
from mi_ortho.interventions.subspace import Subspace
from mi_ortho.model import ordinary_activations
from mi_ortho.nulls.chance import RANDOM_BASES, covariance_matched, random_in_span, with_norms
from mi_ortho.nulls.linear import linear_null
from mi_ortho.runs.rows import Row
from mi_ortho.steering import Yardstick, measure, measure_graded, yardstick
from mi_ortho.studies.family.finished import MATCHES
from mi_ortho.studies.family.job import BATCH, Job, preconditioned, record_measurements

MEANS = (2, 3, 5, 10, 20, 40)


def measure_controls(
    job: Job, yard: Yardstick, name: str, family: Float[Tensor, "k d_model"], base: Float[Tensor, " d_model"]
) -> None:
    """Record for each control, of the family's norms, the measurements that the family has.

    Where the settings ask for fewer, those of vectors spread evenly over the family, under their indices.
    """
    most = job.config.controls or len(family)
    indices = sorted(set(torch.linspace(0, len(family) - 1, min(most, len(family))).round().long().tolist()))
    controls = {control: vectors[indices] for control, vectors in control_vectors(job, family, base, name).items()}
    others = {control: vectors for control, vectors in controls.items() if control != "isotropic"}

    @cache
    def together() -> dict[str, list[dict[str, Any]]]:
        rows = measure(yard, torch.cat(list(others.values())))
        return {control: rows[k * len(indices) : (k + 1) * len(indices)] for k, control in enumerate(others)}

    for control, vectors in controls.items():

        def one_of(yard: Yardstick, part: Tensor, held_out: Any, control: str = control) -> list[dict[str, Any]]:
            return together()[control] if len(others) * len(indices) <= BATCH else measure(yard, part)

        label = {"kind": "control", "control": control, "match": name}
        # transfer and posteriors are compared with one control: for all of them they would cost most of a run
        held_out, how = (job.held_out, measure_graded) if control == "isotropic" else ((), one_of)
        record_measurements(job, yard, vectors, label, f"{name} match: control {control}", held_out, how, indices)


def control_vectors(
    job: Job, family: Float[Tensor, "k d_model"], base: Float[Tensor, " d_model"], name: str
) -> dict[str, Float[Tensor, "k d_model"]]:
    """Isotropic, covariance-matched and in-span random vectors, -theta, and theta at the base's norm."""
    generator, norms = job.generator(10 + MATCHES.index(name)), family.norm(dim=-1)
    texts = [*job.train, *job.held_out]
    prompts = job.setting.prompts(texts)
    site = job.setting.site
    activations = ordinary_activations(job.setting.model, prompts, site)
    isotropic = random_vectors(len(family), family.shape[1], 1.0, generator)
    return {
        "isotropic": with_norms(isotropic, norms),
        "covariance": with_norms(covariance_matched(activations, len(family), generator), norms),
        "span": with_norms(random_in_span(family, len(family), generator), norms),
        "negated": -family,
        "scaled_to_base": with_norms(family, torch.full_like(norms, float(base.norm()))),
    }


def measure_means(job: Job, yard: Yardstick, name: str, family: Float[Tensor, "k d_model"]) -> None:
    """Record the plain mean, the sqrt(n)-scaled mean and the sum of the first n vectors."""
    labels, vectors = [], []
    for n in (n for n in MEANS if n <= len(family)):
        for scale, factor in (("plain", 1.0), ("sqrt_n", n**0.5), ("sum", float(n))):
            labels.append({"kind": "mean", "match": name, "n": n, "scale": scale})
            vectors.append(family[:n].mean(0) * factor)
    if vectors:
        job.stage(
            f"{name} match: means",
            lambda: [{**label, **row} for label, row in zip(labels, measure(yard, torch.stack(vectors)), strict=True)],
            kind="mean",
            match=name,
        )


def shrink_family(
    job: Job,
    goal: Goal,
    name: str,
    family: Float[Tensor, "k d_model"],
    base: Float[Tensor, " d_model"],
) -> None:
    """Record for every eighth vector the shortest norm that keeps 95 % of its effect."""
    for index in range(0, len(family), 8):
        label: Row = {"kind": "shrunk", "match": name, "index": index}

        def compute(index: int = index, label: Row = label) -> list[Row]:
            avoid = Subspace(base[None] / base.norm()).extend(family[:index])
            result = shrink(goal, family[index], avoid)
            norms = {"norm": float(family[index].norm()), "norm_shrunk": float(result.vector.norm())}
            return [{**label, **norms, "goal": result.loss}]

        job.stage(f"{name} match: shrinking {index}", compute, **label)
        job.track(f"{name} match: shrinking", index + 1, len(family))


def predict_linear(job: Job, base: Float[Tensor, " d_model"]) -> None:
    """Record the losses and norms that conjugate gradients reach on a linear map with the measured Jacobian."""
    job.stage("linear null", lambda: _linear_rows(job, base), kind="linear_null")


def _linear_rows(job: Job, base: Float[Tensor, " d_model"]) -> list[Row]:
    job.say("linear null: measuring the Jacobian at 0")
    matrix = jacobian(job.z, torch.zeros_like(base))
    label: Row = {"kind": "linear_null", "match": "activation"}
    try:
        null = linear_null(matrix.cpu(), base.cpu(), max(job.config.n, min(job.config.n_kl, 128), 1))
    except ValueError as error:
        return [{**label, "index": 0, "loss": None, "norm": None, "problem": str(error)}]
    singular = torch.linalg.svdvals(matrix.double())
    efficiency = float((matrix.double() @ base.double()).norm() / (singular[0] * base.norm().double()))
    return [
        {**label, "index": index, "loss": loss, "norm": norm, "efficiency": efficiency}
        for index, (loss, norm) in enumerate(zip(null.losses.tolist(), null.norms.tolist(), strict=True))
    ]


def random_base(job: Job, base: Float[Tensor, " d_model"]) -> None:
    """Record control families around a random base, of the base's norm and of its displacement: is the base special?"""
    config, norm = job.config, float(base.norm())
    other = random_vectors(1, len(base), norm, job.generator(20))[0]
    for control, count in zip(RANDOM_BASES, (config.random_bases, config.displaced_bases), strict=True):
        for name in MATCHES:
            if count and (config.n if name == "activation" else config.n_kl):
                label: Row = {"kind": "control", "control": control, "match": name}

                def compute(name: str = name, count: int = count, label: Row = label) -> list[Row]:
                    as_far = label["control"] == "random_base_displaced"
                    start = other * displaced_as(job.z, base, other) if as_far else other
                    return [{**label, **row} for row in _random_base_rows(job, name, start, count)]

                job.stage(f"{name} match: {control.replace('_', ' ')}", compute, **label)


def displaced_as(z: ActivationMap, base: Float[Tensor, " d_model"], other: Float[Tensor, " d_model"]) -> float:
    """The factor at which `other` moves the target activations as far as the base does, at most 32.

    By doubling, then by bisection to a thousandth; displacements need not grow all the way, and the first factor is
    taken. What moves less at 32 times its length is left at that.
    """
    moves = displace(z, like=torch.zeros_like(base))
    with torch.no_grad():
        wanted = float(moves(base[None])[0])
        low, high = 0.0, 1.0
        while float(moves(high * other[None])[0]) < wanted and high < 32.0:
            low, high = high, 2.0 * high
        while high - low > 1e-3 * high and high < 32.0:
            middle = (low + high) / 2.0
            low, high = (middle, high) if float(moves(middle * other[None])[0]) < wanted else (low, middle)
    return high


def _random_base_rows(job: Job, name: str, other: Float[Tensor, " d_model"], count: int) -> list[Row]:
    """Measurements of a small family around the base `other`, one row a vector."""
    yard = yardstick(job.setting, job.train, other, match(job.z, other), answer_tokens=job.config.answer_tokens)
    goal = yard.activation if name == "activation" else yard.behaviour
    settings, curvature = preconditioned(job, goal, other, float(other.norm()), stream=21)
    settings = replace(settings, block=1, restarts=1)
    vectors: list[Tensor] = []
    for result in melbo_ortho(goal, other, seed=job.config.seed, settings=settings, curvature=curvature):
        vectors += [result.vector] if result.status not in (Status.COLLAPSED, Status.NONFINITE) else []
        job.track(f"{name} match: random base", len(vectors), count)
        if len(vectors) >= count:
            break
    rows = [row for part in torch.stack(vectors).split(BATCH) for row in measure(yard, part)] if vectors else []
    return [{"index": index, **row} for index, row in enumerate(rows)]

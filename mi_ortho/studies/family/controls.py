"""What a family is compared with: controls of its norms, averages, shorter norms, the linear null, a random base."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.derivatives.first import gauss_newton, jacobian
from mi_ortho.elicitation import Goal, melbo_ortho, random_vectors, shrink
from mi_ortho.elicitation.objectives import match
from mi_ortho.elicitation.search import Status
from mi_ortho.interventions.subspace import Subspace
from mi_ortho.model import ordinary_activations
from mi_ortho.nulls.chance import covariance_matched, random_in_span, with_norms
from mi_ortho.nulls.linear import linear_null
from mi_ortho.runs.rows import Row
from mi_ortho.steering import Yardstick, measure, yardstick
from mi_ortho.studies.family.finished import MATCHES, ortho_settings
from mi_ortho.studies.family.job import BATCH, Job, measured

MEANS = (2, 3, 5, 10, 20, 40)


def measure_controls(
    job: Job, yard: Yardstick, name: str, found: Float[Tensor, "k d_model"], base: Float[Tensor, " d_model"]
) -> None:
    """Record the same measurements for controls of the same norms as the family."""
    for control, vectors in control_vectors(job, found, base, name).items():
        label = {"kind": "control", "control": control, "match": name}
        # transfer is compared with one control; completions on every held-out prompt for all of them would cost most
        held_out = job.held_out if control == "isotropic" else ()
        measured(job, yard, vectors, label, f"{name} match: control {control}", held_out)


def control_vectors(
    job: Job, found: Float[Tensor, "k d_model"], base: Float[Tensor, " d_model"], name: str
) -> dict[str, Float[Tensor, "k d_model"]]:
    """Isotropic, covariance-matched and in-span random vectors, -theta, and theta at the base's norm."""
    generator, norms = job.generator(10 + MATCHES.index(name)), found.norm(dim=-1)
    texts = [*job.train, *job.held_out]
    prompts = job.setting.prompts(texts)
    site = job.setting.site
    activations = ordinary_activations(job.setting.model, prompts, site)
    isotropic = random_vectors(len(found), found.shape[1], 1.0, generator)
    return {
        "isotropic": with_norms(isotropic, norms),
        "covariance": with_norms(covariance_matched(activations, len(found), generator), norms),
        "span": with_norms(random_in_span(found, len(found), generator), norms),
        "negated": -found,
        "scaled_to_base": with_norms(found, torch.full_like(norms, float(base.norm()))),
    }


def measure_means(job: Job, yard: Yardstick, name: str, found: Float[Tensor, "k d_model"]) -> None:
    """Record the plain mean, the sqrt(n)-scaled mean and the sum of the first n vectors."""
    labels, vectors = [], []
    for n in (n for n in MEANS if n <= len(found)):
        for scale, factor in (("plain", 1.0), ("sqrt_n", n**0.5), ("sum", float(n))):
            labels.append({"kind": "mean", "match": name, "n": n, "scale": scale})
            vectors.append(found[:n].mean(0) * factor)
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
    found: Float[Tensor, "k d_model"],
    base: Float[Tensor, " d_model"],
) -> None:
    """Record for every eighth vector the shortest norm that keeps 95 % of its effect."""
    for index in range(0, len(found), 8):
        label: Row = {"kind": "shrunk", "match": name, "index": index}

        def compute(index: int = index, label: Row = label) -> list[Row]:
            avoid = Subspace(base[None] / base.norm()).extend(found[:index])
            result = shrink(goal, found[index], avoid)
            norms = {"norm": float(found[index].norm()), "norm_shrunk": float(result.vector.norm())}
            return [{**label, **norms, "goal": result.loss}]

        job.stage(f"{name} match: shrinking {index}", compute, **label)
        job.track(f"{name} match: shrinking", index + 1, len(found))


def predict_linear(job: Job, base: Float[Tensor, " d_model"]) -> None:
    """Record the losses and norms that a linear map with the measured Jacobian would give (conjugate gradients)."""
    job.stage("linear null", lambda: _linear(job, base), kind="linear_null")


def _linear(job: Job, base: Float[Tensor, " d_model"]) -> list[Row]:
    job.say("linear null: measuring the Jacobian at 0")
    measured = jacobian(job.z, torch.zeros_like(base))
    label: Row = {"kind": "linear_null", "match": "activation"}
    try:
        null = linear_null(measured.cpu(), base.cpu(), max(job.config.n, min(job.config.n_kl, 128), 1))
    except ValueError as error:
        return [{**label, "index": 0, "loss": None, "norm": None, "problem": str(error)}]
    singular = torch.linalg.svdvals(measured.double())
    efficiency = float((measured.double() @ base.double()).norm() / (singular[0] * base.norm().double()))
    return [
        {**label, "index": index, "loss": loss, "norm": norm, "efficiency": efficiency}
        for index, (loss, norm) in enumerate(zip(null.losses.tolist(), null.norms.tolist(), strict=True))
    ]


def random_base(job: Job, base: Float[Tensor, " d_model"]) -> None:
    """Record a control family grown from a random base of the same norm: is the chosen base special at all?"""
    if not job.config.random_bases:
        return
    other = random_vectors(1, len(base), float(base.norm()), job.generator(20))[0]
    for name in MATCHES:
        if job.config.n if name == "activation" else job.config.n_kl:
            label: Row = {"kind": "control", "control": "random_base", "match": name}
            job.stage(
                f"{name} match: random base",
                lambda name=name, label=label: [
                    {**label, **row} for row in _grown(job, name, other, float(base.norm()))
                ],
                **label,
            )


def _grown(job: Job, name: str, other: Float[Tensor, " d_model"], norm: float) -> list[Row]:
    """Measurements of a small family of another base."""
    count = job.config.random_bases
    yard = yardstick(job.setting, job.train, other, match(job.z, other), answer_tokens=job.config.answer_tokens)
    goal = yard.activation if name == "activation" else yard.behaviour
    settings = replace(ortho_settings(job.config, norm), block=1, restarts=1)
    curvature = gauss_newton(goal, other, generator=job.generator(21))
    found: list[Tensor] = []
    for result in melbo_ortho(goal, other, seed=job.config.seed, settings=settings, curvature=curvature):
        found += [result.vector] if result.status not in (Status.COLLAPSED, Status.NONFINITE) else []
        job.track(f"{name} match: random base", len(found), count)
        if len(found) >= count:
            break
    rows = [row for part in torch.stack(found).split(BATCH) for row in measure(yard, part)] if found else []
    return [{"index": index, **row} for index, row in enumerate(rows)]

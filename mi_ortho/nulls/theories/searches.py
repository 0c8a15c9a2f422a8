"""Theories that try vectors: T6 random frames on the effect itself, T8 the greedy search on an expansion of it."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.derivatives.second import effect_hessian
from mi_ortho.elicitation.objectives import FunctionMap, Match, Objective
from mi_ortho.elicitation.search import Feasible, Lbfgs, minimise, value_and_gradient
from mi_ortho.elicitation.starts import random_vectors
from mi_ortho.interventions.subspace import empty_subspace
from mi_ortho.nulls.theories.prediction import Prediction, start_value
from mi_ortho.nulls.theories.sphere import random_frames
from mi_ortho.stats import rate

AIM = 1.02  # how far above the threshold a search aims, so that what it finds reaches it
SOLVER = Lbfgs(max_steps=50, tolerance=1e-5)


@torch.no_grad()
def chance_in_frames(
    effect: Objective,
    like: Float[Tensor, " d_model"],
    norm: float,
    *,
    generator: torch.Generator,
    threshold: float = 0.5,
    samples: int = 256,
    chunk: int = 64,
) -> Prediction:
    """T6: the share of the members of random orthonormal frames, times the norm, that work, times d_model.

    So many vectors work, on average, in an orthogonal set taken blindly: the number that asks for no explanation, and a
    lower bound of the largest. The interval is the exact binomial one of the share, as if members of one frame were
    independent; for most effects they repel each other, which makes it wider than it need be. A forward pass a sample.

    Args:
        effect: maps (n, d_model) to (n,), rows independent.
        like: any vector of the space, for its width, dtype and device.
        norm: of every member.
        generator: of the frames.
        threshold: effect that counts as working.
        samples: members; d_model or a multiple fills whole frames.
        chunk: rows per pass.

    Raises:
        ValueError: no samples, or a norm that is not positive.
    """
    if samples < 1 or not norm > 0:
        raise ValueError(f"got samples={samples}, norm={norm}; expected both positive; 256 samples tell 1 % from 5 %")
    members = norm * random_frames(samples, like, generator)
    hits = sum(int((effect(part) >= threshold).sum()) for part in members.split(chunk))
    share, width = rate(hits, samples), len(like)
    low, high = share.interval or (0.0, 1.0)
    interval = (low * width, high * width)
    source = f"{hits} of {samples} members of random frames"
    return Prediction("T6", hits / samples * width, width, source, samples, interval=interval)


def greedy_family(
    effect: Objective,
    like: Float[Tensor, " d_model"],
    norm: float,
    *,
    generator: torch.Generator,
    threshold: float = 0.5,
    avoid: Float[Tensor, "k d_model"] | None = None,
    restarts: int = 4,
    patience: int = 10,
    solver: Lbfgs = SOLVER,
) -> Float[Tensor, "n d_model"]:
    """Mutually orthogonal vectors of at most this norm that reach the threshold, one after the other, to the last.

    The search of `melbo_ortho` on the effect itself: each vector comes from random starts of norm `norm` in the
    complement of those before it by projected L-BFGS. It aims at 2 % above the threshold, not at the largest effect, so
    that it uses up no more of a shared form than it needs, as the sets that reach Schur and Horn's count do. What does
    not work is dropped. Ends after `patience` failures in a row.

    Costs up to solver.max_steps + 7 forward and backward passes of `restarts` rows each vector.

    Args:
        effect: maps (n, d_model) to (n,), rows independent, differentiable.
        like: any vector of the space, for its width, dtype and device.
        norm: cap on every vector's norm.
        generator: of the starts.
        threshold: effect that counts as working.
        avoid: vectors all of them must be orthogonal to, such as the base.
        restarts: starts a vector.
        patience: failures in a row that end the family.
        solver: limits of each search.

    Raises:
        ValueError: an effect that reaches the threshold at 0, restarts or patience below 1, or a norm that is not
            positive.
    """
    if restarts < 1 or patience < 1 or not 0 < norm < math.inf:
        raise ValueError(f"got restarts={restarts}, patience={patience}, norm={norm}; expected positive numbers")
    goal = _level(effect, like, start_value(effect, like, threshold), threshold)
    taken = empty_subspace(len(like), dtype=like.dtype, device=like.device)
    taken = taken if avoid is None else taken.extend(avoid)
    kept, failures = list[Tensor](), 0
    solver = Lbfgs(solver.max_steps, solver.tolerance, solver.history, solver.max_step, norm)
    while len(taken) < len(like) and failures < patience:
        start = random_vectors(restarts, len(like), norm, generator).to(like)
        results = minimise(goal.smooth, start, Feasible(taken, max_norm=norm), solver)
        vectors = torch.stack([result.vector for result in results])
        with torch.no_grad():
            works = effect(vectors) >= threshold
        if not bool(works.any()):
            failures += 1
            continue
        best = vectors[int(works.int().argmax())][None]
        kept, failures, taken = [*kept, best], 0, taken.extend(best)
    return torch.cat(kept) if kept else like.new_zeros(0, len(like))


def _level(effect: Objective, like: Tensor, start: float, threshold: float) -> Match:
    """The goal of an effect a little above the threshold."""
    rise = AIM * (threshold - start)
    z = FunctionMap(lambda theta: effect(theta)[:, None], len(like))
    return Match(z, like.new_tensor([start + rise]), rise)


def second_order_model(effect: Objective, at: Float[Tensor, " d_model"], *, chunk: int = 64) -> Objective:
    """The effect's Taylor polynomial of degree 2 around one vector, as an effect.

    d_model passes of about two backward passes each; evaluating it costs no pass of the model.
    """
    hessian = effect_hessian(effect, at, chunk=chunk)
    value, slope = value_and_gradient(effect, at[None])

    def model(theta: Tensor) -> Tensor:
        step = theta - at
        return value + step @ slope[0] + ((step @ hessian) * step).sum(-1) / 2

    return model


def surrogate_search(
    effect: Objective,
    at: Float[Tensor, " d_model"],
    norm: float,
    *,
    generator: torch.Generator,
    threshold: float = 0.5,
    restarts: int = 4,
    patience: int = 10,
    chunk: int = 64,
) -> Prediction:
    """T8: how many vectors `greedy_family` finds on the effect's `second_order_model` at 0, or at the base.

    Unlike T2 it counts what a search reaches, and takes signs of the linear part and negative curvature as they are. An
    expansion at the base need not be below the threshold at 0; then the expansion says nothing and the count is 0.

    Args:
        effect: maps (n, d_model) to (n,), rows independent.
        at: where it is expanded.

    The others as `greedy_family`. d_model passes of about two backward passes each, and none for the search.
    """
    model = second_order_model(effect, at, chunk=chunk)
    with torch.no_grad():
        start = float(model(torch.zeros_like(at)[None])[0])
    settings = {"generator": generator, "threshold": threshold, "restarts": restarts, "patience": patience}
    count = len(greedy_family(model, at, norm, **settings)) if start < threshold else 0
    source = f"gradient and Hessian at norm {float(at.norm()):.3g}"
    return Prediction("T8", float(count), len(at), source, 2, 2 * len(at) + 2)

"""What a steering vector is searched for: maps from steering vectors to numbers, built on any activation map.

An `ActivationMap` is the one frozen function of the toolkit, z: steering vector -> activations. Objectives take many
steering vectors at once (leading axis n) and give one number for each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

Objective = Callable[[Float[Tensor, "n d_model"]], Float[Tensor, " n"]]


@runtime_checkable
class ActivationMap(Protocol):
    """z: a frozen, differentiable function of steering vectors.

    Attributes:
        d_model: width of the steering vectors it takes.

    Calling it with shape (*n, d_model) gives shape (*n, ...): the same trailing shape for every vector.
    """

    @property
    def d_model(self) -> int: ...

    def __call__(self, theta: Tensor) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class FunctionMap:
    """A plain function as an `ActivationMap`: `fn` maps (*n, d_model) to (*n, ...)."""

    fn: Callable[[Tensor], Tensor]
    d_model: int

    def __call__(self, theta: Tensor) -> Tensor:
        return self.fn(theta)


@dataclass(frozen=True, eq=False)
class LinearMap:
    """z(theta) = offset + J theta: what a map would be if it were its own first-order expansion.

    Args:
        jacobian: shape (m, d_model).
        offset: shape (m,).
    """

    jacobian: Float[Tensor, "m d_model"]
    offset: Float[Tensor, " m"]

    @property
    def d_model(self) -> int:
        """Width of the steering vectors."""
        return self.jacobian.shape[1]

    def __call__(self, theta: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n m"]:
        return self.offset + theta @ self.jacobian.mT


@torch.no_grad()
def unsteered(z: ActivationMap, like: Float[Tensor, "*n d_model"]) -> Tensor:
    """z(0), without a vector axis, on the device and in the dtype of `like`."""
    return z(like.new_zeros(1, z.d_model))[0]


@dataclass(frozen=True, eq=False)
class Displace:
    """MELBO's objective: how far a steering vector moves the target activations.

    sum_i (sum_t |z_it(theta) - z_it(0)|^p)^(1/q) over prompts i and token positions t, the norm over d_model
    (Mack and Turner 2024, "Mechanistically eliciting latent behaviors in language models"). Their published code takes
    the norm over tokens, which is the same only at p = 2.

    Build it with `displace(z)`.
    """

    z: ActivationMap
    baseline: Tensor
    p: float = 2.0
    q: float = 2.0

    def __call__(self, theta: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
        moved = self.z(theta) - self.baseline
        while moved.ndim < 4:  # a map without a prompt or a position axis has one of each
            moved = moved[:, None]
        # the square root has no gradient where nothing moved (theta = 0, padding)
        by_token = moved.square().sum(-1).clamp_min(torch.finfo(moved.dtype).tiny) ** (self.p / 2)
        return (by_token.sum(-1) ** (1 / self.q)).sum(-1)


def displace(z: ActivationMap, *, p: float = 2.0, q: float | None = None, like: Tensor | None = None) -> Displace:
    """MELBO's objective on z; q defaults to p, which makes it steeper where the effect is already large.

    z(0) is computed in the dtype and on the device of `like`; float32 on the CPU by default.

    Raises:
        ValueError: p < 1 or q < 1.
    """
    q = p if q is None else q
    if p < 1 or q < 1:
        raise ValueError(f"got p={p}, q={q}; expected both at least 1; the papers use p in (2, 4) and q in (1, p)")
    like = torch.zeros(z.d_model) if like is None else like
    return Displace(z, unsteered(z, like), p, q)


@dataclass(frozen=True, eq=False)
class Match:
    """MELBO-ortho's objective as a relative loss: |z(theta) - goal| / |z(0) - goal|, 0 perfect, 1 no effect.

    The published loss is the numerator for one prompt (Goldman-Wetzler and Turner 2024); over several prompts the norm
    is the root of the summed squares. Build it with `match(z, base)`.
    """

    z: ActivationMap
    goal: Tensor
    scale: float

    def residual(self, theta: Float[Tensor, "n d_model"]) -> Float[Tensor, "n m"]:
        """(z(theta) - goal) / |z(0) - goal|, flattened: half its square is what `smooth` gives."""
        return (self.z(theta) - self.goal).flatten(1) / self.scale

    def smooth(self, theta: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
        """Half the squared relative loss: the same minimiser, differentiable at the goal."""
        return self.residual(theta).square().sum(-1) / 2

    def __call__(self, theta: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
        return self.residual(theta).norm(dim=-1)


def match(z: ActivationMap, base: Float[Tensor, " d_model"]) -> Match:
    """The objective "do to the target activations what `base` does".

    Raises:
        ValueError: z(base) is not finite or equals z(0): then there is nothing to reproduce.
    """
    check_width(z, base)
    with torch.no_grad():
        goal = z(base[None])[0]
    scale = float((goal - unsteered(z, base)).norm())
    if not 0 < scale < float("inf"):
        remedy = "a larger radius or a later target" if scale == 0 else "a smaller radius, or blocks in float32"
        raise ValueError(
            f"got a base vector of norm {float(base.norm()):.3g} that moves the target activations by {scale}; "
            f"expected a finite, non-zero effect; take {remedy}"
        )
    return Match(z, goal, scale)


def check_width(z: ActivationMap, base: Float[Tensor, " d_model"]):
    """Refuse a vector of another width than the map's."""
    if len(base) != z.d_model:
        raise ValueError(
            f"got a base vector of width {len(base)}; expected {z.d_model}, the model's; "
            "take a vector that was made for this model"
        )


@dataclass(frozen=True, eq=False)
class MatchDistribution:
    """Reproduce the effect on behaviour: mean KL(p_goal || p_theta) in nats over answer positions.

    z must give logits, shape (..., positions, d_vocab). Where the source vector survives the skip connections into the
    target activations, no orthogonal vector can meet the activation loss; this one asks only for the same next-token
    distributions. Build it with `match_distribution(z, base)`.
    """

    z: ActivationMap
    goal: Float[Tensor, "positions d_vocab"]
    real: Float[Tensor, " positions"]

    def residual(self, theta: Float[Tensor, "n d_model"]) -> Float[Tensor, "n m"]:
        """sqrt(p_goal / positions) * (log p_theta - log p_goal): its Gauss-Newton matrix is the Fisher information."""
        difference = (self._log_p(theta) - self.goal) * self.goal.div(2).exp()
        return (difference * (self.real / self.real.sum()).sqrt()[:, None]).flatten(1)

    def smooth(self, theta: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
        """The KL divergence itself: it is smooth."""
        return self(theta)

    def __call__(self, theta: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
        by_position = (self.goal.exp() * (self.goal - self._log_p(theta))).sum(-1)
        return (by_position * self.real).sum(-1) / self.real.sum()

    def _log_p(self, theta: Float[Tensor, "n d_model"]) -> Float[Tensor, "n positions d_vocab"]:
        return rearrange(self.z(theta), "n ... vocab -> n (...) vocab").log_softmax(-1)


def match_distribution(
    z: ActivationMap, base: Float[Tensor, " d_model"], *, real: Tensor | None = None
) -> MatchDistribution:
    """The objective "predict what the model steered with `base` predicts".

    Args:
        z: a map to logits.
        base: the vector whose next-token distributions are the goal.
        real: which answer positions count, any shape with as many entries as z has positions; all by default.

    Raises:
        ValueError: logits that are not finite, or a `real` that fits no position.
    """
    check_width(z, base)
    with torch.no_grad():
        goal = rearrange(z(base[None])[0], "... vocab -> (...) vocab").log_softmax(-1)
    if not torch.isfinite(goal).all():
        raise ValueError("got logits with NaN or infinity under the base vector; expected finite ones; lower its norm")
    weights = torch.ones(len(goal), device=goal.device) if real is None else real.flatten()
    if len(weights) != len(goal):
        raise ValueError(f"got {len(weights)} flags in real; expected {len(goal)}, one for each position of the map")
    if not bool(weights.any()):
        raise ValueError("got no real position to match; expected at least one; give the prompts an answer")
    return MatchDistribution(z, goal, weights.to(goal))


@dataclass(frozen=True, eq=False)
class Penalised:
    """An objective plus an L2 penalty: smooth(theta) + weight * |theta|^2 / radius^2 / 2.

    Proposed by Goldman-Wetzler and Turner (2024) to keep the orthogonal vectors as short as their base.
    """

    objective: Match | MatchDistribution
    weight: float
    radius: float

    def __post_init__(self):
        if not (self.weight >= 0 and self.radius > 0):
            raise ValueError(
                f"got weight={self.weight}, radius={self.radius}; expected weight >= 0 and radius > 0; "
                "a weight of 0.01 to 0.1 and the base's norm are a good start"
            )

    def residual(self, theta: Float[Tensor, "n d_model"]) -> Float[Tensor, "n m"]:
        """The objective's residual followed by the penalty's."""
        penalty = theta * (self.weight**0.5 / self.radius)
        return torch.cat([self.objective.residual(theta), penalty], dim=-1)

    @property
    def z(self) -> ActivationMap:
        """The objective's map."""
        return self.objective.z

    def smooth(self, theta: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
        """What is minimised."""
        return self.objective.smooth(theta) + self.weight / 2 * (theta / self.radius).square().sum(-1)

    def __call__(self, theta: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
        return self.objective(theta)

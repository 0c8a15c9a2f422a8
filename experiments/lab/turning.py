"""Bringing states to an angle: by a turn in a fixed plane, by adding a direction, by length alone."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from experiments.lab.refusing import Refusing, refuses
from mi_ortho import Intervention, generate, next_token_logits, resid_pre, tokenize
from mi_ortho.refusal import instruction_suffix, steering_plane

Behave = Callable[[Intervention], Tensor]


def turned(x: Tensor, plane: Tensor, degrees: float) -> Tensor:
    """The part of each state inside the plane (orthonormal rows) set to an angle from its first row, length kept.

    Angles from 0 to 180 lie on the side of the first row where the state is, those from 180 to 360 on the other.
    """
    first, second = (x @ plane.mT).unbind(-1)
    length, angle = torch.hypot(first, second), math.radians(degrees)
    side = torch.where(second < 0, -1.0, 1.0)
    moves = torch.stack([length * math.cos(angle) - first, side * length * math.sin(angle) - second], dim=-1)
    return x + moves @ plane


def cosine_after(x: Tensor, plane: Tensor, degrees: float) -> Tensor:
    """The cosine of each state with the plane's first row after `turned`."""
    return (x @ plane.mT).norm(dim=-1) / x.norm(dim=-1) * math.cos(math.radians(degrees))


def added(x: Tensor, axis: Tensor, cosine: Tensor | float) -> Tensor:
    """Each state plus that multiple of a unit axis which gives it this cosine with the axis (strictly inside -1, 1)."""
    along = x @ axis
    across = (x - along[..., None] * axis).norm(dim=-1)
    goal = torch.as_tensor(cosine).to(x)
    return x + (across * goal / (1.0 - goal**2).sqrt() - along)[..., None] * axis


def added_in_plane(x: Tensor, plane: Tensor, degrees: float) -> Tensor:
    """Each state plus that multiple of the plane's first row which brings its part in the plane to an angle.

    The angle lies strictly between 0 and 180 degrees: no multiple brings a state to the other side.
    """
    first, second = (x @ plane.mT).unbind(-1)
    return x + (second.abs() / math.tan(math.radians(degrees)) - first)[..., None] * plane[0]


def with_length_of(x: Tensor, like: Tensor) -> Tensor:
    """Each state x, as long as the one in its place in `like`."""
    return x * (like.norm(dim=-1) / x.norm(dim=-1))[..., None]


def plane_of(study: Refusing, layer: int) -> Tensor:
    """Two rows: the direction read at a block's input, and where the directions of all blocks vary most beside it."""
    directions = study.found.differences[:, 0].float()
    return steering_plane(study.direction(layer), directions[directions.norm(dim=-1) > 1e-6])


def steered(study: Refusing, texts: tuple[str, ...], layer: int) -> Behave:
    """Next-token logits as a function of what is done to the states after the instruction at a block's input.

    Those are the tokens of the chat template that follow it; the last token where the model has no template.
    """
    prompts, where = tokenize(study.model, list(texts)), _after_instruction(study)

    def behave(change: Intervention) -> Tensor:
        return next_token_logits(study.model, prompts, interventions={resid_pre(layer): change}, where=where)

    return behave


def refused_under(
    study: Refusing, texts: tuple[str, ...], layer: int, tokens: int
) -> Callable[[Intervention], list[float]]:
    """Whether each prompt is refused (1 or 0; greedy, judged) as a function of what is done there; see `steered`."""
    prompts, where = tokenize(study.model, list(texts)), _after_instruction(study)

    def behave(change: Intervention) -> list[float]:
        edits = {resid_pre(layer): change}
        written = generate(study.model, prompts, edits, where=where, max_new_tokens=tokens)
        return [float(refuses(study.bench, text)) for text in written]

    return behave


def _after_instruction(study: Refusing) -> int:
    """How many tokens at the end of a prompt are no longer the user's."""
    try:
        return len(instruction_suffix(study.model).ids)
    except ValueError:
        return 1

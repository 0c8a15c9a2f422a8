"""Which positions of a prompt and its answer: one vocabulary for steering and reading, in settings and in Python."""

import re

import torch
from jaxtyping import Bool
from torch import Tensor

from mi_ortho.model.prompts import ROLES, Prompts

Where = str | int
WORDS = ("all", "prompt", "generated", "not_first", *ROLES)
EVERYWHERE = ("all", "generated", "not_first")  # the words that generated positions belong to, too
_RANGE = re.compile(r"(-?\d+)?:(-?\d+)?", re.ASCII)
TOLD = (
    "all, prompt, generated, not_first, a role (system, user, assistant), a range a:b of prompt positions, or a number "
    "of last prompt positions from 1"
)


def positions_of(text: str, name: str = "where") -> Where:
    """Positions as settings name them: a word, a range or a number, several of them with + between.

    - `all`: every position; `prompt`: those of the prompt; `generated`: those after it, teacher-forced answers too;
    - `not_first`: all but each prompt's first token;
    - `system`, `user`, `assistant`: of the prompt what comes before the user's text, that text, and what comes after it
      up to the answer (the tag that opens it);
    - `a:b`: positions a to b - 1 of each prompt, from 0 at its first token, negative from its end, as in Python;
    - a number k: the last k positions of the prompt.

    >>> positions_of("prompt"), positions_of("3"), positions_of("user+generated"), positions_of("2:-1")
    ('prompt', 3, 'user+generated', '2:-1')

    Raises:
        ValueError: anything else.
    """
    parts = text.split("+")
    if not all(part in WORDS or _is_number(part) or (_RANGE.fullmatch(part) and len(part) > 1) for part in parts):
        raise ValueError(f"got {name} {text!r}; expected {TOLD}; correct it")
    return int(text) if _is_number(text) else text


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) > 0


def includes_generated(where: Where) -> bool:
    """Whether positions that the model writes belong to it."""
    return isinstance(where, str) and any(part in EVERYWHERE for part in where.split("+"))


def chosen_columns(prompts: Prompts, where: Where, start: int, width: int) -> Bool[Tensor, "batch width"]:
    """Which of the columns `start .. start + width` belong to it, sinks and padding left out.

    Columns after the prompts' own are generated ones.
    """
    columns = torch.zeros_like(prompts.mask)
    for part in str(where).split("+"):
        columns |= _columns(prompts, part)
    columns &= prompts.active
    inside = columns[:, start : start + width]
    return torch.nn.functional.pad(inside, (0, width - inside.shape[1]), value=includes_generated(where))


def _columns(prompts: Prompts, part: str) -> Bool[Tensor, "batch pos"]:
    """Which columns one part means, those without a token included where that is simpler."""
    column = torch.arange(prompts.mask.shape[1], device=prompts.mask.device).expand_as(prompts.mask)
    in_prompt = column < prompts.prompt_length
    if part == "all":
        return prompts.mask
    if part == "prompt":
        return in_prompt
    if part == "generated":
        return ~in_prompt
    # each prompt's own positions: padding stands on the left
    place = column - (~prompts.mask[:, : prompts.prompt_length]).sum(dim=1, keepdim=True)
    if part == "not_first":
        return place > 0
    if part in ROLES:
        assert prompts.roles is not None
        answers = prompts.mask.shape[1] - prompts.prompt_length
        return torch.nn.functional.pad(prompts.roles, (0, answers), value=-1) == ROLES.index(part)
    if ":" not in part:
        return in_prompt & (column >= prompts.prompt_length - int(part))
    length = prompts.mask[:, : prompts.prompt_length].sum(dim=1, keepdim=True)
    first, end = (int(edge) if edge else None for edge in part.split(":"))
    low = 0 if first is None else first if first >= 0 else length + first
    high = length if end is None else end if end >= 0 else length + end
    return in_prompt & (place >= low) & (place < high) & (place >= 0)


def require_where(where: Where, prompts: Prompts | None) -> None:
    """Raises ValueError for positions the prompts do not have, for a wrong name, and for positions without prompts."""
    if isinstance(where, str):
        where = positions_of(where)
    numbers = [int(part) for part in str(where).split("+") if ":" not in part and part not in WORDS]
    if any(number < 1 or (prompts is not None and number > prompts.prompt_length) for number in numbers):
        top = "the prompt length" if prompts is None else str(prompts.prompt_length)
        raise ValueError(f"got where={where}; expected a number of prompt tokens from 1 to {top}; choose one")
    if where != "all" and prompts is None:
        raise ValueError(
            f"got where={where!r} without prompts; expected the prompts, which say where they end; pass prompts="
        )
    if prompts is None or where == "all":
        return
    if prompts.roles is None and any(part in ROLES for part in str(where).split("+")):
        raise ValueError(
            f"got where={where!r} for prompts whose tokens do not tell which text they are of; expected a tokenizer "
            "with character offsets; give a range such as 4:-2"
        )
    if not includes_generated(where):
        empty = ~chosen_columns(prompts, where, 0, prompts.prompt_length).any(dim=1)
        if bool(empty.any()):
            row = int(empty.nonzero()[0])
            raise ValueError(
                f"got where={where!r}, which holds no position of prompt {row} of {int(prompts.mask[row].sum())} "
                "tokens; expected at least one that is no sink; choose others"
            )

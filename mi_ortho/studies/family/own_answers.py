"""A base whose behaviour no rule names: what it makes the model write is what others are compared with."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mi_ortho.behaviours import ALIKE, INCOHERENT, likeness
from mi_ortho.steering import judged_by_answers
from mi_ortho.studies.family.job import Job


def require_effect(job: Job, row: Mapping[str, Any], unsteered_row: Mapping[str, Any]) -> None:
    """Raise ValueError for the user's own base where the model writes the same without it, or nobody could read it."""
    text, mode = str(row["text"]), row["mode"]
    same = mode == unsteered_row["mode"] and likeness(text, str(unsteered_row["text"])) >= ALIKE
    if same or mode == INCOHERENT:
        reason = "the model writes without it too" if same else "is incoherent"
        raise ValueError(
            f"got base {job.config.base}, which makes the model write {text[:60]!r} on {job.train[0]!r}, which "
            f"{reason}; expected another answer; take another base, norm, prompt or --max-new-tokens"
        )


def with_own_answers(job: Job, base: Float[Tensor, " d_model"]) -> Job:
    """The job, its rules led by a comparison with the base's own answers where no rule names what the base changes.

    Only the user's own base can be such: of MELBO's candidates, one is chosen that a rule names.
    """
    mode, unsteered_mode = job.rows(kind="melbo")[0]["mode"], job.rows(kind="unsteered")[0]["mode"]
    if not job.config.base or (mode in job.setting.modes.behaviours and mode != unsteered_mode):
        return job
    job.say(f"no rule names what the base changes ({mode}): answers are compared with the base's own")
    return replace(job, setting=judged_by_answers(job.setting, [*job.train, *job.held_out], base))

"""Chat templates are programs that come with a model: rendered with a bound on their steps."""

import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, no_type_check

STEPS = 200_000  # lines and calls of one rendering; those of known models take some hundreds


class EndlessTemplate(ValueError):
    """A chat template takes more steps than any sensible one."""


def render(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> str:
    """The messages in the tokenizer's chat template, the beginning of the answer included.

    Counts steps instead of seconds, so that a busy machine decides nothing. What one step may take, a huge power or a
    huge text for example, is not bounded.

    Raises:
        EndlessTemplate: the template takes more than `STEPS` steps.
    """
    left = STEPS

    @no_type_check  # checking its types at every step would cost ten times the step
    def step(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise EndlessTemplate(
                f"got a chat template that takes more than {STEPS:,} steps; expected one "
                "that ends; correct the model's chat_template, or take its text out of it with template=False"
            )
        # lines are counted in the template itself (jinja names its code so), elsewhere calls only
        return step if frame.f_code.co_filename == "<template>" else None

    before = sys.gettrace()
    sys.settrace(step)
    try:
        return str(tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False))
    finally:
        sys.settrace(before)

"""Chat templates are programs that come with a model: rendered with bounds on their steps and on what a step makes."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from threading import RLock
from types import FrameType
from typing import Any, no_type_check

from transformers.utils import chat_template_utils

from mi_ortho.model.bounds import LARGEST, EndlessTemplate, bounded

__all__ = ["STEPS", "EndlessTemplate", "render"]

STEPS = 200_000  # lines and calls of one rendering; those of known models take some hundreds
_ONE = RLock()  # one rendering at a time: the compiler of templates is exchanged meanwhile
_COMPILER = "_compile_jinja_template"


def render(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> str:
    """The messages in the tokenizer's chat template, the beginning of the answer included.

    Counts steps instead of seconds, so that a busy machine decides nothing.

    Raises:
        EndlessTemplate: the template takes more than `STEPS` steps, or makes something larger than any prompt.
    """
    remaining = STEPS

    @no_type_check  # checking its types at every step would cost ten times the step
    def step(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal remaining
        remaining -= 1
        if remaining < 0:
            raise EndlessTemplate(
                f"got a chat template that takes more than {STEPS:,} steps; expected one "
                "that ends; correct the model's chat_template, or take its text out of it with template=False"
            )
        # lines are counted in the template itself (jinja names its code so), elsewhere calls only
        return step if frame.f_code.co_filename == "<template>" else None

    before = sys.gettrace()
    with _ONE, _bounds():
        sys.settrace(step)
        try:
            return str(tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False))
        finally:
            sys.settrace(before)


@contextmanager
def _bounds() -> Iterator[None]:
    """Inside the context templates are compiled for a bounded environment; each rendering has the whole allowance."""
    before: Any = getattr(chat_template_utils, _COMPILER)

    def compiler(template: str) -> Any:
        compiled = _compile(before, template)
        compiled.environment.allowance = LARGEST
        return compiled

    setattr(chat_template_utils, _COMPILER, compiler)
    try:
        yield
    finally:
        setattr(chat_template_utils, _COMPILER, before)


@lru_cache(16)
def _compile(compiler: Any, template: str) -> Any:
    return bounded(compiler("").environment).from_string(template)

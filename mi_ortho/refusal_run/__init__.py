"""The stages of the command `refusal`: extract, select, ablate, compare. Each skips what is recorded."""

from mi_ortho.refusal_run.compare import compare
from mi_ortho.refusal_run.directions import choose, extract
from mi_ortho.refusal_run.findings import summarise
from mi_ortho.refusal_run.study import Sets, Study, prompt_sets
from mi_ortho.refusal_run.trial import try_out

__all__ = ["Sets", "Study", "choose", "compare", "extract", "prompt_sets", "summarise", "try_out"]

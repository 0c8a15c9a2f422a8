"""A command's output is the command's own: no warnings, log lines or progress bars of the libraries below."""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator

# read by the libraries when they are imported, which is after this
SWITCHES = ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")


@contextlib.contextmanager
def only_our_lines() -> Iterator[None]:
    """Silence the libraries' output below errors; `python -W` or PYTHONWARNINGS brings the warnings back."""
    for switch in SWITCHES:
        os.environ.setdefault(switch, "1")
    below = logging.root.manager.disable
    logging.disable(max(below, logging.WARNING))
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                # not a filter: libraries put theirs in front of it when they are imported
                warnings.showwarning = lambda *_, **__: None
            yield
    finally:
        logging.disable(below)

"""One folder a command: its settings, stages, verdicts and page. All names are lazy, so settings load without torch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
